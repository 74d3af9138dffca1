"""An IDX file is believed only after its size has been compared with its header."""

import gzip
import hashlib
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from holdfast.errors import DataError
from holdfast.runtime.idx import read_idx

# A slow or busy machine is no fault of the file.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx_bytes(array):
    header = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim])
    sizes = np.array(array.shape, ">u4").tobytes()
    return header + sizes + array.astype(array.dtype.newbyteorder(">")).tobytes()


IMAGES = (np.arange(5 * 4 * 3) % 251).astype(np.uint8).reshape(5, 4, 3)
WHOLE = idx_bytes(IMAGES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train-images-idx3-ubyte"


@untimed
@given(
    array=st.sampled_from(sorted(CODES)).flatmap(
        lambda code: arrays.arrays(code, arrays.array_shapes(max_dims=4, min_side=0, max_side=5))
    ),
    packed=st.booleans(),
)
def test_an_array_comes_back(tmp_path_factory, array, packed):
    path = tmp_path_factory.mktemp("idx") / "file"
    data = idx_bytes(array)
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    found = read_idx(path, shape=array.shape, sha256=hashlib.sha256(data).hexdigest())
    assert found.dtype == array.dtype
    assert found.dtype.isnative
    assert np.array_equal(found, array, equal_nan=array.dtype.kind == "f")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated: expected a 4-byte IDX magic, found 0 bytes"),
        (WHOLE[:3], "truncated: expected a 4-byte IDX magic, found 3 bytes"),
        (WHOLE[:9], "truncated: expected 3 dimensions of 4 bytes in the header, found 5 bytes"),
        (b"<!DOCTYPE html>", "not an IDX file: .* found 3c21444f"),
        (b"\0\0\x0a\1" + WHOLE[4:], "not an IDX file"),
        (b"\0\0\x08\0" + WHOLE[4:], "not an IDX file"),
        (WHOLE[:-1], "truncated: expected"),
        (WHOLE + b"x", "corrupt: "),
        (idx_bytes(IMAGES[:4]), r"another file: expected the shape \(5, 4, 3\), found \(4, 4, 3\)"),
        (idx_bytes(IMAGES[::-1]), "corrupt or another file: expected the SHA-256 .* found "),
    ],
)
def test_a_wrong_file_is_refused_by_name(path, packed, data, message):
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DataError, match=f"^{path}: {message}"):
        read_idx(path, shape=IMAGES.shape, sha256=hashlib.sha256(WHOLE).hexdigest())


def test_every_truncation_of_a_gzipped_file_is_refused(path):
    data = gzip.compress(WHOLE)
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=f"^{path}: "):
            read_idx(path)


def test_every_flipped_byte_of_a_gzipped_file_s_content_is_refused(path):
    data = gzip.compress(WHOLE, mtime=0)
    for place in range(
        10, len(data)
    ):  # before it is the header: times and names, that don't matter
        broken = bytearray(data)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(DataError, match=f"^{path}: "):
            read_idx(path)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_no_memory_is_taken_for_what_a_header_claims(path, packed):
    data = b"\0\0\x08\3" + b"\xff\xff\xff\xff" * 3 + b"few"
    path.write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    with pytest.raises(DataError, match="79228162458924105385300197391 bytes"):
        read_idx(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_missing_file_is_refused_by_name(path):
    with pytest.raises(DataError, match=f"^{path}: cannot be read: No such file"):
        read_idx(path)
