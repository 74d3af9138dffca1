"""A network that can be broken on purpose: choose a place, do something to it, heal it.

    with net.link("h1", to="h0").down(for_="3s"):
        …
    net.at(step=20, phase="all-gather").link("h1").reset()

The faults in force are kept here as a list; what they make of the network together is computed
anew on every change and handed to an engine: relays, the kernel, or the simulation.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from holdfast.errors import UnsupportedFault
from holdfast.fabric.condition import (
    Condition,
    Place,
    check_places,
    conditions,
    places,
    told,
)
from holdfast.fabric.faults import Direction, Ends, Fault
from holdfast.fabric.script import Entry, Script, When
from holdfast.fabric.topology import Topology
from holdfast.fabric.units import bits_per_second, seconds


class Engine(Protocol):
    """What carries out faults. Its methods are called one at a time.

    `kinds` are those of `faults.KINDS` that it can carry out.
    """

    name: str
    topology: Topology
    kinds: frozenset[str]

    def now(self) -> float:
        """Return the time in seconds, from wherever."""

    def call_later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called in `delay` seconds; return what cancels it."""

    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others."""

    def reset(self, where: frozenset[Place], one_end: str | None) -> None:
        """Break the connections that pass there; tell both ends, or only host `one_end`."""

    def pause(self, host: str) -> Callable[[], None]:
        """Stop a host's processes; return what has them go on."""

    def kill(self, host: str) -> None:
        """End a host's processes at once."""

    def kill_worker(self, rank: int) -> None:
        """End one worker at once."""

    def trouble_disk(self, host: str, rate: float | None) -> Callable[[], None]:
        """Make a host's disk full for its workers (None) or as slow as `rate` bit/s.

        Returns what makes it whole again.
        """

    def await_moments(self, moments: tuple[When, ...]) -> None:
        """Have ranks that come to one of these steps and phases call `Network.reached`."""

    def close(self) -> None:
        """End and remove everything; may be called again."""


E = TypeVar("E", bound=Engine)


@dataclass(frozen=True)
class Happened:
    """A fault began or was healed, `time` seconds after the network's start."""

    time: float
    what: str
    fault: Fault
    number: int
    """Counts the faults of this network from 0: a fault's end has that of its beginning."""


class Handle:
    """A fault in force, or one that is to come; leave its context, or `heal`, to end it."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end: Callable[[], None] | None = end

    def heal(self) -> None:
        """End the fault; may be called again, also when it has ended by itself."""
        end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> "Handle":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.heal()


@dataclass(eq=False)
class _Planned:
    """An entry whose moment is yet to come, or has come (`handle`), unless it was taken back."""

    entry: Entry
    handle: Handle | None = None
    over: bool = False


class Selector(ABC):
    """The words in which faults are asked for; what becomes of them is a subclass's to say."""

    @abstractmethod
    def _do(self, fault: Fault) -> Handle: ...

    def link(self, name: str, to: str | None = None) -> "PathFaults":
        """Choose all cables of a host or switch, the cable to another, or what two hosts send."""
        return PathFaults(self._do, {"link": (name,) if to is None else (name, to)})

    def nic(self, host: str, number: int = 0) -> "PathFaults":
        """Choose one network card of a host."""
        return PathFaults(self._do, {"nic": (host, number)})

    def switch(self, name: str) -> "PathFaults":
        """Choose a switch."""
        return PathFaults(self._do, {"switch": name})

    def host(self, name: str) -> "HostFaults":
        """Choose a host and its processes."""
        return HostFaults(self._do, name)

    def worker(self, rank: int) -> "WorkerFaults":
        """Choose a worker's process."""
        return WorkerFaults(self._do, rank)

    def partition(
        self, *groups: Iterable[str], network: str = "data", for_: str | float | None = None
    ) -> Handle:
        """Let no packet pass between hosts that share no group; a host in two sees both sides.

        `network` is `data`, `control` or `all`. Hosts in no group see everybody.
        """
        made = Fault(
            "partition",
            groups=tuple(tuple(group) for group in groups),
            network=network,  # type: ignore[arg-type] # Fault checks it
            for_=_optional(for_),
        )
        return self._do(made)


