"""The seam to NCCL: the dozen calls that are needed, and the two bindings that make them.

`nccl4py` is NVIDIA's own. Its low-level module takes pointers, which spares what the other one does
for each call (look the array up, import PyTorch if it is there). `pynccl` 0.1.2 is written against
NCCL 2.7.8: it declares counts as 32-bit, has no bfloat16, no mean, no non-blocking communicators
and no shrink. Whatever the binding, an answer other than success or in progress is an `NcclError`.
"""

import ctypes
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from holdfast.collectives.nccl.plan import Abilities
from holdfast.collectives.nccl.state import Result
from holdfast.errors import MissingDependency, UsageError

log = logging.getLogger("holdfast.nccl")

ID_BYTES = 128
"""The size of NCCL's unique id (`NCCL_UNIQUE_ID_BYTES`)."""
_INSTALL = "pip install 'holdfast[cuda13]' (or 'holdfast[cuda12]' for a driver of CUDA 12)"
_SHRINK_ABORT = 1  # NCCL_SHRINK_ABORT: end what the parent has in flight first


class NcclError(Exception):
    """A call of the library failed; becomes a CommunicationError in `nccl/state.py`."""

    def __init__(self, result: Result, detail: str) -> None:
        super().__init__(f"{result.name}: {detail}")
        self.result = result
        self.detail = detail


class Binding(Protocol):
    """NCCL's calls, on pointers of the GPU (int), for one communicator handle at a time.

    `kind` and `op` are NCCL's codes (`nccl/plan.py`), `stream` is a cudaStream_t. All raise
    NcclError. The caller sees to it that no two threads use a handle at a time.
    """

    name: str
    abilities: Abilities

    def unique_id(self) -> bytes:
        """Return a fresh id, of `ID_BYTES`, with which one group of ranks finds itself."""

    def init(self, world_size: int, rank: int, unique_id: bytes) -> Any:
        """Begin a communicator on the current GPU; return its handle."""

    def async_error(self, handle: Any) -> tuple[Result, str]:
        """Return how the communicator is, and NCCL's text where that is an error."""

    def abort(self, handle: Any) -> None:
        """Break off what is in flight and release the handle."""

    def finalize(self, handle: Any) -> None:
        """Begin to let everything in flight end."""

    def destroy(self, handle: Any) -> None:
        """Release a handle that was finalized."""

    def shrink(self, handle: Any, excluded: Sequence[int]) -> Any:
        """Abort what is in flight, begin a communicator without `excluded`; return its handle."""

    def group_start(self) -> None:
        """Begin a group of calls."""

    def group_end(self) -> None:
        """Hand the calls of the group to the library."""

    def all_reduce(
        self, source: int, target: int, count: int, kind: int, op: int, handle: Any, stream: int
    ) -> None:
        """`ncclAllReduce`."""

    def reduce_scatter(
        self, source: int, target: int, count: int, kind: int, op: int, handle: Any, stream: int
    ) -> None:
        """`ncclReduceScatter`; `count` is a rank's."""

    def all_gather(
        self, source: int, target: int, count: int, kind: int, handle: Any, stream: int
    ) -> None:
        """`ncclAllGather`; `count` is a rank's."""

    def broadcast(
        self, source: int, target: int, count: int, kind: int, root: int, handle: Any, stream: int
    ) -> None:
        """`ncclBroadcast`; the source is looked at on the root only."""

    def reduce(
        self,
        source: int,
        target: int,
        count: int,
        kind: int,
        op: int,
        root: int,
        handle: Any,
        stream: int,
    ) -> None:
        """`ncclReduce`; the target is looked at on the root only."""

    def send(self, source: int, count: int, kind: int, peer: int, handle: Any, stream: int) -> None:
        """`ncclSend`; always within a group."""

    def recv(self, target: int, count: int, kind: int, peer: int, handle: Any, stream: int) -> None:
        """`ncclRecv`; always within a group."""


def parse_version(code: int) -> tuple[int, int, int]:
    """Return major, minor and patch of `ncclGetVersion`'s code, which changed its form at 2.9."""
    base = 10000 if code >= 10000 else 1000
    return code // base, code % base // 100, code % 100


