"""The GPU as the NCCL communicator needs it: arrays, streams and events, by CuPy.

Streams and events are CuPy's own objects, of which `Stream` and `Event` name the part in use. CuPy
keeps freed memory for the stream on which it was allocated: what one stream alone uses may be
dropped at once, what two use is to be kept until the second is done with it.
"""

import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import DTypeLike

from holdfast.collectives.communicator import Array
from holdfast.errors import MissingDependency, UsageError


class Event(Protocol):
    """A point in the work of a stream."""

    @property
    def done(self) -> bool:
        """Whether the GPU has come past it."""


class Stream(Protocol):
    """Work that the GPU does in order; as a context, the current stream of this thread."""

    @property
    def ptr(self) -> int:
        """The cudaStream_t."""

    def record(self, event: Any) -> Any:
        """Put `event` behind all work so far."""

    def wait_event(self, event: Any) -> None:
        """Let all later work wait for `event`; the host does not."""

    def __enter__(self) -> Any: ...
    def __exit__(self, *error: object) -> Any: ...


class Gpu(Protocol):
    """One GPU. Memory and copies are ordered by the current stream of the calling thread."""

    identity: str
    """Tells this GPU from the others of its host: its PCI address."""

    def selected(self) -> AbstractContextManager[Any]:
        """Make this GPU the calling thread's current one."""

    def holds(self, x: object) -> bool:
        """Return whether `x` is an array in this GPU's memory."""

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of undefined values."""

    def zeros(self, count: int, dtype: DTypeLike) -> Array:
        """Return a flat array of zeros."""

    def contiguous(self, x: Array) -> Array:
        """Return `x` if it is contiguous in C order, else such a copy."""

    def copy(self, into: Array, x: Array) -> None:
        """Overwrite `into` with `x`, of the same size."""

    def overlap(self, x: Array, y: Array) -> bool:
        """Return whether the two may share memory."""

    def pointer(self, x: Array) -> int:
        """Return where `x` begins."""

    def new_stream(self) -> Stream:
        """Return a stream that does not wait for the legacy default stream."""

    def current_stream(self) -> Stream:
        """Return the stream of this GPU that is the calling thread's current one."""

    def new_event(self) -> Any:
        """Return an event, for `Stream.record`."""


class CupyGpu:
    """The current GPU of the thread that makes it, by CuPy."""

    def __init__(self) -> None:
        """Raise MissingDependency without CuPy, UsageError where it sees no GPU."""
        try:
            self._cupy = importlib.import_module("cupy")
        except ImportError as error:
            raise MissingDependency(
                "transport nccl needs CuPy, which is not installed: pip install 'holdfast[cuda13]' "
                "(or 'holdfast[cuda12]' for a driver of CUDA 12)"
            ) from error
        cuda = self._cupy.cuda
        if not cuda.is_available():
            raise UsageError(
                "transport nccl needs a GPU, and none is to be seen: take --transport tcp or shm"
            )
        self._device = cuda.Device()
        self.identity = str(cuda.runtime.deviceGetPCIBusId(self._device.id))

    def selected(self) -> AbstractContextManager[Any]:
        """Make this GPU the calling thread's current one."""
        device: AbstractContextManager[Any] = self._cupy.cuda.Device(self._device.id)
        return device

    def holds(self, x: object) -> bool:
        """Return whether `x` is CuPy's and on this GPU."""
        return isinstance(x, self._cupy.ndarray) and x.device.id == self._device.id

    def empty(self, shape: int | Sequence[int], dtype: DTypeLike) -> Array:
        """Return an array of undefined values."""
        with self.selected():
            array: Array = self._cupy.empty(shape, dtype)
        return array

    def zeros(self, count: int, dtype: DTypeLike) -> Array:
        """Return a flat array of zeros."""
        with self.selected():
            array: Array = self._cupy.zeros(count, dtype)
        return array

    def contiguous(self, x: Array) -> Array:
        """Return `x` if it is contiguous in C order, else such a copy."""
        array: Array = self._cupy.ascontiguousarray(x)
        return array

    def copy(self, into: Array, x: Array) -> None:
        """Overwrite `into` with `x`, of the same size."""
        into[...] = x.reshape(into.shape)

    def overlap(self, x: Array, y: Array) -> bool:
        """Return whether the two may share memory."""
        return bool(self._cupy.may_share_memory(x, y))

    def pointer(self, x: Array) -> int:
        """Return where `x` begins."""
        memory: Any = x.data
        return int(memory.ptr)

    def new_stream(self) -> Stream:
        """Return a stream that does not wait for the legacy default stream."""
        with self.selected():
            stream: Stream = self._cupy.cuda.Stream(non_blocking=True)
        return stream

    def current_stream(self) -> Stream:
        """Return the calling thread's current stream."""
        with self.selected():
            stream: Stream = self._cupy.cuda.get_current_stream()
        return stream

    def new_event(self) -> Any:
        """Return an event without a clock, which is the cheaper kind."""
        with self.selected():
            return self._cupy.cuda.Event(disable_timing=True)
