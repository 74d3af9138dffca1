"""Compression with error feedback: what a sum leaves out is added to the next step's gradient.

Top-k sends the largest elements (Stich et al., 2018), PowerSGD a product of two thin matrices
(Vogels et al., 2019). Both leave most of a gradient out of a step's sum, so each bucket has a
residual on every rank: what that rank has left out so far. Nothing is lost, only late.

Rule: a sum that isn't finite changes no residual, on any rank: what was left out before is still
there for a training that skips such a step, and one bad gradient does not spoil all later ones.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from holdfast.collectives.communicator import Array, Communicator
from holdfast.collectives.compression.compressor import Layout, all_gather_bytes, all_reduce_bytes

FRACTION = 0.01
RANK = 2
DEPENDENT = 1e-6
"""A vector that is so much shorter once the others' directions are out of it has none of its own"""


def _finite(x: Array) -> bool:
    """Return whether every element is a number and none is infinite."""
    return bool(np.isfinite(x).all())


def largest(x: Array, count: int) -> NDArray[np.uint32]:
    """Return where the `count` elements of largest magnitude lie in flat `x`, ascending.

    Of equals the first ones are taken. What is not a number counts as largest.
    """
    if count >= x.size:
        return np.arange(x.size, dtype=np.uint32)
    # The bits of a float without its sign are in the order of its magnitude.
    kind = np.dtype(f"u{x.itemsize}")
    bits: Array = x.view(kind) & kind.type(2 ** (8 * x.itemsize - 1) - 1)
    least = np.partition(bits, x.size - count)[x.size - count]
    above = np.flatnonzero(bits > least)
    level = np.flatnonzero(bits == least)[: count - above.size]
    return np.sort(np.concatenate([above, level])).astype(np.uint32)


class TopK:
    """The largest elements of each rank, as pairs of place and float32 value."""

    def __init__(self, layout: Layout, fraction: float = FRACTION) -> None:
        self.sent = 0
        self.residual: Array = np.zeros(layout.count, layout.dtype)
        self._pending: Array = np.zeros(layout.count, layout.dtype)
        self._kept = math.ceil(layout.count * fraction)
        self._good = False  # whether the last sum is finite, which all ranks see alike

    def sum(self, x: Array, out: Array, communicator: Communicator) -> None:
        """Write the sum of what each rank chose of its `x` and its residual; the rest is zero."""
        left = np.add(x, self.residual, out=self._pending)
        places = largest(left, self._kept)
        values = left[places].astype(np.float32)
        left[places] -= values  # rounding, if the bucket is float64
        mine = np.concatenate([places, values.view(np.uint32)])
        chosen = communicator.all_gather(mine)
        out[...] = 0
        for there in chosen:
            # A rank names no place twice, so this adds each of its values.
            out[there[: self._kept]] += there[self._kept :].view(np.float32)
        self._good = _finite(out)
        self.sent = all_gather_bytes(mine.nbytes, communicator.world_size)

    def commit(self) -> None:
        """Keep what was left out, unless the sum isn't finite."""
        if self._good:
            self.residual, self._pending = self._pending, self.residual

    def state(self) -> Mapping[str, Array]:
        """Return nothing: the residual is all."""
        return {}


def orthonormalise(vectors: Array) -> None:
    """Make the rows of `vectors` orthonormal in place, zero where they depend on those above.

    Zero, too, what is too short for its inverse length to be a number.
    Modified Gram-Schmidt, not BLAS: every rank must get the same bits, whatever its processor.
    """
    for number, vector in enumerate(vectors):
        before = _norm(vector)
        for above in vectors[:number]:
            vector -= above * vector.dtype.type(_dot(above, vector))
        norm = _norm(vector)
        if norm <= max(DEPENDENT * before, np.finfo(vector.dtype).tiny):
            vector[...] = 0
        else:
            vector *= vector.dtype.type(1.0 / norm)


def _dot(a: Array, b: Array) -> float:
    return float(np.multiply(a, b, dtype=np.float64).sum())


def _norm(a: Array) -> float:
    return math.sqrt(_dot(a, a))


def product(p: Array, q: Array, out: Array, scratch: Array) -> Array:
    """Write transposed `p` times `q`, of shapes (rank, rows) and (rank, columns), to `out`.

    Term by term, not by BLAS, for the same reason.
    """
    np.multiply.outer(p[0], q[0], out=out)
    for left, right in zip(p[1:], q[1:], strict=True):
        np.multiply.outer(left, right, out=scratch)
        out += scratch
    return out


