"""Compression that rounds: 16-bit floats, and 8-bit integers with a scale for each block.

The codecs are pure functions. What is rounded off is lost; rounding errors are as likely to be up
as down, so training bears them without a memory of what was left out.
"""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from holdfast.collectives.communicator import Array, Communicator
from holdfast.collectives.compression.compressor import (
    Layout,
    all_gather_bytes,
    all_reduce_bytes,
    all_to_all_bytes,
)

BLOCK = 256
"""Elements of int8 that share a scale: the scales add 1.6 % to the bytes."""
LEVELS = 127
"""The largest magnitude that int8 is used for; -128 would make the scale lopsided."""
CENTRE = 8
"""float16 is scaled so that the last sum's largest element would lie below 2**CENTRE.

Sums may grow by 2**8 within a step before they overflow, and what is 2**22 times smaller than the
largest element keeps all of its bits."""


# 16-bit floats


class Bfloat16:
    """bfloat16 on the wire, accumulated in float32: float32's range with 8 bits of precision."""

    residual: None = None

    def __init__(self, layout: Layout) -> None:
        self.sent = 0
        self._wire = np.empty(layout.count, ml_dtypes.bfloat16)

    def sum(self, x: Array, out: Array, communicator: Communicator) -> None:
        """Write the sum, of contributions rounded to bfloat16 and itself rounded to it."""
        np.copyto(self._wire, x, casting="unsafe")
        communicator.all_reduce(self._wire)
        np.copyto(out, self._wire, casting="unsafe")
        self.sent = all_reduce_bytes(self._wire.nbytes, communicator.world_size)

    def commit(self) -> None:
        """Do nothing: it has no state."""

    def state(self) -> Mapping[str, Array]:
        """Return nothing."""
        return {}


class Float16:
    """float16 on the wire, accumulated in float32: 11 bits of precision in a narrow range.

    Contributions are scaled by a power of two that follows from the last step's sum, which all
    ranks know, so that neither small gradients vanish nor large ones overflow. A sum that overflows
    nevertheless does so for all ranks alike: they repeat it uncompressed.
    """

    residual: None = None

    def __init__(self, layout: Layout) -> None:
        self.sent = 0
        self._wire = np.empty(layout.count, np.float16)
        self._exponent = np.zeros(1, np.int32)
        self._next = 0

    def sum(self, x: Array, out: Array, communicator: Communicator) -> None:
        """Write the sum, of contributions rounded to float16 and itself rounded to it."""
        exponent = int(self._exponent[0])
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # it is looked at below
            np.multiply(x, x.dtype.type(2.0**exponent), out=self._wire, casting="unsafe")
            communicator.all_reduce(self._wire)
        self.sent = all_reduce_bytes(self._wire.nbytes, communicator.world_size)
        largest = _largest_half(self._wire)
        if np.isfinite(largest):
            np.multiply(self._wire, out.dtype.type(2.0**-exponent), out=out, dtype=out.dtype)
            self._next = _centre(largest, exponent)
        else:
            communicator.all_reduce(x, out=out)
            self.sent += all_reduce_bytes(x.nbytes, communicator.world_size)
            self._next = _centre(float(np.abs(out).max()), 0)

    def commit(self) -> None:
        """Take up the scale that the last sum suggests."""
        self._exponent[0] = self._next

    def state(self) -> Mapping[str, Array]:
        """Return the scale's exponent."""
        return {"exponent": self._exponent}


def _largest_half(x: NDArray[np.float16]) -> float:
    """Return the largest magnitude in `x`; infinite or not a number if any element is."""
    # The bits of a float without its sign are in the order of its magnitude.
    bits = x.view(np.uint16) & np.uint16(0x7FFF)
    return float(bits.max(initial=0).astype(np.uint16).view(np.float16))


def _centre(largest: float, exponent: int) -> int:
    """Return the exponent that suits a sum whose largest element is `largest` / 2**exponent."""
    if not np.isfinite(largest):
        return exponent
    if largest == 0.0:  # all may have been too small
        wanted = exponent + CENTRE
    else:
        wanted = CENTRE + exponent - int(np.frexp(largest)[1])
    return max(-100, min(100, wanted))  # so that a float32 holds the factor and its inverse


# 8-bit integers


def quantise(x: Array) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return the scales of the blocks in `x`, float32 of shape (blocks, BLOCK), and its int8.

    An element is off by at most half its block's scale, which is the block's largest magnitude
    over 127. In a block with an element that is not finite, none is when it is decoded.
    """
    scales = np.abs(x).max(axis=1, initial=0.0)
    scales *= np.float32(1 / LEVELS)
    with np.errstate(invalid="ignore", divide="ignore"):
        scaled = x / np.where(scales > 0, scales, np.float32(1))[:, None]
        np.rint(scaled, out=scaled)
        # A scale that is denormal may be off by so much that its block exceeds 127.
        np.clip(scaled, -LEVELS, LEVELS, out=scaled)
        scales[~np.isfinite(scales)] = np.nan
        return scales, scaled.astype(np.int8)


def dequantise(scales: NDArray[np.float32], quantised: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return what `quantise` was given, but for rounding: float32 of shape (blocks, BLOCK)."""
    return np.multiply(quantised, scales[:, None], dtype=np.float32)


class Int8:
    """Eight bits an element, a scale for each block of 256.

    Each rank quantises its contribution and sends every rank its chunk; that rank sums them in
    float32 and quantises the sum, which all gather: the bytes of a ring at a quarter, and the sum
    is rounded twice, whatever the number of ranks.
    """

    residual: None = None

    def __init__(self, layout: Layout) -> None:
        self.sent = 0
        self._count = layout.count

    def sum(self, x: Array, out: Array, communicator: Communicator) -> None:
        """Write the sum of the quantised contributions, itself quantised."""
        ranks = communicator.world_size
        blocks = -(-self._count // (BLOCK * ranks))  # in a chunk
        padded = np.zeros(ranks * blocks * BLOCK, np.float32)
        padded[: self._count] = x
        outgoing = _pack(*quantise(padded.reshape(-1, BLOCK)), chunks=ranks)
        incoming = communicator.all_to_all(outgoing)
        total = _unpack(incoming[0])
        for contribution in incoming[1:]:
            total += _unpack(contribution)
        mine = _pack(*quantise(total), chunks=1)[0]
        for rank, chunk in enumerate(communicator.all_gather(mine)):
            part = slice(rank * blocks * BLOCK, (rank + 1) * blocks * BLOCK)
            here = out[part]
            here[...] = _unpack(chunk).reshape(-1)[: here.size]
        self.sent = all_to_all_bytes(outgoing.nbytes, ranks) + all_gather_bytes(mine.nbytes, ranks)

    def commit(self) -> None:
        """Do nothing: it has no state."""

    def state(self) -> Mapping[str, Array]:
        """Return nothing."""
        return {}


def _pack(
    scales: NDArray[np.float32], quantised: NDArray[np.int8], *, chunks: int
) -> NDArray[np.uint8]:
    """Return a row of bytes for each chunk of the blocks: its scales, then its integers."""
    return np.concatenate(
        [
            scales.view(np.uint8).reshape(chunks, -1),
            quantised.view(np.uint8).reshape(chunks, -1),
        ],
        axis=1,
    )


def _unpack(row: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the values of one chunk, of shape (blocks, BLOCK)."""
    blocks = row.size // (4 + BLOCK)
    scales, quantised = row[: 4 * blocks], row[4 * blocks :]
    return dequantise(scales.view(np.float32), quantised.view(np.int8).reshape(blocks, BLOCK))
