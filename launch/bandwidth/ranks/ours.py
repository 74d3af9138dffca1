"""Holdfast's collectives as a measured library.

`settings` say rank, world size, master, token, transport and this rank's address; `interfaces`,
`algorithm` and `link` are `GroupConfig`'s.
"""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from holdfast.collectives import GroupConfig, LinkConfig, connect
from holdfast.launch.bandwidth.ranks.collectives import Asked
from holdfast.launch.bandwidth.ranks.rank import Array, Operation

BY_ROWS = ("all-to-all", "scatter")
"""What takes an array with a row for each rank."""


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
                address=settings["address"],
                control_address=settings["address"],
                interfaces=tuple(settings.get("interfaces", ())),
                algorithm=settings.get("algorithm", "auto"),
                link=LinkConfig(**settings.get("link", {})),
            )
        )
        self.rank = self._communicator.rank
        self.world_size = self._communicator.world_size
        self.version = importlib.metadata.version("holdfast")
        count = settings["max_size"] // 4
        self._source = self._communicator.allocate(count, np.float32)
        self._common = self._communicator.allocate(count, np.float32, common=True)
        self._result = self._communicator.allocate(count, np.float32)

    def operation(self, asked: Asked) -> Operation:
        """Return this rank's part of what is asked."""
        ranks, rank = self._communicator, self.rank
        result = self._common if asked.collective == "all-reduce" else self._result
        x = self._source[: asked.given]
        out = x if asked.in_place else result[: asked.got]
        rows = x.reshape(self.world_size, -1) if asked.collective in BY_ROWS else x
        calls: dict[str, Callable[[], Array | None]] = {
            "all-reduce": lambda: ranks.all_reduce(x, out=out),
            "reduce-scatter": lambda: ranks.reduce_scatter(x),
            "all-gather": lambda: ranks.all_gather(x),
            "broadcast": lambda: ranks.broadcast(out),
            "reduce": lambda: ranks.reduce(x),
            "all-to-all": lambda: ranks.all_to_all(rows),
            "gather": lambda: ranks.gather(x),
            "scatter": lambda: ranks.scatter(rows if asked.given else None, out),
            "send-recv": lambda: (
                ranks.send(x, rank + 1)
                if asked.given
                else ranks.recv(out, rank - 1)
                if asked.got
                else None
            ),
            "barrier": ranks.barrier,
        }
        cleared = None if asked.in_place or not asked.got else out
        return Operation(x if asked.given else None, cleared, calls[asked.collective])

    def barrier(self) -> None:
        """Return when all ranks have come here."""
        self._communicator.barrier()

    def close(self) -> None:
        """Leave the group."""
        self._communicator.close()


def open_group(settings: Mapping[str, Any]) -> HoldfastGroup:
    """Connect this rank to the others."""
    return HoldfastGroup(settings)