@dataclass(frozen=True)
class PathFaults:
    """What can be done to a link, a NIC or a switch. Durations in seconds or as `200ms`."""

    _do: Callable[[Fault], Handle]
    _target: Mapping[str, Any]

    def down(self, *, for_: str | float | None = None) -> Handle:
        """Pull the cable: nothing passes, and nobody is told."""
        return self._do(Fault("down", **self._target, for_=_optional(for_)))

    def drop(self, *, direction: Direction = "both", for_: str | float | None = None) -> Handle:
        """Let nothing pass in a direction, silently."""
        made = Fault("drop", **self._target, direction=direction, for_=_optional(for_))
        return self._do(made)

    def flap(self, *, down: str | float, up: str | float = 1.0, times: int = 1) -> Handle:
        """Pull the cable for `down`, `times` times, with `up` between."""
        made = Fault("flap", **self._target, down=seconds(down), up=seconds(up), times=times)
        return self._do(made)

    def loss(
        self, p: float, *, direction: Direction = "both", for_: str | float | None = None
    ) -> Handle:
        """Lose each packet with probability `p`."""
        made = Fault("loss", **self._target, p=p, direction=direction, for_=_optional(for_))
        return self._do(made)

    def latency(
        self,
        latency: str | float,
        *,
        jitter: str | float = 0.0,
        direction: Direction = "both",
        for_: str | float | None = None,
    ) -> Handle:
        """Hold each packet up by `latency`, and by up to `jitter` more."""
        made = Fault(
            "latency",
            **self._target,
            latency=seconds(latency),
            jitter=seconds(jitter),
            direction=direction,
            for_=_optional(for_),
        )
        return self._do(made)

    def reorder(
        self,
        p: float,
        *,
        latency: str | float = 0.0,
        direction: Direction = "both",
        for_: str | float | None = None,
    ) -> Handle:
        """Let each packet be overtaken with probability `p`: it comes `latency` later."""
        made = Fault(
            "reorder",
            **self._target,
            p=p,
            latency=seconds(latency),
            direction=direction,
            for_=_optional(for_),
        )
        return self._do(made)

    def rate(
        self,
        rate: str | float,
        *,
        direction: Direction = "both",
        for_: str | float | None = None,
    ) -> Handle:
        """Let no more than `rate` bit/s pass each way."""
        made = Fault(
            "rate",
            **self._target,
            rate=bits_per_second(rate),
            direction=direction,
            for_=_optional(for_),
        )
        return self._do(made)

    def corrupt(
        self, p: float, *, direction: Direction = "both", for_: str | float | None = None
    ) -> Handle:
        """Change a byte of each packet with probability `p`."""
        made = Fault("corrupt", **self._target, p=p, direction=direction, for_=_optional(for_))
        return self._do(made)

    def reset(self, *, ends: Ends = "both") -> Handle:
        """Break the connections that pass here; with `one` end, only the first host is told."""
        return self._do(Fault("reset", **self._target, ends=ends))


@dataclass(frozen=True)
class HostFaults:
    """What can be done to a host."""

    _do: Callable[[Fault], Handle]
    _host: str

    def pause(self, *, for_: str | float | None = None) -> Handle:
        """Stop its processes as they stand (SIGSTOP)."""
        return self._do(Fault("pause", host=self._host, for_=_optional(for_)))

    def kill(self) -> Handle:
        """End its processes at once (SIGKILL), as a power cut would."""
        return self._do(Fault("kill", host=self._host))

    def disk_full(self, *, for_: str | float | None = None) -> Handle:
        """Let every write of its workers' checkpoints fail for want of space."""
        return self._do(Fault("disk-full", host=self._host, for_=_optional(for_)))

    def disk_slow(self, rate: str | float, *, for_: str | float | None = None) -> Handle:
        """Let its workers' checkpoints be written at `rate` bit/s at most."""
        made = Fault("disk-slow", host=self._host, rate=bits_per_second(rate), for_=_optional(for_))
        return self._do(made)


