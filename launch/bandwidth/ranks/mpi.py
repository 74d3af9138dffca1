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

    def operation(self, asked: Any) -> tuple[Array | None, Array | None, Callable[[], Any]]:
        """Return input, output and what makes one of the other; see `rank.Operation`."""
        world, rank, root = self._world, self.rank, self.rank == 0
        x = self._source[: asked.given]
        out = x if asked.in_place else self._result[: asked.got]
        calls: dict[str, Callable[[], object]] = {
            "all-reduce": lambda: world.Allreduce(MPI.IN_PLACE if asked.in_place else x, out),
            "reduce-scatter": lambda: world.Reduce_scatter_block(x, out),
            "all-gather": lambda: world.Allgather(x, out),
            "broadcast": lambda: world.Bcast(out, 0),
            "reduce": lambda: world.Reduce(x, out if root else None, root=0),
            "all-to-all": lambda: world.Alltoall(x, out),
            "gather": lambda: world.Gather(x, out if root else None, 0),
            "scatter": lambda: world.Scatter(x if root else None, out, 0),
            "send-recv": lambda: (
                world.Send(x, rank + 1)
                if asked.given
                else world.Recv(out, rank - 1)
                if asked.got
                else None
            ),
            "barrier": world.Barrier,
        }
        call = calls[asked.collective]
        got = out if asked.got else None

        def run() -> Array | None:
            call()
            return got

        return x if asked.given else None, None if asked.in_place else got, run

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self._world.Barrier()

    def close(self) -> None:
        """Leave MPI's world."""
        MPI.Finalize()


def open_group(settings: Mapping[str, Any]) -> MpiGroup:
    """Take this rank's place in MPI's world."""
    return MpiGroup(settings)
