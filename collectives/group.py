"""How a rank joins its group: meet the others, agree on a transport, open it.

Transports are found by name in a registry; another package adds one with `register`.
"""

import socket
from collections.abc import Callable

from holdfast.collectives.communicator import Communicator, GroupConfig
from holdfast.collectives.local import LocalCommunicator
from holdfast.collectives.rendezvous import Rendezvous, host_identity, listen
from holdfast.collectives.scheduled import ScheduledCommunicator
from holdfast.collectives.shm import SharedMemoryCommunicator
from holdfast.collectives.tcp import TcpTransport
from holdfast.errors import UsageError

Opener = Callable[[GroupConfig, Rendezvous], Communicator]
"""Makes a communicator once the ranks have met; may `exchange` tables as often as it needs."""

_openers: dict[str, Opener] = {}


def register(name: str, opener: Opener) -> None:
    """Make a transport known as `name`."""
    if name in _openers or name == "auto":
        raise ValueError(f"a transport named {name!r} is there already")
    _openers[name] = opener


def transports() -> list[str]:
    """Return the names that `GroupConfig.transport` takes."""
    return ["auto", *sorted(_openers)]


def connect(config: GroupConfig) -> Communicator:
    """Join the group and return its communicator, which the caller closes.

    Every rank calls it. `auto` is shared memory where all ranks are on one host, else TCP. Raises
    UsageError for a transport that is unknown or cannot serve these hosts, RendezvousError where
    the ranks do not find each other within `config.meeting`, AuthenticationError for a wrong token.
    """
    if config.transport not in transports():
        raise UsageError(
            f"a transport of {', '.join(transports())} was expected, found {config.transport!r}"
        )
    if config.world_size == 1:
        if config.listen_fd is not None:
            socket.socket(fileno=config.listen_fd).close()
        return LocalCommunicator()
    with Rendezvous(
        config.rank,
        config.world_size,
        config.master_addr,
        config.master_port,
        config.token,
        listen_fd=config.listen_fd,
        source=config.control_address or config.address,
        timeout=config.meeting,
    ) as table:
        tables = table.exchange({"transport": config.transport, "host": host_identity()})
        name = _agree([entry["transport"] for entry in tables], [entry["host"] for entry in tables])
        return _openers[name](config, table)


def _agree(asked: list[str], hosts: list[str]) -> str:
    """Return the transport that all ranks use."""
    if len(set(asked)) > 1:
        raise UsageError(
            "the ranks ask for different transports: "
            + ", ".join(f"rank {rank} {name}" for rank, name in enumerate(asked))
        )
    one_host = len(set(hosts)) == 1
    if asked[0] == "auto":
        return "shm" if one_host else "tcp"
    if asked[0] == "shm" and not one_host:
        raise UsageError(
            f"the transport shm needs all ranks on one host; found {len(set(hosts))} hosts: "
            "take --transport tcp or auto"
        )
    return asked[0]


def _open_tcp(config: GroupConfig, table: Rendezvous) -> Communicator:
    address = config.address or table.local_address
    listener = listen(address, config.port)
    try:
        public = config.public or listener.getsockname()[:2]
        tables = table.exchange({"address": public[0], "port": public[1]})
        transport = TcpTransport(
            config.rank,
            listener,
            [(entry["address"], entry["port"]) for entry in tables],
            config.token,
            epoch=config.epoch,
            source=config.address,
            timeout=config.timeout,
            config=config.link,
            witness=config.witness,
        )
    except BaseException:
        listener.close()
        raise
    return ScheduledCommunicator(
        transport, "tcp", segment=config.link.segment, witness=config.witness
    )


def _open_shm(config: GroupConfig, table: Rendezvous) -> Communicator:
    return SharedMemoryCommunicator(config, table)


register("tcp", _open_tcp)
register("shm", _open_shm)
