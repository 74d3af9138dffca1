"""Which samples make up the batch of a step: a function of seed and step, never of world size.

A data epoch visits every sample once, in an order given by a pseudo-random bijection of range(n).
The bijection is computed for the positions asked for, so no rank ever holds a permutation, and a
run may go on at any step, on any number of ranks.

Rule: the numbers are defined here and pinned by tests, so that no release of NumPy and no machine
changes the order of a run.

Sources: Feistel networks as permutations after Luby and Rackoff, "How to construct pseudorandom
permutations from pseudorandom functions" (1988); cycle walking after Black and Rogaway, "Ciphers
with arbitrary finite domains" (2002); the mixing constants are those of SplitMix64 (Steele, Lea
and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from holdfast.errors import UsageError

Indices = npt.NDArray[np.int64]

_ROUNDS = 6
_WORD = (1 << 64) - 1
_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Shard(NamedTuple):
    """One rank's part of a global batch.

    `indices` (int64, never empty) are sample ids; `weight` is this rank's share of the batch, so
    that the weighted sum of the ranks' mean gradients is the mean over the global batch.
    """

    indices: Indices
    weight: float


def permuted(positions: npt.ArrayLike, n: int, *, seed: int, data_epoch: int) -> Indices:
    """Return where a bijection of range(n), chosen by (seed, data_epoch), takes `positions`.

    `positions` are integers in range(n), of shape (k,); so is the result. Time is proportional to
    k, whatever n is. Raises UsageError if n is not in 1 … 2**62 or a position is out of range.
    """
    if not 1 <= n <= 1 << 62:
        raise UsageError(f"a permutation needs between 1 and 2**62 elements, got {n}")
    asked = np.asarray(positions, dtype=np.int64)
    if asked.ndim != 1:
        raise UsageError(f"positions must have shape (k,), got {asked.shape}")
    if asked.size and not (asked.min() >= 0 and asked.max() < n):
        raise UsageError(f"positions must be in range({n}), got {asked.min()} … {asked.max()}")
    half_bits = max(1, ((n - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, data_epoch)
    values = _feistel(asked.astype(np.uint64), half_bits, keys)
    # The network permutes range(4**half_bits); following its cycles until they come back below n
    # makes that a permutation of range(n). Fewer than 3 in 4 values are outside at any pass.
    outside = np.flatnonzero(values >= np.uint64(n))
    while outside.size:
        walked = _feistel(values[outside], half_bits, keys)
        values[outside] = walked
        outside = outside[walked >= np.uint64(n)]
    return values.astype(np.int64)


@dataclass(frozen=True)
class DataOrder:
    """The order in which a run of `samples` samples, `batch_size` at a step, sees its data.

    `batch_size` is that of the global batch. Steps are absolute and 0-based; the last batch of a
    data epoch may be smaller. Raises UsageError if there are no samples or no batch.
    """

    samples: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"a run needs at least 1 sample, got {self.samples}")
        if self.batch_size < 1:
            raise UsageError(f"the global batch needs at least 1 sample, got {self.batch_size}")

    @property
    def steps_per_epoch(self) -> int:
        """The steps of one data epoch; a last partial batch counts."""
        return -(-self.samples // self.batch_size)

    def data_epoch(self, step: int) -> int:
        """Return the 0-based data epoch that `step` belongs to."""
        if step < 0:
            raise UsageError(f"steps count from 0, got {step}")
        return step // self.steps_per_epoch

    def batch_samples(self, step: int) -> int:
        """Return how many samples the global batch of `step` has."""
        first, end = self._positions(step)
        return end - first

    def batch(self, step: int) -> Indices:
        """Return the sample ids of the global batch of `step`, int64 of shape (batch,)."""
        return self._samples(step, *self._positions(step))

    def shard(self, step: int, rank: int, world_size: int) -> Shard:
        """Return the part of the global batch of `step` that `rank` of `world_size` works on.

        Parts are contiguous, differ by at most one sample, and are in rank order the batch. A rank
        for which no sample is left gets the batch's first one with weight 0.0, so that every rank
        does the same work and no collective waits for one that has none.
        """
        if not 0 <= rank < world_size:
            raise UsageError(f"rank must be in range({world_size}), the world size, got {rank}")
        first, end = self._positions(step)
        count = end - first
        begin = first + count * rank // world_size
        stop = first + count * (rank + 1) // world_size
        if begin == stop:
            return Shard(self._samples(step, first, first + 1), 0.0)
        return Shard(self._samples(step, begin, stop), (stop - begin) / count)

    def _positions(self, step: int) -> tuple[int, int]:
        """Return the half-open range of positions within its data epoch that `step` covers."""
        first = (step - self.data_epoch(step) * self.steps_per_epoch) * self.batch_size
        return first, min(first + self.batch_size, self.samples)

    def _samples(self, step: int, first: int, end: int) -> Indices:
        positions = np.arange(first, end, dtype=np.int64)
        return permuted(positions, self.samples, seed=self.seed, data_epoch=self.data_epoch(step))


def _mix(word: int) -> int:
    """Return SplitMix64's output function of a 64-bit word."""
    word = ((word ^ (word >> 30)) * _MIX_1) & _WORD
    word = ((word ^ (word >> 27)) * _MIX_2) & _WORD
    return word ^ (word >> 31)


def _round_keys(seed: int, data_epoch: int) -> tuple[np.uint64, ...]:
    """Return the keys of the rounds; seeds and epochs that differ by little share none."""
    word = _mix(((seed & _WORD) + _GOLDEN_GAMMA) & _WORD)
    word = _mix(((word ^ (data_epoch & _WORD)) + _GOLDEN_GAMMA) & _WORD)
    return tuple(
        np.uint64(_mix((word + number * _GOLDEN_GAMMA) & _WORD)) for number in range(1, _ROUNDS + 1)
    )


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: int, keys: tuple[np.uint64, ...]
) -> npt.NDArray[np.uint64]:
    """Permute range(4**half_bits): each round swaps the halves and adds a function of one."""
    width = np.uint64(half_bits)
    drop = np.uint64(64 - half_bits)
    left = values >> width
    right = values & np.uint64((1 << half_bits) - 1)
    for key in keys:
        # Unsigned arrays wrap around; the best bits of a product are its highest.
        mixed = right ^ key
        mixed *= np.uint64(_MIX_1)
        mixed ^= mixed >> np.uint64(32)
        mixed *= np.uint64(_MIX_2)
        mixed >>= drop
        mixed ^= left
        left, right = right, mixed
    return (left << width) | right
