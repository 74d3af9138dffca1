"""TCP connections between hosts, found and broken by ss."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from holdfast.errors import FabricError
from holdfast.fabric.kernel.commands import ss_in

_STATES = ("state", "connected", "exclude", "time-wait")


class Connection(NamedTuple):
    """A TCP connection as one of its hosts sees it: addresses and ports."""

    local: str
    local_port: int
    peer: str
    peer_port: int


def connections(
    between: Mapping[str, Iterable[tuple[str, str]]],
) -> dict[str, set[Connection]]:
    """Return by namespace the connections that it has between such addresses, local and peer."""
    asked = {name: frozenset(pairs) for name, pairs in between.items()}
    printed = ss_in({name: ["-Htn", *_STATES] for name in asked})
    return {
        name: {
            found
            for fields in printed[name]
            if ((found := _parse(fields)).local, found.peer) in asked[name]
        }
        for name in asked
    }


def reset(by_namespace: Mapping[str, Iterable[Connection]]) -> None:
    """Break connections: whoever uses one there gets an error, and its peer is sent a reset.

    Raises FabricError where the kernel does not do it. One that has ended meanwhile is none.
    """
    wanted = {name: frozenset(each) for name, each in by_namespace.items() if each}
    killed = ss_in({name: ["-HtnK", *_STATES, *_any_of(each)] for name, each in wanted.items()})
    # It says nothing where the kernel cannot, and neither where all had ended by then.
    spared = {name: each for name, each in wanted.items() if not killed[name]}
    after = connections({name: [(c.local, c.peer) for c in each] for name, each in spared.items()})
    for name, each in spared.items():
        if after[name] & each:
            raise FabricError(
                f"connections in {name} outlive `ss -K`: this needs a kernel built with "
                "CONFIG_INET_DIAG_DESTROY; use the relay network for resets"
            )


def _any_of(each: Iterable[Connection]) -> list[str]:
    words: list[str] = []
    for found in each:
        words += ["or"] if words else []
        words += ["(", "src", found.local, "and", "dst", found.peer, "and"]
        words += ["sport", "=", f":{found.local_port}", "and"]
        words += ["dport", "=", f":{found.peer_port}", ")"]
    return words


def _parse(fields: list[str]) -> Connection:
    """Read a line of ss: state, two queues, local and peer address with their ports."""
    (local, local_port), (peer, peer_port) = (each.rsplit(":", 1) for each in fields[3:5])
    return Connection(_plain(local), int(local_port), _plain(peer), int(peer_port))


def _plain(address: str) -> str:
    """Return an address as it is on the wire: an IPv6 socket shows IPv4 ones in its own way."""
    return address.removeprefix("[::ffff:").removesuffix("]").split("%")[0]