class Nccl4py:
    """NVIDIA's binding, by its low-level module `nccl.bindings.nccl`."""

    name = "nccl4py"

    def __init__(self) -> None:
        """Load the binding and the library; MissingDependency if either is not there."""
        try:
            self._nccl = importlib.import_module("nccl.bindings.nccl")
            version = parse_version(self._nccl.get_version())
        except (ImportError, RuntimeError) as error:  # the library is looked for at the first call
            raise MissingDependency(
                f"transport nccl needs nccl4py and NCCL, which cannot be loaded ({error}): "
                f"{_INSTALL}"
            ) from error
        if version < (2, 14, 0):
            raise MissingDependency(
                f"NCCL 2.14 or newer was expected, for communicators that can be aborted; found "
                f"{'.'.join(map(str, version))}: {_INSTALL}"
            )
        self.abilities = Abilities(
            version, 2**63 - 1, False, mean=True, bfloat16=True, shrink=version >= (2, 27, 0)
        )
        config = self._nccl.Config()
        config.blocking = 0
        self._config = config
        self.group_start: Callable[[], None] = self._guarded("group_start")
        self.group_end: Callable[[], None] = self._guarded("group_end")
        self.all_reduce = self._guarded("all_reduce")
        self.reduce_scatter = self._guarded("reduce_scatter")
        self.all_gather = self._guarded("all_gather")
        self.broadcast = self._guarded("broadcast")
        self.reduce = self._guarded("reduce")
        self.send = self._guarded("send")
        self.recv = self._guarded("recv")
        self.abort = self._guarded("comm_abort")
        self.finalize = self._guarded("comm_finalize")
        self.destroy = self._guarded("comm_destroy")

    def unique_id(self) -> bytes:
        """Return a fresh id; this rank listens for the others from then on."""
        return bytes(self._guarded("get_unique_id")())

    def init(self, world_size: int, rank: int, unique_id: bytes) -> Any:
        """Begin a non-blocking communicator on the current GPU."""
        known = self._nccl.UniqueId.from_buffer(bytearray(unique_id))
        begin = self._guarded("comm_init_rank_config")
        return begin(world_size, known.ptr, rank, self._config.ptr)

    def async_error(self, handle: Any) -> tuple[Result, str]:
        """Return how the communicator is, and NCCL's last error where that is one."""
        result = Result(self._guarded("comm_get_async_error")(handle))
        if result in (Result.SUCCESS, Result.IN_PROGRESS):
            return result, ""
        return result, str(self._nccl.get_last_error(handle)).strip()

    def shrink(self, handle: Any, excluded: Sequence[int]) -> Any:
        """Begin the smaller communicator, with the configuration of the first.

        The handle that is returned is filled in by the library, later: keep it.
        """
        begin = self._guarded("comm_shrink")
        return begin(handle, list(excluded), len(excluded), 0, _SHRINK_ABORT)

    def _guarded(self, name: str) -> Callable[..., Any]:
        """Return the binding's function with its errors turned into ours."""
        call, theirs = getattr(self._nccl, name), self._nccl.NCCLError

        def guarded(*arguments: Any) -> Any:
            try:
                return call(*arguments)
            except theirs as error:
                raise NcclError(Result(error.status), f"{name}: {error}") from error

        return guarded


