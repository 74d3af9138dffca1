"""A checksum of a payload: what slips through TCP's 16 bits is caught here. Pure.

TCP's checksum misses errors that switches and memories make (Stone and Partridge, "When the CRC and
TCP checksum disagree", 2000). A CRC-32 of every byte, as zlib has it, would be as slow as the wire.
So large payloads are first folded: the 64-bit words of each column of a table with `WIDTH` columns
are added up, and the CRC-32 is that of the sums. An error within 32 bits in a row always changes
it, others slip through once in 2**32 times. CRC32C, by the processor's own instruction, is as fast
where the package google-crc32c is installed.
"""

import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from holdfast.errors import MissingDependency, UsageError

ChecksumName = Literal["fold", "crc32c", "none"]
Checksum = Callable[[memoryview], int]

WIDTH = 256
FOLD_FROM = 16 << 10
"""Payloads of fewer bytes are not folded."""


def fold(data: memoryview) -> int:
    """Return 32 bits that tell of an error in `data` (bytes)."""
    if len(data) < FOLD_FROM:
        return zlib.crc32(data)
    rows = len(data) // (8 * WIDTH)
    folded = 8 * WIDTH * rows
    words = np.frombuffer(data, np.uint64, WIDTH * rows).reshape(rows, WIDTH)
    return zlib.crc32(data[folded:], zlib.crc32(np.add.reduce(words, axis=0)))


def none(data: memoryview) -> int:
    """Return 0: the payload goes unchecked, its header does not."""
    return 0


def checksum(name: ChecksumName) -> Checksum:
    """Return the function of that name; MissingDependency if its package is not installed."""
    if name == "fold":
        return fold
    if name == "none":
        return none
    if name != "crc32c":
        raise UsageError(f"a checksum of fold, crc32c or none was expected, found {name!r}")
    try:
        import google_crc32c
    except ImportError:
        raise MissingDependency(
            "the checksum crc32c needs google-crc32c: pip install 'holdfast[crc32c]', or take fold"
        ) from None
    value: Callable[[object], int] = google_crc32c.value

    def crc32c(data: memoryview) -> int:
        """Return the CRC32C (Castagnoli) of `data`."""
        view = np.frombuffer(data, np.uint8)
        view.flags.writeable = False  # the binding takes nothing that might change
        return value(view)

    return crc32c
