"""A network that exists in a virtual clock: seeded, without processes, threads or sockets. Pure.

Hosts run simulated ranks, whose links, redialling, handshakes and sums are the real ones; only the
bytes' way between them is made up. The same seed, script and job give the same events, one by one.

    with Network(SimulatedEngine(star(4, rate="1gbit", latency="50us"))) as net:
        net.at(step=1, phase="all-gather").link("h1").down(for_="3s")
        run = simulate_all_reduce(net, calls=3, count=1_000_000)
"""

import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from holdfast.collectives.communicator import Array, Op, sum_type, validate
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.errors import CommunicationError, UnsupportedFault, UsageError
from holdfast.fabric.condition import Condition, Place
from holdfast.fabric.network import Network
from holdfast.fabric.script import When
from holdfast.fabric.simulated.clock import Clock
from holdfast.fabric.simulated.links import LinkFactory
from holdfast.fabric.simulated.rank import Call, Job, SimulatedRank, State
from holdfast.fabric.simulated.tcp import Connection, End
from holdfast.fabric.simulated.wire import Wires
from holdfast.fabric.topology import Topology

KINDS = frozenset(
    {
        *("down", "drop", "loss", "latency", "reorder", "rate", "corrupt"),
        *("reset", "partition", "pause", "kill"),
    }
)

Event = tuple[float, str, *tuple[object, ...]]
"""When, in virtual seconds, what, and its details: numbers and text."""


@dataclass(frozen=True)
class RankRun:
    """How one rank fared: the calls that it ended, and how it ended itself.

    `state` is `done`, `failed` (then `error` says why), `killed`, or `running` for one that was
    paused and that nothing resumes.
    """

    rank: int
    host: str
    calls: tuple[Call, ...]
    state: State
    error: CommunicationError | None

    @property
    def digests(self) -> tuple[str, ...]:
        """What its calls resulted in: equal if and only if all bits are."""
        return tuple(call.digest for call in self.calls)


@dataclass(frozen=True)
class SimulatedRun:
    """How a job fared: its ranks, and all that happened, in order.

    Events are `phase` (rank, call, name), `frame sent` and `frame came` (rank, peer, kind, number,
    payload's length), `dialled`, `connected` and `not connected`, `connection lost` (rank, peer,
    …, why), `piece lost` and `retransmitted` (connection, offset), `fault began` and `fault ended`
    (number, fault), `call ended` (rank, call), `rank ended` (rank, state, why).
    """

    ranks: tuple[RankRun, ...]
    events: tuple[Event, ...]

    def seconds(self, call: int) -> float:
        """Return how long a call took: from the first rank's begin until all had the sum.

        Every rank must have ended it.
        """
        began = min(rank.calls[call].began for rank in self.ranks)
        return max(rank.calls[call].whole for rank in self.ranks) - began


class SimulatedEngine:
    """What carries out faults on simulated hosts; `config` are the knobs of their links."""

    name = "simulated"
    kinds = KINDS

    def __init__(self, topology: Topology, seed: int = 0, config: LinkConfig | None = None) -> None:
        self.topology = topology
        self.config = config or LinkConfig()
        self.clock = Clock()
        self.events: list[Event] = []
        """All that happened since the engine was made, in order."""
        self.moments: tuple[When, ...] = ()
        self._wires = Wires(topology, self.clock, random.Random(f"wires {seed}"))
        self._paused: dict[str, int] = dict.fromkeys(topology.hosts, 0)
        self._ranks: list[SimulatedRank] = []
        self._connections: list[Connection] = []
        self._connected = 0

    # The Engine protocol

    def now(self) -> float:
        """Return the virtual time in seconds."""
        return self.clock.now

    def call_later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called in `delay` virtual seconds; return what cancels it."""
        return self.clock.later(delay, call)

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others."""
        self._wires.impose(total)

    def reset(self, where: frozenset[Place], one_end: str | None) -> None:
        """Break the connections that pass there.

        Both ends are told at once; or only the one on host `one_end`, and the other hears nothing
        any more.
        """
        for connection in self._connections:
            ends = (connection.dialer, connection.acceptor)
            passed = {place for end in ends for place in end.path.places}
            if not passed & where or (one_end and one_end not in [end.host for end in ends]):
                continue
            connection.severed = True
            for end in ends:
                if one_end in (None, end.host):
                    end.reset()

    def pause(self, host: str) -> Callable[[], None]:
        """Stop a host's ranks; return what has them go on."""
        self._paused[host] += 1
        for rank in self._ranks_of(host):
            rank.pause()

        def resume() -> None:
            self._paused[host] -= 1
            for rank in self._ranks_of(host):
                rank.resume()

        return resume

    def kill(self, host: str) -> None:
        """End a host's ranks at once."""
        for rank in self._ranks_of(host):
            rank.kill()

    def kill_worker(self, rank: int) -> None:
        """End one rank at once, if it runs."""
        for each in self._ranks:
            if each.number == rank:
                each.kill()

    def trouble_disk(self, host: str, rate: float | None) -> Callable[[], None]:
        """Raise UnsupportedFault: simulated ranks write no checkpoints."""
        raise UnsupportedFault("simulated hosts have no disks; relay and kernel do")

    def await_moments(self, moments: tuple[When, ...]) -> None:
        """Have ranks that come to one of these moments call `Network.reached`."""
        self.moments = moments

    def close(self) -> None:
        """Forget everything; may be called again."""
        self.leave()
        self.clock.clear()

    # What a job needs

    def report(self, what: str, *details: object) -> None:
        """Write down an event."""
        self.events.append((self.clock.now, what, *details))

    def join(self, ranks: list[SimulatedRank]) -> None:
        """Put ranks on their hosts, in the place of those before."""
        self.leave()
        self._ranks = ranks
        for rank in ranks:
            for _ in range(self._paused[rank.host]):
                rank.pause()

    def leave(self) -> None:
        """Take the ranks off their hosts, without a sound."""
        for connection in self._connections:
            connection.severed = True
        for rank in self._ranks:
            rank.links.close()
        self._connections.clear()
        self._ranks = []

    def dial(self, rank: int, peer: int) -> End:
        """Begin a connection from one rank to another; return the dialer's end."""
        self._connections = [each for each in self._connections if not each.over]
        number = self._connected
        self._connected += 1
        source, target = self._ranks[rank], self._ranks[peer]
        there = self._wires.path(source.host, target.host, number)
        back = self._wires.path(target.host, source.host, number)
        dialer = End(source.host, there, f"{number}: {rank} to {peer}", source.wake)
        acceptor = End(target.host, back, f"{number}: {peer} to {rank}", target.wake)
        connection = Connection(self._wires, dialer, acceptor, self.report)
        self._connections.append(connection)
        connection.dial(lambda: target.alive, target.links.accept)
        return dialer

    def _ranks_of(self, host: str) -> list[SimulatedRank]:
        return [rank for rank in self._ranks if rank.host == host]


