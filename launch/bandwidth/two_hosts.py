"""Two hosts for `benchmarks/network.py`: network namespaces, and how MPI starts its ranks on them.

MPI is started as on two machines: its mpiexec reaches the other host by a program that stands in
for ssh. Each host has a name of its own, or MPI would take both for one and use shared memory.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.fabric import Network, Topology, build
from holdfast.fabric.hosts import HostsEngine
from holdfast.fabric.kernel.commands import ip_in, tool
from holdfast.fabric.kernel.engine import KernelEngine
from holdfast.fabric.kernel.namespaces import inside
from holdfast.fabric.kernel.plan import Port
from holdfast.fabric.topology import Cable
from holdfast.fabric.units import bits_per_second
from holdfast.launch.bandwidth.controller import RankGroup
from holdfast.launch.bandwidth.libraries import Library

HOSTS = ("h0", "h1")

_AGENT = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1; shift
case $host in
{cases}
  *) echo "no host $host" >&2; exit 1 ;;
esac
exec {nsenter} --net=/run/netns/$namespace {unshare} --uts sh -c "hostname $host; $*"
"""
_FIRST = 'hostname "$0"; exec "$@"'

_MPI_OPTIONS = {
    # Each host's first rank would be bound to the same core: there is only one machine.
    "openmpi": ("--bind-to", "none", "--mca", "btl", "tcp,self"),
    # Without these it finds shared memory, whatever the hosts are called.
    "mpich": ("-genv", "UCX_TLS", "tcp,self", "-genv", "MPIR_CVAR_NOLOCAL", "1"),
}


class TwoHosts:
    """Two hosts on a network of the kernel's; use `with`. Raises FabricError where there is none.

    `folder` takes files that last as long as the hosts.
    """

    def __init__(self, topology: Topology, folder: Path) -> None:
        self.network: Network[HostsEngine] = build("kernel", topology)
        engine = self.network.engine
        assert isinstance(engine, KernelEngine)
        self.engine: KernelEngine = engine
        self.hosts = [engine.hosts[name] for name in HOSTS]
        self._folder = folder

    def __enter__(self) -> "TwoHosts":
        return self

    def __exit__(self, *error: object) -> None:
        self.network.close()

    def placed(self, library: Library) -> Library:
        """Return `library` as it is started here: over the hosts' first interface."""
        program = replace(library.program, environment={"GLOO_SOCKET_IFNAME": "eth0"})
        if program.mpiexec:
            program = replace(program, mpiexec=tuple(self._mpiexec(library)))
        return replace(library, program=program, forms=library.forms[:1])

    def _mpiexec(self, library: Library) -> list[str]:
        command = library.program.mpiexec[0]
        agent, first = self._agent(), self.hosts[0]
        both = [host.address() for host in self.hosts]
        if library.name == "openmpi":
            options = [
                *(["--allow-run-as-root"] if os.geteuid() == 0 else []),
                *("--host", ",".join(f"{address}:1" for address in both)),
                *("--prtemca", "plm_ssh_agent", str(agent)),
            ]
        else:
            options = [
                *("-launcher", "ssh", "-launcher-exec", str(agent)),
                *("-hosts", ",".join(both), "-ppn", "1"),
            ]
        start = [_unshare(), "--uts", "/bin/sh", "-c", _FIRST, both[0]]
        return first.wrap([*start, command, *options, *_MPI_OPTIONS[library.name]])

    def _agent(self) -> Path:
        cases = "\n".join(
            f"  {host.address()}) namespace={self.engine.plan.namespace(host.name)} ;;"
            for host in self.hosts
        )
        path = self._folder / "agent"
        path.write_text(_AGENT.format(cases=cases, nsenter=tool("nsenter"), unshare=_unshare()))
        path.chmod(0o755)
        return path

    def received(self, host: int = 1) -> int:
        """Return the bytes that a host's interfaces have received so far."""
        (lines,) = inside([self.engine.plan.namespace(HOSTS[host])], _devices)
        return sum(int(line.split(":")[1].split()[0]) for line in lines if "eth" in line)

    def require_network(self, group: RankGroup, library: Library, size: int) -> None:
        """Raise HoldfastError if all-reduces of `size` bytes take another way than the cables."""
        command = {"collective": "all-reduce", "size": size, "iters": 2, "warmup": 0}
        before = self.received()
        group.run({**command, "check": False, "in_place": library.forms[0]})
        came = self.received() - before
        if came < 2 * size * 0.9:
            raise HoldfastError(
                f"{group.name}: at least {2 * size} bytes over the network were expected, {came} "
                "came: it does not use it"
            )

    def cut(self, host: str, rail: int) -> "Cut":
        """Take the switch's port that a host's interface hangs on down: both see no carrier."""
        plan = self.engine.plan
        cable = plan.topology.cables_of(host)[rail]
        ends = plan.topology.cables[cable]
        switch = ends.b if ends.a == host else ends.a
        port = Port(switch, plan.topology.cables_of(switch).index(cable))
        namespace = plan.namespace(switch)
        # What goes with the device, and comes back only by hand.
        routes = [
            line
            for line in plan.configuration()[namespace]
            if line.startswith("route add") and line.endswith(f"dev {port.device}")
        ]
        return Cut(namespace, port.device, routes)


class Cut:
    """A link that is down until `heal`."""

    def __init__(self, namespace: str, device: str, routes: Sequence[str]) -> None:
        self._namespace, self._device, self._routes = namespace, device, routes
        ip_in({namespace: [f"link set {device} down"]})

    def heal(self) -> None:
        """Take it up again."""
        ip_in({self._namespace: [f"link set {self._device} up", *self._routes]})


def pair(rate: str | None = None, latency: float = 0.0) -> Topology:
    """Return two hosts at the two ends of one cable."""
    speed = None if rate is None else bits_per_second(rate)
    return Topology("pair", HOSTS, (), (Cable(*HOSTS, rate=speed, latency=latency),))


def two_rails_of(*rates: str) -> Topology:
    """Return two hosts on two switches, whose cables have these rates."""
    cables = tuple(
        Cable(host, f"s{number}", rate=bits_per_second(rate))
        for host in HOSTS
        for number, rate in enumerate(rates)
    )
    return Topology("two-rails", HOSTS, tuple(f"s{n}" for n in range(len(rates))), cables)


def _unshare() -> str:
    return str(Path(tool("nsenter")).with_name("unshare"))  # they come together


def _devices(namespace: str) -> list[str]:
    # The thread's namespace: that of the process is another one.
    return Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
