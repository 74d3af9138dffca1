"""How the process's allocator treats the arrays of a training step.

A step allocates the same arrays again and again. glibc gives a large one back to the system as soon
as it is freed, and the next step pays for the same pages once more: about a tenth of the time of a
small convolutional network.
"""

import ctypes
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3

LARGEST_KEPT = 32 * 1024 * 1024
"""Bytes from which an array has its own mapping: the most that glibc allows."""
KEPT = 1024 * 1024 * 1024
"""Free bytes at the end of the heap that the process keeps for the next step."""


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for reuse; return whether its allocator can be told so.

    Affects speed only: the peak stays what it was. Called once, when this room is imported.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it, musl does not
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(M_TRIM_THRESHOLD, KEPT))
