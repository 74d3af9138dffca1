"""MPI by way of mpi4py as a measured library: the same program for Open MPI and MPICH."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

Array = npt.NDArray[np.float32]


class MpiGroup:
    """Ranks of MPI's world, with NumPy arrays as buffers."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._world = MPI.COMM_WORLD
        self.rank: int = self._world.Get_rank()
        self.world_size: int = self._world.Get_size()
        # Open MPI says one line, MPICH several with all its build options.
        self.version = " ".join(MPI.Get_library_version().splitlines()[0].strip("\0").split())
        count = settings["max_size"] // 4
        self._source: Array = np.zeros(count, dtype=np.float32)
        self._result: Array = np.zeros(count, dtype=np.float32)
        self._in_place: Array = np.zeros(count, dtype=np.float32)

    def operation(self, count: int, in_place: bool) -> tuple[Array, Array, Callable[[], object]]:
        """Return input, output and the sum of one into the other; see `rank.Group`."""
        world = self._world
        if in_place:
            both = self._in_place[:count]
            return both, both, lambda: world.Allreduce(MPI.IN_PLACE, both)
        source, result = self._source[:count], self._result[:count]
        return source, result, lambda: world.Allreduce(source, result)

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self._world.Barrier()

    def close(self) -> None:
        """Leave MPI's world."""
        MPI.Finalize()


def open_group(settings: Mapping[str, Any]) -> MpiGroup:
    """Take this rank's place in MPI's world."""
    return MpiGroup(settings)
