"""IDX, the file format of MNIST and its kin: a magic number, the dimensions, the elements.

Rule: a file is believed only after its size has been compared with what its header says, and
before any memory is taken for it. The format is described at http://yann.lecun.com/exdb/mnist/.
"""

import gzip
import hashlib
import io
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from holdfast.errors import DataError

_DTYPES: Mapping[int, np.dtype[Any]] = {
    0x08: np.dtype(np.uint8),
    0x09: np.dtype(np.int8),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_GZIP_MAGIC = b"\x1f\x8b"
_DEFLATE_LIMIT = 1032
"""Deflate shortens nothing by more than this factor (zlib's technical details)."""


class IdxHeader(NamedTuple):
    """What an IDX file says of itself; `size` is the whole file's, in bytes."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    raw: bytes

    @property
    def size(self) -> int:
        """The bytes that the whole file has, header and elements."""
        return len(self.raw) + math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: BinaryIO, name: str) -> IdxHeader:
    """Read the header of an IDX stream, leaving it at the first element.

    Raises DataError, which begins with `name`, if this is no IDX header.
    """
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{name}: truncated: expected a 4-byte IDX magic, found {len(magic)} bytes")
    if magic[:2] != b"\0\0" or magic[2] not in _DTYPES or magic[3] == 0:
        raise DataError(
            f"{name}: not an IDX file: expected a magic such as 00000803 (three dimensions of "
            f"unsigned bytes), found {magic.hex()}"
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(
            f"{name}: truncated: expected {magic[3]} dimensions of 4 bytes in the header, found "
            f"{len(sizes)} bytes"
        )
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    return IdxHeader(_DTYPES[magic[2]], shape, magic + sizes)


def read_idx(
    path: Path, *, shape: tuple[int, ...] | None = None, sha256: str | None = None
) -> npt.NDArray[Any]:
    """Return the array in an IDX file, gzipped or not, in the machine's byte order.

    `shape` and `sha256` (of the bytes as they are uncompressed, header included) are what the file
    must have, where given. Raises DataError naming the file, what was expected and what was found
    if it is missing, truncated, corrupt, longer than it says, or another file.
    """
    name = str(path)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not packed:
                return _read(raw, name, shape, sha256, found=os.fstat(raw.fileno()).st_size)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                stream = io.BufferedReader(unpacked)
                return _read(stream, name, shape, sha256, packed=os.fstat(raw.fileno()).st_size)
    except EOFError as error:
        raise DataError(f"{name}: truncated: its gzip stream ends before its end mark") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{name}: corrupt: its gzip stream cannot be unpacked: {error}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror}") from error


def _read(
    stream: BinaryIO,
    name: str,
    shape: tuple[int, ...] | None,
    sha256: str | None,
    *,
    found: int | None = None,
    packed: int | None = None,
) -> npt.NDArray[Any]:
    """Read the IDX stream of a file that has `found` bytes, or `packed` bytes when compressed."""
    header = read_header(stream, name)
    if shape is not None and header.shape != shape:
        raise DataError(f"{name}: another file: expected the shape {shape}, found {header.shape}")
    if found is not None and found != header.size:
        kind = "truncated" if found < header.size else "corrupt"
        raise DataError(
            f"{name}: {kind}: expected {header.size} bytes as its header says, found {found}"
        )
    if packed is not None and header.size > packed * _DEFLATE_LIMIT:
        raise DataError(
            f"{name}: corrupt: its header says {header.size} bytes, which {packed} gzipped bytes "
            f"cannot hold"
        )
    array = np.empty(header.shape, header.dtype)
    got = _read_into(stream, array.reshape(-1).view(np.uint8).data)
    if got < array.nbytes:
        raise DataError(
            f"{name}: truncated: expected {array.nbytes} bytes of elements as its header says, "
            f"found {got}"
        )
    if stream.read(1):
        raise DataError(f"{name}: corrupt: bytes follow the {array.nbytes} that its header says")
    if sha256 is not None:
        digest = hashlib.sha256(header.raw)
        digest.update(array.reshape(-1).view(np.uint8).data)
        if digest.hexdigest() != sha256:
            raise DataError(
                f"{name}: corrupt or another file: expected the SHA-256 {sha256} of its "
                f"uncompressed bytes, found {digest.hexdigest()}"
            )
    return array.astype(header.dtype.newbyteorder("="), copy=False)


def _read_into(stream: BinaryIO, buffer: memoryview) -> int:
    """Fill `buffer` from the stream as far as it goes and return how many bytes came."""
    filled = 0
    while filled < len(buffer):
        part = stream.read(min(1 << 20, len(buffer) - filled))
        if not part:
            break
        buffer[filled : filled + len(part)] = part
        filled += len(part)
    return filled
