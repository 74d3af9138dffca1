"""The agent of a node: a Ray actor that starts the node's workers and tells what they do.

It holds the node's share of the placement group and does nothing but pass on: what it decides with
stands in `WorkerGroup`. When its process ends, however it ends, its workers end too.
"""

import os
import platform
import socket
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import LaunchError, RendezvousError, UsageError
from holdfast.launch.environment import DEVICE_VARIABLES, MACHINE_VARIABLES
from holdfast.launch.workers import WorkerCommand, WorkerEvent, WorkerGroup

GATHER = 0.02
"""Seconds for which a batch of events is gathered after its first one."""

OF_NODE = MACHINE_VARIABLES | DEVICE_VARIABLES


@dataclass(frozen=True)
class NodeFacts:
    """What the launcher has to know of an agent's node: its cores, its Python, its variables."""

    cores: int
    python: str
    environment: Mapping[str, str]


class Agent:
    """One per node. Ray calls it from several threads: `poll` waits while others come."""

    def __init__(self) -> None:
        self._rendezvous: socket.socket | None = None
        self._group: WorkerGroup | None = None
        self._polling = threading.Lock()
        self._batch: tuple[int, list[WorkerEvent]] = (0, [])

    def facts(self, script: str, cwd: str) -> NodeFacts:
        """Say what this node is. Raises UsageError if it lacks the script or the folder."""
        if not Path(cwd).is_dir() or not Path(cwd, script).is_file():
            raise UsageError(
                f"script {script} isn't there on {platform.node()} (looked in {cwd}): every node "
                "needs it at the same path, as on a shared disk"
            )
        return NodeFacts(
            cores=len(os.sched_getaffinity(0)),
            python=sys.executable,
            environment={name: os.environ[name] for name in OF_NODE if name in os.environ},
        )

    def open_rendezvous(self, address: str) -> int:
        """Listen on a free port of `address` and return it; the worker of rank 0 gets the socket.

        Raises RendezvousError.
        """
        self._close_rendezvous()
        try:
            self._rendezvous = socket.create_server((address, 0), backlog=1024)
        except OSError as error:
            raise RendezvousError(
                f"{platform.node()} cannot listen on its address {address} for the ranks to meet: "
                f"{error}"
            ) from error
        return int(self._rendezvous.getsockname()[1])

    def start(self, commands: Sequence[WorkerCommand]) -> None:
        """Start an attempt's workers; those of the attempt before must have ended."""
        if self._group is not None:
            self._group.stop(grace=0)
        self._batch = (0, [])
        rendezvous, self._rendezvous = self._rendezvous, None
        self._group = WorkerGroup(commands, rendezvous)

    def poll(self, received: int, timeout: float) -> tuple[int, list[WorkerEvent]]:
        """Return the next batch of events and its number, waiting up to `timeout` seconds.

        `received` is the number of the last batch that arrived, 0 for none: one that was lost on
        its way is sent again.
        """
        with self._polling:
            number, _ = self._batch
            if received < number:
                return self._batch
            if self._group is None:
                raise LaunchError("the agent was asked for events before it was told to start")
            events = self._group.poll(timeout, gather=GATHER)
            if events:
                self._batch = (number + 1, events)
                return self._batch
            return number, []

    def stop(self, grace: float) -> None:
        """Have the workers end; `poll` tells when they have."""
        if self._group is not None:
            self._group.begin_stop(grace)

    def close(self) -> None:
        """End whatever still runs, at once."""
        self._close_rendezvous()
        if self._group is not None:
            self._group.stop(grace=0)

    def _close_rendezvous(self) -> None:
        if self._rendezvous is not None:
            self._rendezvous.close()
            self._rendezvous = None
