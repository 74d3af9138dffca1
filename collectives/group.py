"""How a rank joins its group: meet the others, agree on a transport, open it.

Transports are found by name in a registry; another package adds one with `register`.
"""

import socket
from collections.abc import Callable
from typing import Any, Protocol

from holdfast.collectives.communicator import SELF_MEETING, Communicator, GroupConfig
from holdfast.collectives.cost import CostModel, terms
from holdfast.collectives.links.interfaces import address_of
from holdfast.collectives.links.tcp import TcpTransport
from holdfast.collectives.local import LocalCommunicator
from holdfast.collectives.mpi.native import open_mpi
from holdfast.collectives.mpi.transport import open_mpi_p2p
from holdfast.collectives.nccl.communicator import open_nccl, open_pynccl
from holdfast.collectives.nccl.gpu import CupyGpu
from holdfast.collectives.rendezvous import Rendezvous, host_identity, listen
from holdfast.collectives.scheduled import ScheduledCommunicator
from holdfast.collectives.shm.communicator import SharedMemoryCommunicator
from holdfast.collectives.two_level import open_two_level, two_level_shape
from holdfast.errors import UsageError

Opener = Callable[[GroupConfig, Rendezvous], Communicator]
"""Makes a communicator once the ranks have met; may `exchange` tables as often as it needs."""

_openers: dict[str, Opener] = {}
NCCL = ("nccl", "pynccl")
"""Transports of a GPU's arrays."""
_by_mpi = {"mpi": open_mpi, "mpi-p2p": open_mpi_p2p}
assert set(_by_mpi) == set(SELF_MEETING)


class Meeting(Protocol):
    """Where the ranks of a group exchange tables."""

    @property
    def local_address(self) -> str:
        """This host's address as the others reach it."""

    def exchange(self, table: dict[str, Any]) -> list[dict[str, Any]]:
        """Give this rank's table; return those of all ranks of the group."""


def register(name: str, opener: Opener) -> None:
    """Make a transport known as `name`."""
    if name in transports():
        raise ValueError(f"a transport named {name!r} is there already")
    _openers[name] = opener


def transports() -> list[str]:
    """Return the names that `GroupConfig.transport` takes."""
    return ["auto", *sorted({*_openers, *_by_mpi})]


def connect(config: GroupConfig) -> Communicator:
    """Join the group and return its communicator, which the caller closes.

    Every rank calls it. `auto` is shared memory where all ranks are on one host; shared memory and
    TCP where there are several hosts with the same number of ranks, more than one; else TCP. It is
    TCP, too, where an algorithm is asked for that only TCP has. Raises
    UsageError for a transport that is unknown or cannot serve these hosts, RendezvousError where
    the ranks do not find each other within `config.meeting`, AuthenticationError for a wrong token.
    """
    if config.transport not in transports():
        raise UsageError(
            f"a transport of {', '.join(transports())} was expected, found {config.transport!r}"
        )
    if config.listen_fd is not None and (
        config.world_size == 1 or config.transport in SELF_MEETING
    ):
        socket.socket(fileno=config.listen_fd).close()  # nobody is to come
    if config.world_size == 1:
        return LocalCommunicator(CupyGpu() if config.transport in NCCL else None)
    if config.transport in SELF_MEETING:
        return _by_mpi[config.transport](config)
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
        tables = table.exchange(
            {
                "transport": config.transport,
                "algorithm": config.algorithm,
                "host": host_identity(),
            }
        )
        name = _agree(
            [entry["transport"] for entry in tables],
            [entry["host"] for entry in tables],
            tables[0]["algorithm"],
        )
        return _openers[name](config, table)


