"""Holdfast's collectives as a measured library; `settings` say rank, port, token and transport."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.collectives import GroupConfig, connect
from holdfast.launch.bandwidth.ranks.rank import Array


class HoldfastGroup:
    """Ranks over one transport, with arrays of the communicator: peers read them in place."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._communicator = connect(
            GroupConfig(
                rank=settings["rank"],
                world_size=settings["world_size"],
                master_addr=settings["master_addr"],
                master_port=settings["master_port"],
                token=bytes.fromhex(settings["token"]),
                transport=settings["transport"],
                timeout=settings["timeout"],
                listen_fd=settings["listen_fd"],
            )
        )
        self.rank = self._communicator.rank
        self.world_size = self._communicator.world_size
        self.version = importlib.metadata.version("holdfast")
        count = settings["max_size"] // 4
        self._source = self._communicator.allocate(count, np.float32)
        self._result = self._communicator.allocate(count, np.float32, common=True)
        self._in_place = self._communicator.allocate(count, np.float32)

    def operation(self, count: int, in_place: bool) -> tuple[Array, Array, Callable[[], object]]:
        """Return input, output and the sum of one into the other; see `rank.Group`."""
        communicator = self._communicator
        if in_place:
            both = self._in_place[:count]
            return both, both, lambda: communicator.all_reduce(both)
        source, result = self._source[:count], self._result[:count]
        return source, result, lambda: communicator.all_reduce(source, out=result)

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self._communicator.barrier()

    def close(self) -> None:
        """Leave the group."""
        self._communicator.close()


def open_group(settings: Mapping[str, Any]) -> HoldfastGroup:
    """Connect this rank to the others."""
    return HoldfastGroup(settings)
