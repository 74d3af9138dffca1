"""Gloo, by way of torch.distributed, as a measured library: one thread per rank."""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

Array = npt.NDArray[np.float32]


class GlooGroup:
    """Ranks over Gloo. Its all-reduce and reduce are in place only."""

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
        count = settings["max_size"] // 4
        self._source: Array = np.zeros(count, dtype=np.float32)
        self._result: Array = np.zeros(count, dtype=np.float32)

    def operation(self, asked: Any) -> tuple[Array | None, Array | None, Callable[[], Any]]:
        """Return input, output and what makes one of the other; see `rank.Operation`."""
        source = self._source[: asked.given]
        result = source if asked.in_place else self._result[: asked.got]
        x, out = torch.from_numpy(source), torch.from_numpy(result)
        rank, root = self.rank, self.rank == 0
        each = list((x if asked.collective == "scatter" else out).chunk(self.world_size))
        calls: dict[str, Callable[[], object]] = {
            "all-reduce": lambda: dist.all_reduce(out),
            "reduce-scatter": lambda: dist.reduce_scatter_tensor(out, x),
            "all-gather": lambda: dist.all_gather_into_tensor(out, x),
            "broadcast": lambda: dist.broadcast(out, 0),
            "reduce": lambda: dist.reduce(x, 0),
            "all-to-all": lambda: dist.all_to_all_single(out, x),
            "gather": lambda: dist.gather(x, each if root else None),
            "scatter": lambda: dist.scatter(out, each if root else None),
            "send-recv": lambda: (
                dist.send(x, rank + 1)
                if asked.given
                else dist.recv(out, rank - 1)
                if asked.got
                else None
            ),
            "barrier": dist.barrier,
        }
        call = calls[asked.collective]
        got = result if asked.got else None

        def run() -> Array | None:
            call()
            return got

        return source if asked.given else None, None if asked.in_place else got, run

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        dist.destroy_process_group()


def open_group(settings: Mapping[str, Any]) -> GlooGroup:
    """Connect this rank to the others."""
    return GlooGroup(settings)
