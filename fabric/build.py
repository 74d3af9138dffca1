"""Build a network by the name of its kind."""

from collections.abc import Callable
from importlib import import_module

from holdfast.errors import UsageError
from holdfast.fabric.hosts import HostsEngine, ToldBy
from holdfast.fabric.network import Network
from holdfast.fabric.topology import Topology

_ENGINES = {
    "relay": ("holdfast.fabric.relay.engine", "RelayEngine"),
    "kernel": ("holdfast.fabric.kernel.engine", "KernelEngine"),
}

FABRICS = tuple(_ENGINES)
"""The kinds of network on which processes run; `simulated/engine.py` is the one for none."""


def build(kind: str, topology: Topology, told: ToldBy | None = None) -> Network[HostsEngine]:
    """Return a network of hosts that run processes; close it, or use `with`.

    `relay` needs nothing; `kernel` needs root and raises FabricError without. `told(rank, event)`
    is called with what workers tell.
    """
    if kind not in _ENGINES:
        raise UsageError(f"a fabric of {' or '.join(_ENGINES)} was expected, found {kind!r}")
    module, name = _ENGINES[kind]
    make: Callable[[Topology, ToldBy | None], HostsEngine] = getattr(import_module(module), name)
    engine = make(topology, told)
    network = Network(engine)
    engine.network = network
    return network