class PyNccl:
    """`pynccl` 0.1.2, for those who have it: the plain collectives.

    Its communicators block: a call waits on the host for peers that are late, and the deadline
    holds only for what is on the GPU already. It finds the library by NUMBA_NCCLLIB, the folder
    of `libnccl.so.2`.
    """

    name = "pynccl"

    def __init__(self) -> None:
        """Load the binding and the library; MissingDependency if either is not there."""
        try:
            self._pynccl = importlib.import_module("pynccl.binding")
            self._nccl = self._pynccl.libnccl()
        except Exception as error:  # pynccl raises a plain Exception where it finds no library
            raise MissingDependency(
                f"transport pynccl needs pynccl, Numba and NCCL, which cannot be loaded ({error}): "
                "pip install pynccl numba, and set NUMBA_NCCLLIB to the folder of libnccl.so.2; or "
                f"take nccl4py: {_INSTALL}"
            ) from error
        code = ctypes.c_int()
        self._call("ncclGetVersion", ctypes.byref(code))
        self.abilities = Abilities(
            parse_version(code.value), 2**31 - 1, True, mean=False, bfloat16=False, shrink=False
        )

    def unique_id(self) -> bytes:
        """Return a fresh id; pynccl's structure is longer than NCCL's, the rest of it is unused."""
        unique = self._pynccl.ncclUniqueId()
        self._call("ncclGetUniqueId", ctypes.byref(unique))
        return bytes(unique)[:ID_BYTES]

    def init(self, world_size: int, rank: int, unique_id: bytes) -> Any:
        """Make a communicator on the current GPU; returns when all ranks have come."""
        kind = self._pynccl.ncclUniqueId
        unique = kind.from_buffer_copy(unique_id.ljust(ctypes.sizeof(kind), b"\0"))
        handle = ctypes.c_void_p()
        self._call("ncclCommInitRank", ctypes.byref(handle), world_size, unique, rank)
        return handle

    def async_error(self, handle: Any) -> tuple[Result, str]:
        """Return how the communicator is."""
        result = ctypes.c_int()
        self._call("ncclCommGetAsyncError", handle, ctypes.byref(result))
        return Result(result.value), ""

    def abort(self, handle: Any) -> None:
        """Abort; NCCL promises this of non-blocking communicators only."""
        self._call("ncclCommAbort", handle)

    def finalize(self, handle: Any) -> None:
        """Do nothing: NCCL 2.7 has no such call, and `destroy` waits."""

    def destroy(self, handle: Any) -> None:
        """Release the handle."""
        self._call("ncclCommDestroy", handle)

    def shrink(self, handle: Any, excluded: Sequence[int]) -> Any:
        """Raise UsageError: NCCL 2.7 has no such call."""
        raise UsageError("pynccl has no shrink: take nccl4py, or connect again with a new epoch")

    def group_start(self) -> None:
        """`ncclGroupStart`."""
        self._call("ncclGroupStart")

    def group_end(self) -> None:
        """`ncclGroupEnd`."""
        self._call("ncclGroupEnd")

    def all_reduce(
        self, source: int, target: int, count: int, kind: int, op: int, handle: Any, stream: int
    ) -> None:
        """`ncclAllReduce`."""
        self._call("ncclAllReduce", source, target, count, kind, op, handle, stream)

    def reduce_scatter(
        self, source: int, target: int, count: int, kind: int, op: int, handle: Any, stream: int
    ) -> None:
        """`ncclReduceScatter`."""
        self._call("ncclReduceScatter", source, target, count, kind, op, handle, stream)

    def all_gather(
        self, source: int, target: int, count: int, kind: int, handle: Any, stream: int
    ) -> None:
        """`ncclAllGather`."""
        self._call("ncclAllGather", source, target, count, kind, handle, stream)

    def broadcast(
        self, source: int, target: int, count: int, kind: int, root: int, handle: Any, stream: int
    ) -> None:
        """`ncclBroadcast`."""
        self._call("ncclBroadcast", source, target, count, kind, root, handle, stream)

    def reduce(
        self,
        source: int,
        target: int,
        count: int,
        kind: int,
        op: int,
        root: int,
        handle: Any,
        stream: int,
    ) -> None:
        """`ncclReduce`."""
        self._call("ncclReduce", source, target, count, kind, op, root, handle, stream)

    def send(self, source: int, count: int, kind: int, peer: int, handle: Any, stream: int) -> None:
        """`ncclSend`."""
        self._call("ncclSend", source, count, kind, peer, handle, stream)

    def recv(self, target: int, count: int, kind: int, peer: int, handle: Any, stream: int) -> None:
        """`ncclRecv`."""
        self._call("ncclRecv", target, count, kind, peer, handle, stream)

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            getattr(self._nccl, name)(*arguments)
        except self._pynccl.NcclV2Error as error:
            text = str(error)
        except KeyError as error:  # pynccl has no name for codes newer than NCCL 2.7's
            text = f"code {error}"
        else:
            return
        codes = {known: code for code, known in self._pynccl.STATUS.items()}
        raise NcclError(Result(codes.get(text, Result.INTERNAL_ERROR)), f"{name}: {text}")


_BINDINGS: dict[str, tuple[str, Callable[[], Binding]]] = {
    "nccl4py": ("nccl.bindings", Nccl4py),
    "pynccl": ("pynccl", PyNccl),
}
"""By name: the module that shows whether it is installed, and what loads it. The best one first."""


def load_binding(name: str | None = None) -> Binding:
    """Return the binding called `name`; without one, the best of those that are installed.

    Raises MissingDependency if there is none, UsageError for an unknown name.
    """
    if name is not None and name not in _BINDINGS:
        raise UsageError(f"a binding of {', '.join(_BINDINGS)} was expected, found {name!r}")
    for known, (module, load) in _BINDINGS.items():
        if known == name or (name is None and _installed(module)):
            binding = load()
            version = ".".join(map(str, binding.abilities.version))
            log.info("NCCL %s by %s", version, known)
            return binding
    raise MissingDependency(f"transport nccl needs nccl4py, which is not installed: {_INSTALL}")


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False