def _agree(asked: list[str], hosts: list[str], algorithm: str) -> str:
    """Return the transport that all ranks use; the algorithm is rank 0's."""
    if len(set(asked)) > 1:
        raise UsageError(
            "the ranks ask for different transports: "
            + ", ".join(f"rank {rank} {name}" for rank, name in enumerate(asked))
        )
    if algorithm != "auto":
        terms(algorithm, len(hosts), 0)  # refuses a name that there isn't
    one_host = len(set(hosts)) == 1
    if asked[0] == "auto":
        if one_host:
            return "shm" if algorithm in ("auto", "ring") else "tcp"
        return "two-level" if algorithm == "auto" and two_level_shape(hosts) else "tcp"
    if asked[0] == "shm" and not one_host:
        raise UsageError(
            f"the transport shm needs all ranks on one host; found {len(set(hosts))} hosts: "
            "take --transport tcp or auto"
        )
    if asked[0] == "shm" and algorithm not in ("auto", "ring"):
        raise UsageError(
            f"shared memory adds in the ring's order; the algorithm {algorithm!r} needs "
            "--transport tcp"
        )
    return asked[0]


def _open_tcp(config: GroupConfig, table: Meeting) -> Communicator:
    own = [address_of(interface) for interface in config.interfaces]
    sources: list[str | None] = [*own] if own else [config.address]
    own = own or [config.address or table.local_address]
    listeners: list[socket.socket] = []
    try:
        for number, address in enumerate(own):
            listeners.append(listen(address, config.port + number if config.port else 0))
        where = [listener.getsockname()[:2] for listener in listeners]
        if config.public is not None:
            where[0] = config.public
        tables = table.exchange({"addresses": where, **_link_terms(config)})
        _agree_on_links(tables)
        transport = TcpTransport(
            config.rank,
            listeners,
            [[(host, port) for host, port in entry["addresses"]] for entry in tables],
            config.token,
            epoch=config.epoch,
            sources=sources,
            timeout=config.timeout,
            config=config.link,
            witness=config.witness,
        )
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    algorithm, model = tables[0]["algorithm"], tables[0]["model"]
    several = config.link.rails * max(len(entry["addresses"]) for entry in tables) > 1
    try:
        return ScheduledCommunicator(
            transport,
            "tcp",
            segment=config.link.segment // 2 if several else config.link.segment,
            witness=config.witness,
            algorithm=algorithm,
            model=None if model is None else CostModel.from_json(model),
        )
    except BaseException:
        transport.close(graceful=False)
        raise


def _link_terms(config: GroupConfig) -> dict[str, Any]:
    """Return what both ends of a link must agree on, and what rank 0 decides for all."""
    link = config.link
    return {
        "segment": link.segment,
        "rails": link.rails,
        "checksum": link.checksum,
        "tls": link.tls is not None,
        "algorithm": config.algorithm,
        "model": None if config.model is None else config.model.to_json(),
    }


def _agree_on_links(tables: list[dict[str, Any]]) -> None:
    for term in ("segment", "rails", "checksum", "tls"):
        if any(entry[term] != tables[0][term] for entry in tables):
            raise UsageError(
                f"the ranks' links differ in {term}: "
                + ", ".join(f"rank {rank} {entry[term]}" for rank, entry in enumerate(tables))
                + "; give all the same LinkConfig"
            )


def _open_shm(config: GroupConfig, table: Meeting) -> Communicator:
    return SharedMemoryCommunicator(
        config.rank, config.world_size, table.exchange, timeout=config.timeout
    )


def _open_two_level(config: GroupConfig, table: Rendezvous) -> Communicator:
    hosts = [entry["host"] for entry in table.exchange({"host": host_identity()})]
    shape = two_level_shape(hosts)
    if shape is None:
        numbers = {host: number for number, host in enumerate(dict.fromkeys(hosts))}
        raise UsageError(
            "the transport two-level needs several hosts with the same number of ranks each, more "
            "than one, numbered host by host; the ranks are on hosts number "
            + ", ".join(str(numbers[host]) for host in hosts)
            + ": take --transport tcp"
        )
    return open_two_level(config, table, shape, _open_tcp)


register("tcp", _open_tcp)
register("shm", _open_shm)
register("two-level", _open_two_level)
register("nccl", open_nccl)
register("pynccl", open_pynccl)
