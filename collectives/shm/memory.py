"""Memory that the processes of one host share, and how one of them sleeps until another writes.

Segments are anonymous files (memfd): they have no name, so nothing is ever left in /dev/shm, not
even after kill -9, and a container's small /dev/shm is no limit. A peer opens one through /proc.

Rule: a word that ranks wait for is 8 aligned bytes, written and read at once, and is written by one
rank alone, or by several with the same value. What it announces is written before it, with a
`Fence` between; whoever has read it passes a `Fence` before it reads what was announced.
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
_STRONGLY_ORDERED = platform.machine() == "x86_64"
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


class Segment:
    """A piece of memory of `nbytes` bytes; `bytes` is an array over it.

    The mapping lives as long as an array over it does; `close` gives the descriptor back. Pages are
    taken up as they are touched, as `huge` ones where the kernel is set up for them.
    """

    def __init__(self, fd: int, nbytes: int, *, huge: bool = True) -> None:
        self.fd = fd
        self.map = mmap.mmap(fd, max(nbytes, 1))
        """The mapping itself: the quickest way to some bytes of it, as copies."""
        if huge and nbytes >= _HUGE_PAGE:
            with contextlib.suppress(OSError):  # a kernel without huge pages only loses speed
                self.map.madvise(mmap.MADV_HUGEPAGE)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self.map, np.uint8)[:nbytes]
        self.address = int(self.bytes.__array_interface__["data"][0])
        """Where the memory begins in this process."""

    @classmethod
    def create(cls, nbytes: int, *, huge: bool = True) -> "Segment":
        """Make zeroed memory that peers can open while this process lives."""
        if not hasattr(os, "memfd_create"):
            raise MissingDependency("shared memory needs Linux (memfd): take --transport tcp")
        fd = -1
        try:
            fd = os.memfd_create("holdfast", os.MFD_CLOEXEC)
            os.ftruncate(fd, max(nbytes, 1))
            return cls(fd, nbytes, huge=huge)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            raise CommunicationError(
                f"no shared memory of {nbytes} bytes: {error.strerror}; make the arrays smaller, "
                "or raise this process's limits"
            ) from None

    @classmethod
    def open(cls, pid: int, fd: int, nbytes: int, *, huge: bool = True) -> "Segment":
        """Map the segment that process `pid` holds as descriptor `fd`."""
        try:
            own = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise CommunicationError(
                f"cannot open the memory of process {pid}: {error.strerror}. Ranks that share "
                "memory run as the same user and see each other in /proc; else take --transport tcp"
            ) from None
        try:
            if os.fstat(own).st_size < nbytes:
                raise CommunicationError(f"the memory of process {pid} is smaller than it says")
            return cls(own, nbytes, huge=huge)
        except OSError as error:
            os.close(own)
            raise CommunicationError(
                f"cannot map {nbytes} bytes of process {pid}: {error.strerror}; make the arrays "
                "smaller, or raise this process's limits"
            ) from None
        except BaseException:
            os.close(own)
            raise

    def close(self) -> None:
        """Give the descriptor back; may be called again."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Fence:
    """Orders what one thread reads and writes, for all processors: one object per thread.

    A lock that nobody else takes is taken and released. On x86, which by itself only lets a read
    overtake an earlier write, taking it is an atomic operation, behind which nothing is overtaken.
    Elsewhere that is done twice: between the release of the first and the taking of the second
    nothing passes, in either direction (on ARMv8 a store-release is not overtaken by a later
    load-acquire: Arm Architecture Reference Manual, B2.3, "barrier-ordered-before").
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def full(self) -> None:
        """Let all before it be seen before all after it is done, a write before a read too."""
        self._lock.acquire()
        self._lock.release()
        if not _STRONGLY_ORDERED:
            self._lock.acquire()
            self._lock.release()

    def light(self) -> None:
        """Do the same, but for a write before a read: nothing at all on x86."""
        if not _STRONGLY_ORDERED:
            self.full()


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