@dataclass(frozen=True)
class WorkerFaults:
    """What can be done to a worker."""

    _do: Callable[[Fault], Handle]
    _rank: int

    def kill(self) -> Handle:
        """End its process at once (SIGKILL)."""
        return self._do(Fault("kill", worker=self._rank))


class Planner(Selector):
    """Faults that come later: the words are a network's, the moment is this one's."""

    def __init__(self, plan: Callable[[Entry], Handle], when: When) -> None:
        self._plan = plan
        self._when = when

    def _do(self, fault: Fault) -> Handle:
        return self._plan(Entry(self._when, fault))


class Network(Selector, Generic[E]):
    """A network of an engine's making; a context manager that heals and closes.

    Thread-safe. Raises UnsupportedFault for a kind of fault that the engine has no means for,
    UsageError for a place that the topology has not.
    """

    def __init__(self, engine: E) -> None:
        self.engine = engine
        self.topology = engine.topology
        self.happened: list[Happened] = []
        """What was done so far, in order."""
        self._lock = threading.RLock()
        self._began = engine.now()
        self._in_force: dict[int, Fault] = {}
        self._ends: dict[int, Callable[[], None]] = {}
        self._planned: list[_Planned] = []
        self._told_moments: tuple[When, ...] = ()
        self._count = 0
        self._closed = False

    @property
    def name(self) -> str:
        """The engine's name: `relay`, `kernel` or `simulated`."""
        return self.engine.name

    @property
    def planned(self) -> tuple[Entry, ...]:
        """What is planned and has not begun yet."""
        with self._lock:
            return tuple(each.entry for each in self._planned)

    def at(
        self,
        time: str | float | None = None,
        *,
        step: int | None = None,
        phase: str = "step",
        rank: int | None = None,
    ) -> Planner:
        """Choose a moment: `time` from now, or a phase of a step (see `When`)."""
        when = When(None if time is None else seconds(time), step, phase, rank)
        return Planner(self.plan, when)

    def play(self, script: Script) -> None:
        """Let a script happen; its times count from now."""
        script.check(self.topology, world_size=1 << 30)
        for entry in script.entries:
            self.check(entry.fault)
        with self._lock:
            for entry in script.entries:
                self._plan(entry)
            self._tell_moments()

    def check(self, fault: Fault) -> None:
        """Raise UnsupportedFault or UsageError for a fault that cannot happen here."""
        kind = "down" if fault.kind == "flap" else fault.kind
        if kind not in self.engine.kinds:
            raise UnsupportedFault(
                f"the {self.name} network cannot do {fault.kind}; it can do "
                f"{', '.join(sorted(self.engine.kinds))}. See docs/faults.md for who can"
            )
        check_places(self.topology, fault)

    def plan(self, entry: Entry) -> Handle:
        """Have a fault happen when its moment comes; healing it before then takes it back."""
        self.check(entry.fault)
        with self._lock:
            handle = self._plan(entry)
            self._tell_moments()
        return handle

    def _plan(self, entry: Entry) -> Handle:
        planned = _Planned(entry)
        cancel = _nothing
        self._planned.append(planned)
        if entry.when.time is not None:
            cancel = self.engine.call_later(entry.when.time, lambda: self._happen(planned))

        def end() -> None:
            cancel()
            with self._lock:
                self._take_back(planned)
                self._tell_moments()
                if planned.handle is not None:
                    planned.handle.heal()

        return Handle(end)

    def _happen(self, planned: _Planned) -> None:
        with self._lock:
            if not planned.over:
                self._take_back(planned)
                planned.handle = self._do(planned.entry.fault)

    def _take_back(self, planned: _Planned) -> None:
        planned.over = True
        if planned in self._planned:
            self._planned.remove(planned)

    def reached(self, rank: int, step: int, phase: str) -> None:
        """Let happen what was planned for this moment; returns when it is in force.

        Called for every rank that comes to a step and phase that something is planned for.
        """
        with self._lock:
            due = [each for each in self._planned if each.entry.when.matches(rank, step, phase)]
            errors = []
            for planned in due:
                try:
                    self._happen(planned)
                except Exception as error:  # noqa: BLE001 - the others happen nevertheless
                    errors.append(error)
            if due:
                self._tell_moments()
            if errors:
                raise errors[0]

    def heal(self) -> None:
        """End every fault that is in force, and forget those that are planned."""
        with self._lock:
            for planned in list(self._planned):
                self._take_back(planned)
            for number in list(self._ends):
                self._heal(number)
            self._tell_moments()

    def close(self) -> None:
        """Heal everything and remove the network; may be called again."""
        if self._closed:
            return
        try:
            self.heal()
        finally:
            self._closed = True
            self.engine.close()

    def __enter__(self) -> "Network[E]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # What becomes of a fault

    def _do(self, fault: Fault) -> Handle:
        self.check(fault)
        with self._lock:
            number = self._count
            self._count += 1
            self._note("began", fault, number)
            try:
                if fault.kind == "flap":
                    self._flap(number, fault)
                else:
                    self._ends[number] = self._begin(number, fault)
            except BaseException:
                self._in_force.pop(number, None)
                self.happened = [each for each in self.happened if each.number != number]
                raise
            if fault.for_ is not None:
                cancel = self.engine.call_later(fault.for_, lambda: self._heal(number))
                self._also(number, cancel)
        return Handle(lambda: self._heal(number))

    def _begin(self, number: int, fault: Fault) -> Callable[[], None]:
        """Carry out a fault; return what ends it."""
        engine = self.engine
        match fault.kind:
            case "reset":
                one_end = told(self.topology, fault)
                engine.reset(frozenset(places(self.topology, fault)), one_end)
            case "kill":
                if fault.worker is not None:
                    engine.kill_worker(fault.worker)
                else:
                    engine.kill(str(fault.host))
            case "pause":
                return engine.pause(str(fault.host))
            case "disk-full":
                return engine.trouble_disk(str(fault.host), None)
            case "disk-slow":
                return engine.trouble_disk(str(fault.host), fault.rate)
            case _:
                return self._impose(number, fault)
        self._note("ended", fault, number)
        return _nothing

    def _impose(self, number: int, fault: Fault) -> Callable[[], None]:
        def end() -> None:
            del self._in_force[number]
            engine.impose(conditions(self.topology, self._in_force.values()))

        engine = self.engine
        self._in_force[number] = fault
        engine.impose(conditions(self.topology, self._in_force.values()))
        return end

    def _flap(self, number: int, fault: Fault) -> None:
        """Go down now; each end of a state plans the next one."""
        left, fallen = fault.times, False
        once = replace(fault, kind="down", down=0.0, up=1.0, times=1)

        def fall() -> None:
            nonlocal left, fallen
            with self._lock:
                if fallen and number not in self._ends:
                    return  # healed, while this call waited for its turn
                left, fallen = left - 1, True
                rise = self._impose(number, once)
                cancel = self.engine.call_later(fault.down, lambda: stand(rise))

                def end() -> None:
                    cancel()
                    rise()

                self._ends[number] = end

        def stand(rise: Callable[[], None]) -> None:
            with self._lock:
                if number not in self._ends:
                    return
                rise()
                if left == 0:
                    del self._ends[number]
                    self._note("ended", fault, number)
                else:
                    self._ends[number] = self.engine.call_later(fault.up, fall)

        fall()

    def _also(self, number: int, more: Callable[[], None]) -> None:
        end = self._ends[number]

        def both() -> None:
            more()
            end()

        self._ends[number] = both

    def _heal(self, number: int) -> None:
        with self._lock:
            end = self._ends.pop(number, None)
            if end is None:
                return
            end()
            done = {each.number for each in self.happened if each.what == "ended"}
            if number not in done:
                fault = next(each.fault for each in self.happened if each.number == number)
                self._note("ended", fault, number)

    def _tell_moments(self) -> None:
        moments = tuple(each.entry.when for each in self._planned if each.entry.when.time is None)
        if moments != self._told_moments:
            self._told_moments = moments
            self.engine.await_moments(moments)

    def _note(self, what: str, fault: Fault, number: int) -> None:
        time = self.engine.now() - self._began
        self.happened.append(Happened(time, what, fault, number))


def _optional(value: str | float | None) -> float | None:
    return None if value is None else seconds(value)


def _nothing() -> None:
    """End what has ended already."""