class _Matrix:
    """A gradient of two dimensions or more, seen as a matrix, and its places in what is sent."""

    def __init__(self, place: slice, rows: int, columns: int, rank: int) -> None:
        self.place = place
        self.shape = rows, columns
        self.rank = rank
        self.p = slice(0, 0)
        self.q = slice(0, 0)

    def of(self, flat: Array) -> Array:
        """Return the matrix in a bucket."""
        return flat[self.place].reshape(self.shape)

    def p_of(self, flat: Array) -> Array:
        """Return its left factor, transposed, in the first buffer that is sent."""
        return flat[self.p].reshape(self.rank, self.shape[0])

    def q_of(self, flat: Array) -> Array:
        """Return its right factor, transposed, in the second one."""
        return flat[self.q].reshape(self.rank, self.shape[1])


class PowerSGD:
    """A low-rank approximation of each matrix's sum, by one step of power iteration.

    The iteration goes on from the last step's (its warm start). Vectors, and matrices too small to
    gain from it, are sent whole with the first factors. Unlike Vogels et al. a rank's residual is
    what is missing of its own contribution, its projection on the common directions; the sum over
    the ranks is the same.
    """

    def __init__(self, layout: Layout, rank: int = RANK) -> None:
        self.sent = 0
        self.residual: Array = np.zeros(layout.count, layout.dtype)
        self._pending: Array = np.zeros(layout.count, layout.dtype)
        self._matrices: list[_Matrix] = []
        self._whole: list[tuple[slice, slice]] = []  # in the bucket, in the first buffer
        first = second = 0
        for start, shape in zip(layout.starts, layout.shapes, strict=True):
            count = math.prod(shape)
            place = slice(start, start + count)
            rows = shape[0] if shape else 1
            columns = count // rows if rows else 0
            if len(shape) < 2 or 2 * rank * (rows + columns) > rows * columns:
                self._whole.append((place, slice(first, first + count)))
                first += count
                continue
            matrix = _Matrix(place, rows, columns, rank)
            matrix.p = slice(first, first + rank * rows)
            matrix.q = slice(second, second + rank * columns)
            first, second = matrix.p.stop, matrix.q.stop
            self._matrices.append(matrix)
        self._p: Array = np.empty(first, layout.dtype)
        self._q: Array = np.empty(second, layout.dtype)
        self._warm: Array = np.zeros(second, layout.dtype)
        # The same on every rank and in every run; uniform, because its bits are everywhere the same
        self._fresh = np.random.default_rng(0).uniform(-1, 1, second).astype(layout.dtype)
        most = max((m.shape[0] * m.shape[1] for m in self._matrices), default=0)
        self._scratch: Array = np.empty((2, most), layout.dtype)
        self._good = False  # whether the last sum is finite, which all ranks see alike

    def sum(self, x: Array, out: Array, communicator: Communicator) -> None:
        """Write the approximation of the sum of the ranks' `x` and residuals."""
        p, q, left = self._p, self._q, np.add(x, self.residual, out=self._pending)
        for matrix in self._matrices:
            np.matmul(self._start(matrix), matrix.of(left).T, out=matrix.p_of(p))
        for place, at in self._whole:
            p[at] = left[place]
        communicator.all_reduce(p)
        for place, at in self._whole:
            out[place] = p[at]
            left[place] = 0
        for matrix in self._matrices:
            directions = matrix.p_of(p)
            orthonormalise(directions)
            np.matmul(directions, matrix.of(left), out=matrix.q_of(q))
            first, second = self._scratches(matrix)
            here = matrix.of(left)
            here -= product(directions, matrix.q_of(q), first, second)
        if self._matrices:
            communicator.all_reduce(q)
        for matrix in self._matrices:
            _, scratch = self._scratches(matrix)
            product(matrix.p_of(p), matrix.q_of(q), matrix.of(out), scratch)
        self._good = _finite(out)
        self.sent = sum(all_reduce_bytes(each.nbytes, communicator.world_size) for each in (p, q))

    def commit(self) -> None:
        """Keep what was left out, go on from the directions found; unless the sum isn't finite."""
        if self._good:
            self.residual, self._pending = self._pending, self.residual
            self._warm[...] = self._q

    def state(self) -> Mapping[str, Array]:
        """Return the directions that the next sum begins with."""
        return {"directions": self._warm}

    def _start(self, matrix: _Matrix) -> Array:
        """Return the directions to begin with: a fresh one where the last sum had none."""
        directions = matrix.q_of(self._warm).copy()
        dead = ~directions.any(axis=1)
        directions[dead] = matrix.q_of(self._fresh)[dead]
        return directions

    def _scratches(self, matrix: _Matrix) -> Array:
        rows, columns = matrix.shape
        return self._scratch[:, : rows * columns].reshape(2, rows, columns)
