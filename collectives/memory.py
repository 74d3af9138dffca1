"""Memory that the processes of one host share, and how one of them sleeps until another writes.

Segments are anonymous files (memfd): they have no name, so nothing is ever left in /dev/shm, not
even after kill -9, and a container's small /dev/shm is no limit. A peer opens one through /proc.
"""

import contextlib
import ctypes
import mmap
import os
import platform
import struct
import threading
import time

import numpy as np
from numpy.typing import NDArray

from holdfast.errors import CommunicationError, MissingDependency

_FUTEX = {"x86_64": 202, "aarch64": 98, "ppc64le": 221}.get(platform.machine())
_FUTEX_WAIT, _FUTEX_WAKE = 0, 1
_STRONGLY_ORDERED = platform.machine() in ("x86_64", "AMD64", "i686")
_HUGE_PAGE = 2 << 20
_syscall = ctypes.CDLL(None).syscall
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_int,
    ctypes.c_uint32,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_int,
]
_fence_lock = threading.Lock()


class Segment:
    """A piece of memory of `nbytes` bytes; `bytes` is an array over it.

    The mapping lives as long as an array over it does; `close` gives the descriptor back.
    """

    def __init__(self, fd: int, nbytes: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, max(nbytes, 1))
        if nbytes >= _HUGE_PAGE:
            with contextlib.suppress(OSError):  # a kernel without huge pages only loses speed
                self._map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)[:nbytes]

    @classmethod
    def create(cls, nbytes: int) -> "Segment":
        """Make zeroed memory that peers can open while this process lives."""
        if not hasattr(os, "memfd_create"):
            raise MissingDependency("shared memory needs Linux (memfd): take --transport tcp")
        fd = os.memfd_create("holdfast", os.MFD_CLOEXEC)
        os.ftruncate(fd, max(nbytes, 1))
        return cls(fd, nbytes)

    @classmethod
    def open(cls, pid: int, fd: int, nbytes: int) -> "Segment":
        """Map the segment that process `pid` holds as descriptor `fd`."""
        try:
            own = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CommunicationError(
                f"cannot open the memory of process {pid}: {error.strerror}. Ranks that share "
                "memory run as the same user and see each other in /proc; else take --transport tcp"
            ) from None
        if os.fstat(own).st_size < nbytes:
            os.close(own)
            raise CommunicationError(f"the memory of process {pid} is smaller than it says")
        return cls(own, nbytes)

    @property
    def address(self) -> int:
        """Where the memory begins in this process."""
        return int(self.bytes.__array_interface__["data"][0])

    def close(self) -> None:
        """Give the descriptor back; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def fence() -> None:
    """Let every store before it be seen before every store after it, by all processors.

    x86 keeps stores in order by itself. Elsewhere a lock is released and taken again: the release
    orders what came before, the acquisition what comes after, and the two keep their order.
    """
    if not _STRONGLY_ORDERED:
        with _fence_lock:
            pass
        with _fence_lock:
            pass


def sleep_while(address: int, value: int, seconds: float) -> None:
    """Sleep until the 32-bit word at `address` is woken, is not `value`, or `seconds` are over."""
    if _FUTEX is None:
        time.sleep(min(seconds, 5e-5))
        return
    timeout = struct.pack("qq", int(seconds), int(seconds % 1 * 1e9))
    _syscall(_FUTEX, address, _FUTEX_WAIT, value & 0xFFFFFFFF, timeout, None, 0)


def wake(address: int) -> None:
    """Wake all that sleep on the word at `address`."""
    if _FUTEX is not None:
        _syscall(_FUTEX, address, _FUTEX_WAKE, 1 << 30, None, None, 0)