def contribution(count: int, dtype: np.dtype[Any], inputs: int, call: int, rank: int) -> Array:
    """Return what a rank adds to a call, drawn from `inputs`: `count` elements from -10 to 10."""
    rng = np.random.default_rng([inputs, call, rank])
    return (rng.random(count, np.float32) * 20 - 10).astype(dtype)


def simulate_all_reduce(
    network: Network[SimulatedEngine],
    *,
    calls: int,
    count: int,
    dtype: DTypeLike = np.float32,
    op: Op = "sum",
    segment: int | None = None,
    timeout: float = 60.0,
    workers_per_host: int = 1,
    together: bool = False,
    inputs: int = 0,
    link: LinkFactory = Link,
) -> SimulatedRun:
    """Run `calls` ring all-reduces of `count` elements on every host, and return how they fared.

    `segment` is the size in bytes in which chunks travel (None: the link's own), `timeout` how many
    virtual seconds nothing may move before a call gives up. A rank begins its next call at once,
    or `together` with all others, as after a barrier that takes no time. The ranks' arrays are
    drawn from `inputs` (see `contribution`). `link` makes the links: it may make faulty ones, for a
    test of the test.

    Raises UsageError for what cannot be, and for float16 and bfloat16: no ring adds them up as the
    communicators do, in float32, to be rounded once.

    Call k is step k for what is planned; its phases are `step`, `reduce-scatter` and `all-gather`.
    The network's time goes on from where it is; its faults stay in force.
    """
    engine = network.engine
    dtype = np.dtype(dtype)
    hosts = [host for host in engine.topology.hosts for _ in range(workers_per_host)]
    if calls < 1 or count < 0 or workers_per_host < 1 or len(hosts) < 2 or timeout <= 0:
        raise UsageError(
            "at least 1 call, 0 elements, 1 worker a host, 2 ranks and a timeout above 0 were "
            f"expected, found {calls}, {count}, {workers_per_host}, {len(hosts)} and {timeout}"
        )
    validate(op, np.empty(0, dtype), None)
    if sum_type(dtype) != dtype:
        raise UsageError(
            f"{dtype} is added up in {sum_type(dtype)} and rounded once, which a ring cannot: "
            f"simulate {sum_type(dtype)}"
        )

    known = len(network.happened)

    def reached(rank: int, step: int, phase: str) -> None:
        engine.report("phase", rank, step, phase)
        if any(when.matches(rank, step, phase) for when in engine.moments):
            network.reached(rank, step, phase)
            told()

    def may_begin(call: int) -> bool:
        return not together or all(len(rank.calls) >= call for rank in ranks)

    def ended() -> None:
        if together:
            for rank in ranks:
                rank.wake()

    def told() -> None:
        """Write down what was done to the network since the last time."""
        nonlocal known
        for each in network.happened[known:]:
            engine.report(f"fault {each.what}", each.number, str(each.fault))
        known = len(network.happened)

    job = Job(
        calls=calls,
        count=count,
        dtype=dtype,
        op=op,
        segment=segment or engine.config.segment,
        timeout=timeout,
        world_size=len(hosts),
        contribution=partial(contribution, count, dtype, inputs),
        may_begin=may_begin,
        ended=ended,
    )
    ranks = [
        SimulatedRank(
            number,
            host,
            job,
            engine.clock,
            engine.config,
            dial=engine.dial,
            reached=reached,
            report=engine.report,
            link=link,
        )
        for number, host in enumerate(hosts)
    ]
    first = len(engine.events)
    engine.join(ranks)
    for rank in ranks:
        rank.wake()
    left = deque(ranks)
    while not _over(left, engine.clock.now - timeout) and engine.clock.step():
        told()
    engine.leave()
    return SimulatedRun(
        tuple(
            RankRun(rank.number, rank.host, tuple(rank.calls), rank.state, rank.error)
            for rank in ranks
        ),
        tuple(engine.events[first:]),
    )


def _over(left: deque[SimulatedRank], long_ago: float) -> bool:
    """Return whether all ranks have ended, or those `left` have been paused since `long_ago`.

    That comes to pass: a rank that goes on fails when nothing moves for the timeout, and no more
    can move than the job has.
    """
    while left and left[0].state != "running":
        left.popleft()
    return all(rank.state != "running" or rank.paused_since < long_ago for rank in left)
