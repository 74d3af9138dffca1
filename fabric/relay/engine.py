"""A network without privileges: hosts are process groups on loopback addresses, joined by a relay.

Each NIC has two addresses. To its *own* one, 127.A.1.n, the host's processes bind as servers and as
clients. At its *public* one, 127.A.2.n, the relay listens for the others: who dials is known by the
source address, who is dialled by the address dialled. A is the network's; networks that exist at
the same time have different ones.

What this network cannot do is hold processes to it: one that dials another host's own address, or
speaks UDP, meets no relay.
"""

import contextlib
import errno
import logging
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from holdfast.errors import FabricError, UsageError
from holdfast.fabric import leftovers
from holdfast.fabric.condition import Condition, Pair, Place, baseline
from holdfast.fabric.faults import KINDS
from holdfast.fabric.hosts import Host, HostsEngine, ToldBy
from holdfast.fabric.leftovers import Traces
from holdfast.fabric.relay.connection import Address, Route, Way
from holdfast.fabric.relay.relay import Relay
from holdfast.fabric.topology import NetworkName, Nic, Topology

_LOCK_PORT = 29599  # UDP, at 127.A.0.1: whoever has it has the network 127.A
_IN_A_ROW = 250  # NICs of which the third byte of the address is the same
_MOST_NICS = 127 * _IN_A_ROW

log = logging.getLogger("holdfast.relay")


class RelayHost(Host):
    """A host of a relayed network."""

    def __init__(self, name: str, traces: Traces, engine: "RelayEngine") -> None:
        super().__init__(name, traces)
        self._engine = engine

    def address(self, network: NetworkName = "data") -> str:
        """Return the address that this host's processes bind to, as servers and as clients."""
        return self._engine.own_address(self._engine.nic_of(self.name, network))

    def public(self, port: int, network: NetworkName = "data") -> Address:
        """Return where the other hosts reach what listens here on `address(network)` and `port`.

        From the first call on, the relay listens there. Raises FabricError if it cannot.
        """
        return self._engine.listen(self._engine.nic_of(self.name, network), port)

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return `argv`: a host's processes are plain ones."""
        return list(argv)


class RelayEngine(HostsEngine):
    """Carries out every fault there is, without privileges.

    Chance is drawn from `seed`. Raises FabricError if no network 127.A is free.
    """

    name = "relay"
    kinds = frozenset(KINDS)

    def __init__(self, topology: Topology, told: ToldBy | None = None, *, seed: int = 0) -> None:
        nics = [nic for host in topology.hosts for nic in topology.nics(host)]
        if len(nics) > _MOST_NICS:
            raise UsageError(
                f"a relayed network has up to {_MOST_NICS} NICs, {topology.name} has {len(nics)}"
            )
        leftovers.sweep()
        super().__init__(topology, told)
        self._stack = contextlib.ExitStack()
        try:
            prefix = f"127.{self._stack.enter_context(_claim())}"
            self._own = {nic: _address(prefix, place, 1) for place, nic in enumerate(nics)}
            self._public = {nic: _address(prefix, place, 2) for place, nic in enumerate(nics)}
            self._nics = {address: nic for nic, address in self._own.items()}
            self._listeners: dict[tuple[Nic, int], Address] = {}
            self._lock = threading.Lock()
            self._dialled: Counter[tuple[Nic, Nic]] = Counter()
            self._relay = self._stack.enter_context(Relay(seed=seed))
            self.hosts.update((name, RelayHost(name, self.traces, self)) for name in topology.hosts)
            self.impose(baseline(topology))
        except BaseException:
            self.close()
            raise

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others."""
        self._relay.impose(total)

    def reset(self, where: frozenset[Place], one_end: str | None) -> None:
        """Break the connections that pass there; tell both ends, or only host `one_end`."""
        self._relay.reset(where, one_end)

    def remove(self) -> None:
        """End the relay and give the addresses free."""
        self._stack.close()

    @property
    def refused(self) -> int:
        """How many connections were refused: of strangers, or between NICs without a path."""
        return self._relay.refused

    def passed(self) -> dict[Place, int]:
        """Return how many bytes have passed each lane and pair of hosts until now."""
        return self._relay.passed()

    def own_address(self, nic: Nic) -> str:
        """Return the address that processes bind to."""
        return self._own[nic]

    def listen(self, nic: Nic, port: int) -> Address:
        """Have the relay listen for what listens at `port` of a NIC's own address; return where."""
        if not 0 < port < 1 << 16:
            raise UsageError(f"a port from 1 to 65535 was expected, found {port}")
        with self._lock:
            if (nic, port) not in self._listeners:
                self._listeners[nic, port] = self._relay.listen(
                    (self._public[nic], port), partial(self._admit, nic, port)
                )
            return self._listeners[nic, port]

    def _admit(self, target: Nic, port: int, dialler: Address) -> Route | None:
        """Return the way that a new connection takes; called in the relay's thread."""
        address = (self._own[target], port)
        source = self._nics.get(dialler[0])
        if source is None:
            log.warning(
                "a connection to %s from %s:%d is refused: no host has that address. Does the "
                "process bind to its host's address before it connects?",
                target.host,
                *dialler,
            )
            return None
        if source.host == target.host:
            return Route(address, source=dialler[0], dialler=source.host, listener=target.host)
        number = self._dialled[source, target]
        try:
            there = self.topology.route(source, target, number)
            back = self.topology.route(target, source, number)
        except UsageError as error:
            log.warning("a connection is refused: %s", error)
            return None
        self._dialled[source, target] += 1
        network = self.topology.cables[self.topology.cable_of(target)].network
        return Route(
            address,
            Way((*there, Pair(source.host, target.host, network))),
            Way((*back, Pair(target.host, source.host, network))),
            source=dialler[0],
            dialler=source.host,
            listener=target.host,
        )


def _address(prefix: str, place: int, side: int) -> str:
    block, rest = divmod(place, _IN_A_ROW)
    return f"{prefix}.{2 * block + side}.{rest + 1}"


@contextlib.contextmanager
def _claim() -> Iterator[int]:
    """Hold a network 127.A that no other relayed network has; yield A."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for turn in range(254):
            number = (os.getpid() + turn) % 254 + 1
            try:
                sock.bind((f"127.{number}.0.1", _LOCK_PORT))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise FabricError(
                        f"127.{number}.0.1 cannot be used: {error.strerror}"
                    ) from None
                continue
            yield number
            return
    raise FabricError(
        "none of the networks 127.1 to 127.254 is free: are that many relayed networks open, or "
        f"does a program have UDP port {_LOCK_PORT} of every address?"
    )
