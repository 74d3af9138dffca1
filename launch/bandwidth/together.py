"""How the ranks of a measurement come together: started by somebody else, or by rank 0 itself.

`holdfast bench link`, `matrix` and `tune` are one program that every rank runs. Where the
environment says which rank this is (`holdfast launch`, mpiexec, srun, or RANK, WORLD_SIZE,
MASTER_ADDR and HOLDFAST_TOKEN by hand on two machines), it is that one. Otherwise this process is
rank 0 on this host and starts the same command again for the others.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from holdfast import exec
from holdfast.collectives import Communicator, GroupConfig
from holdfast.errors import CommunicationError
from holdfast.launch.bandwidth.processes import (
    Process,
    signal_groups,
    spawn,
    wait_for_all,
    worker_failed,
)
from holdfast.runtime.worker import WorkerSpec

_LOOPBACK = "127.0.0.1"
_LONGEST = 64 << 10  # bytes of what a rank tells the others
_START = 60.0  # seconds that ranks started here have to come
_FAREWELL = 5.0  # seconds that the other ranks have to end when this one is done


@dataclass(frozen=True)
class Seat:
    """This process's place among the ranks, from which it may join several groups in turn."""

    base: GroupConfig

    @property
    def rank(self) -> int:
        """Which rank this is."""
        return self.base.rank

    def config(self, **changes: Any) -> GroupConfig:
        """Return what the next group is joined with: the base, with `changes` to its fields."""
        if self.base.listen_fd is not None:
            changes["listen_fd"] = os.dup(self.base.listen_fd)  # joining closes it
        return replace(self.base, **changes)

    def over_tcp(self, interfaces: tuple[str, ...], rails: int) -> GroupConfig:
        """Return what a group over TCP is joined with.

        No `interfaces` and 0 `rails` leave it to the environment (`Wires`).
        """
        return self.config(
            transport="tcp",
            interfaces=interfaces or self.base.interfaces,
            link=replace(self.base.link, rails=rails) if rails else self.base.link,
        )


@contextlib.contextmanager
def seated(ranks: int, environ: Mapping[str, str]) -> Iterator[Seat]:
    """Yield this process's seat; there are `ranks` where the environment says nothing of ranks.

    What was started here has ended when the context is left. Raises WorkerFailed, with what it
    printed last, where a rank that was started here ends in an error.
    """
    place = WorkerSpec.from_environ(environ)
    if place.world_size > 1:
        yield Seat(_base(place))
        return
    token = secrets.token_bytes(32)
    with socket.create_server((_LOOPBACK, 0), backlog=ranks) as meeting:
        port = meeting.getsockname()[1]
        others: list[Process] = []
        try:
            for rank in range(1, ranks):
                others.append(_start(rank, ranks, port, token, environ))
            here = replace(
                place,
                world_size=ranks,
                master_addr=_LOOPBACK,
                master_port=port,
                token=token,
                rendezvous_fd=meeting.fileno(),
                rendezvous_seconds=_START,
                address=_LOOPBACK,
            )
            yield Seat(_base(here))
            _await_ends(others)
        except CommunicationError as error:
            _await_ends(others, error)
            raise
        finally:
            signal_groups(others, signal.SIGKILL)
            for each in others:
                each.child.wait()
                each.output.close()


def _base(place: WorkerSpec) -> GroupConfig:
    return GroupConfig(
        rank=place.rank,
        world_size=place.world_size,
        master_addr=place.master_addr,
        master_port=place.master_port,
        token=place.token,
        transport=place.transport,
        listen_fd=place.rendezvous_fd,
        timeout=place.timeout_seconds,
        meeting=place.rendezvous_seconds,
        address=place.address,
        port=place.port,
        public=place.public,
        control_address=place.control_address,
        interfaces=place.wires.interfaces,
        link=place.wires.link,
        algorithm=place.wires.algorithm,
        model=place.wires.model,
    )


def _start(rank: int, ranks: int, port: int, token: bytes, environ: Mapping[str, str]) -> Process:
    """Start this command again as another rank; it ends with the thread that calls this."""
    command = [sys.executable, "-m", "holdfast", *sys.argv[1:]]
    environment = {
        **environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(port),
        "HOLDFAST_TOKEN": token.hex(),
        "HOLDFAST_ADDRESS": _LOOPBACK,
    }
    starter = [sys.executable, "-S", "-E", exec.__file__, str(os.getpid()), "--"]
    return spawn([*starter, *command], environment, rank)


def _await_ends(others: list[Process], because: Exception | None = None) -> None:
    """Give the others time to end; raise WorkerFailed for the first that ended in an error."""
    wait_for_all(others, _FAREWELL)
    for each in others:
        if each.rank is not None and each.child.poll() not in (0, None):
            raise worker_failed(f"rank {each.rank} ended", each, each.rank) from because


def tell(communicator: Communicator, value: object) -> list[Any]:
    """Return what every rank tells, in order of rank; whatever JSON can say."""
    said = json.dumps(value).encode()
    assert len(said) <= _LONGEST - 4, "ranks tell each other figures, not arrays"
    line = np.zeros(_LONGEST, np.uint8)
    line[:4] = np.frombuffer(len(said).to_bytes(4), np.uint8)
    line[4 : 4 + len(said)] = np.frombuffer(said, np.uint8)
    return [
        json.loads(each[4 : 4 + int.from_bytes(each[:4].tobytes())].tobytes())
        for each in communicator.all_gather(line)
    ]
