"""What compresses the sum of a gradient bucket: fewer bytes on the wire, and some of the bits.

A `Compressor` belongs to one bucket and sums it with the collectives of a `Communicator`.
`rounding.py` has those that keep fewer bits, `feedback.py` those that keep what they left out for
the next step; `compression/by_name.py` knows them by name.

Rules:
- What is decoded comes from bytes that all ranks have, by operations whose result IEEE 754 fixes:
  the sum is the same bits on every rank, on whatever processor.
- `sum` leaves the state as it was, so a broken attempt is repeated; `commit` moves it on, when the
  sums of the whole step are complete.
- A gradient that is infinite or not a number makes a sum that isn't finite: nothing is hidden.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from holdfast.collectives.communicator import Array, Communicator


@dataclass(frozen=True)
class Layout:
    """What a bucket holds: `count` elements of `dtype`, among them arrays of `shapes` at `starts`.

    What lies between the arrays is padding and zero.
    """

    count: int
    dtype: np.dtype[Any]
    starts: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]


class Compressor(Protocol):
    """Sums one bucket over the ranks. All ranks make the same ones and the same calls.

    `sent` is how many bytes this rank sent in the last `sum`, by the collectives' least count.
    """

    sent: int

    @property
    def residual(self) -> Array | None:
        """What this rank left out of all sums so far, live, as the bucket; None if it forgets."""

    def sum(self, x: Array, out: Array, communicator: Communicator) -> None:
        """Write the sum of the ranks' `x` to `out`, both flat; may be repeated until `commit`."""

    def commit(self) -> None:
        """Move the state on: the step that the last `sum` belongs to is complete."""

    def state(self) -> Mapping[str, Array]:
        """Return what else the next sum depends on, live, by name; the same on every rank."""


Compression = Callable[[Layout], Compressor]
"""Makes the compressor of a bucket."""


def all_reduce_bytes(nbytes: int, world_size: int) -> int:
    """Return how many bytes a rank must send to all-reduce `nbytes`."""
    return 2 * (world_size - 1) * nbytes // world_size


def all_gather_bytes(nbytes: int, world_size: int) -> int:
    """Return how many bytes a rank must send for every other to get its `nbytes`."""
    return (world_size - 1) * nbytes


def all_to_all_bytes(nbytes: int, world_size: int) -> int:
    """Return how many of a rank's `nbytes`, which go to all alike, are for the others."""
    return (world_size - 1) * nbytes // world_size
