"""Gloo, by way of torch.distributed, as a measured library: in place, one thread per rank."""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

Array = npt.NDArray[np.float32]


class GlooGroup:
    """Ranks over Gloo. It sums in place only."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        self.rank: int = settings["rank"]
        self.world_size: int = settings["world_size"]
        self.version = f"torch {torch.__version__}"
        timeout = datetime.timedelta(seconds=settings["timeout"])
        store = dist.TCPStore(
            settings["master_addr"],
            settings["master_port"],
            self.world_size,
            is_master=self.rank == 0,
            timeout=timeout,
            master_listen_fd=settings["listen_fd"],
        )
        dist.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.world_size, timeout=timeout
        )
        self._array: Array = np.zeros(settings["max_size"] // 4, dtype=np.float32)
        self._tensor = torch.from_numpy(self._array)

    def operation(self, count: int, in_place: bool) -> tuple[Array, Array, Callable[[], object]]:
        """Return input, output and the sum of one into the other; see `rank.Group`."""
        if not in_place:
            raise ValueError("Gloo's all-reduce is in place only")
        array, tensor = self._array[:count], self._tensor[:count]
        return array, array, lambda: dist.all_reduce(tensor)

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def open_group(settings: Mapping[str, Any]) -> GlooGroup:
    """Connect this rank to the others."""
    return GlooGroup(settings)
