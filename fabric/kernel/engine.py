"""A network of the kernel's: hosts are network namespaces, switches route, cables are veth pairs.

Nothing stands between two processes but the kernel: addresses, ports, connections and what TCP
does about a fault are the real ones. It needs root, iproute2 and /dev/net/tun.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from holdfast.fabric import leftovers
from holdfast.fabric.condition import Condition, Place, baseline
from holdfast.fabric.faults import KINDS
from holdfast.fabric.hosts import Host, HostsEngine, ToldBy
from holdfast.fabric.kernel.commands import ip, ip_in, require
from holdfast.fabric.kernel.faults import Conditions
from holdfast.fabric.kernel.namespaces import apply, claim, clear, entering, inside, sweep
from holdfast.fabric.kernel.plan import Plan
from holdfast.fabric.kernel.resets import connections, reset
from holdfast.fabric.leftovers import Traces
from holdfast.fabric.topology import NetworkName, Topology


class KernelHost(Host):
    """A host that is a network namespace."""

    def __init__(self, name: str, traces: Traces, plan: Plan) -> None:
        super().__init__(name, traces)
        self.namespace = plan.namespace(name)
        self._plan = plan

    def address(self, network: NetworkName = "data") -> str:
        """Return the address of its first NIC on a network."""
        return self._plan.address(self._plan.topology.nic(self.name, network))

    def public(self, port: int, network: NetworkName = "data") -> tuple[str, int]:
        """Return that address and port: nothing stands between."""
        return self.address(network), port

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the command that enters the namespace and becomes `argv`."""
        return [*entering(self.namespace), *argv]


class KernelEngine(HostsEngine):
    """Builds a topology out of namespaces; raises FabricError where that is not possible.

    `plan` says where everything is: namespaces, devices, addresses.
    """

    name = "kernel"
    kinds = frozenset(KINDS)

    def __init__(self, topology: Topology, told: ToldBy | None = None) -> None:
        require()
        leftovers.sweep()
        sweep()
        super().__init__(topology, told)
        self._conditions: Conditions | None = None
        try:
            self.plan = Plan(topology, self.traces.name)
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        plan = self.plan
        claim(self.traces.name)
        ip(plan.namespaces())
        node_of = {plan.namespace(node): node for node in plan.nodes}
        inside(node_of, lambda namespace: apply(plan.settings(node_of[namespace])))
        ip(plan.cables())
        ip_in(plan.configuration())
        for name in self.topology.hosts:
            self.hosts[name] = KernelHost(name, self.traces, plan)
        self._conditions = Conditions(plan)
        self._conditions.impose(baseline(self.topology))

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others."""
        assert self._conditions is not None
        self._conditions.impose(total)

    def reset(self, where: frozenset[Place], one_end: str | None) -> None:
        """Break the connections that may pass there; tell both ends, or only host `one_end`.

        The other end is not told later either, whatever it sends.
        """
        assert self._conditions is not None
        between: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for near, far in self.plan.connected_over(where):
            if one_end in (None, near.host):
                ends = self.plan.address(near), self.plan.address(far)
                between[self.plan.namespace(near.host)].append(ends)
        found = connections(between)
        if one_end is not None:
            self._conditions.silence(each for seen in found.values() for each in seen)
        # Where both ends are to know, both are broken here: what one tells the other may get lost.
        reset(found)

    def remove(self) -> None:
        """End what runs in the namespaces and delete them."""
        if self._conditions is not None:
            self._conditions.close()
        clear(self.traces.name)
