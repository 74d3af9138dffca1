"""The frames of a link: a header and, for DATA, the payload. Pure.

All integers are little-endian:

    kind u8 | a zero byte | tag u16 | epoch u32 | number u64 | received u64 | read u64 | length u64
    | checksum of the payload u32 | CRC-32 of what stands before it u32

`number` is the message's number (of LEAVE: how many messages its writer has sent), `received` how
many messages the writer of the frame has without a gap, `read` how many it has read from this
connection; `tag` says of which call a message is part, so that ranks that call different things are
told.
"""

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

HEADER_SIZE = 48
_FIELDS = struct.Struct("<BxHIQQQQI")
_CRC = struct.Struct("<I")


class Kind(IntEnum):
    """What a frame is. LEAVE: its writer will send nothing more and not come back."""

    DATA = 1
    ACK = 2
    BEAT = 3
    LEAVE = 4


class CorruptFrame(Exception):
    """Bytes changed on their way: give the connection up, the link goes on over another one."""


class Header(NamedTuple):
    """What stands before a payload."""

    kind: int
    tag: int
    epoch: int
    number: int
    received: int
    read: int
    length: int
    checksum: int

    def pack(self) -> memoryview:
        """Return its `HEADER_SIZE` bytes."""
        fields = _FIELDS.pack(*self)
        return memoryview(fields + _CRC.pack(zlib.crc32(fields)))

    @classmethod
    def parse(cls, data: memoryview) -> "Header":
        """Read a header from its bytes; CorruptFrame if they are not those that were written."""
        fields = data[: _FIELDS.size]
        if _CRC.unpack(data[_FIELDS.size :])[0] != zlib.crc32(fields):
            raise CorruptFrame("a corrupt frame came")
        return cls._make(_FIELDS.unpack(fields))
