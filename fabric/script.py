"""A fault script: what happens to the network, and when. Data, from TOML, from Python, or drawn.

```toml
[[fault]]
at_step = 20            # when rank 1 begins the all-gather of its step 20
phase = "all-gather"
rank = 1
kind = "down"
link = ["h1", "h0"]
for = "3s"

[[fault]]
at = "2.5s"             # after the start
kind = "partition"
groups = [["h0"], ["h1", "h2"]]
for = "2s"
```
"""

import json
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from holdfast.errors import UsageError
from holdfast.fabric.condition import check_places
from holdfast.fabric.faults import KINDS, Fault
from holdfast.fabric.topology import Topology
from holdfast.fabric.units import format_seconds, seconds

PHASES = ("step", "backward", "reduce-scatter", "all-gather", "update", "checkpoint")
"""What a worker goes through in a step, in order; a collective's phases may come more than once."""


@dataclass(frozen=True)
class When:
    """When a fault happens: `time` seconds after the start, or in a step.

    In a step, it is when `rank` (None: whichever rank is first) comes to `phase` of the step that
    would be number `step`, counted from 0. The rank waits until the fault is in force.
    """

    time: float | None = None
    step: int | None = None
    phase: str = "step"
    rank: int | None = None

    def __post_init__(self) -> None:
        if (self.time is None) == (self.step is None):
            raise UsageError("a fault happens at a time or at a step: give one of the two")
        if self.time is not None and (self.phase != "step" or self.rank is not None):
            raise UsageError("a phase and a rank belong to a step, not to a time")
        if self.phase not in PHASES:
            raise UsageError(f"a phase is one of {', '.join(PHASES)}, found {self.phase!r}")
        if min(self.time or 0, self.step or 0, self.rank or 0) < 0:
            raise UsageError("times, steps and ranks count from 0")

    def matches(self, rank: int, step: int, phase: str) -> bool:
        """Return whether this is the moment."""
        return self.step == step and self.phase == phase and self.rank in (None, rank)

    def to_table(self) -> dict[str, Any]:
        """Return its part of a script's table."""
        if self.time is not None:
            return {"at": format_seconds(self.time)}
        table: dict[str, Any] = {"at_step": self.step}
        if self.phase != "step":
            table["phase"] = self.phase
        if self.rank is not None:
            table["rank"] = self.rank
        return table

    def __str__(self) -> str:
        if self.time is not None:
            return f"at {format_seconds(self.time)}"
        who = "" if self.rank is None else f" of rank {self.rank}"
        return f"in step {self.step}{who}, {self.phase}"


@dataclass(frozen=True)
class Entry:
    """One line of a script."""

    when: When
    fault: Fault

    def to_table(self) -> dict[str, Any]:
        """Return what `entry_from_table` reads."""
        return self.when.to_table() | self.fault.to_table()

    def __str__(self) -> str:
        return f"{self.when}: {self.fault}"


@dataclass(frozen=True)
class Script:
    """What happens, in the order in which it was written. `seed`: what it was drawn from, if so."""

    entries: tuple[Entry, ...] = ()
    seed: int | None = None

    def __add__(self, other: "Script") -> "Script":
        """Return one script with the entries of both."""
        return Script(self.entries + other.entries, other.seed if self.seed is None else self.seed)

    def check(self, topology: Topology, world_size: int) -> None:
        """Raise UsageError for a name or rank that is not there."""
        for number, entry in enumerate(self.entries):
            try:
                check_places(topology, entry.fault)
                for rank in (entry.when.rank, entry.fault.worker):
                    if rank is not None and rank >= world_size:
                        raise UsageError(f"a rank from 0 to {world_size - 1} was expected: {rank}")
            except UsageError as error:
                raise UsageError(f"fault {number + 1} of the script ({entry}): {error}") from None

    def to_toml(self) -> str:
        """Return the script as a file's text; `parse_script` gives the same script back."""
        lines = [] if self.seed is None else [f"seed = {self.seed}"]
        for entry in self.entries:
            lines += ["", "[[fault]]"]
            # A JSON string, number or list of them is TOML too.
            lines += [f"{name} = {json.dumps(value)}" for name, value in entry.to_table().items()]
        return "\n".join(lines).lstrip("\n") + "\n"

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries)) or "no faults"


def parse_script(text: str, source: str = "the fault script") -> Script:
    """Return the script that a TOML text describes; raise UsageError naming the entry at fault."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{source} is not TOML: {error}") from None
    unknown = sorted(table.keys() - {"seed", "fault"})
    seed = table.get("seed")
    tables = table.get("fault", [])
    listed = isinstance(tables, list) and all(isinstance(entry, dict) for entry in tables)
    if unknown or not listed or type(seed) not in (int, type(None)):
        raise UsageError(f"{source}: [[fault]] tables and a whole seed were expected: {table}")
    entries = []
    for number, entry in enumerate(tables, start=1):
        try:
            entries.append(entry_from_table(entry))
        except UsageError as error:
            raise UsageError(f"{source}, fault {number}: {error}") from None
    return Script(tuple(entries), seed)


def load_script(path: Path) -> Script:
    """Read a script from a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the fault script {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"the fault script {path} is not UTF-8: {error}") from None
    return parse_script(text, str(path))


def entry_from_table(table: Mapping[str, Any]) -> Entry:
    """Return the entry that a table describes."""
    rest = dict(table)
    time, step = rest.pop("at", None), rest.pop("at_step", None)
    phase, rank = rest.pop("phase", "step"), rest.pop("rank", None)
    if not all(value is None or type(value) is int for value in (step, rank)):
        raise UsageError(f"at_step and rank are whole numbers, found {step!r} and {rank!r}")
    when = When(None if time is None else seconds(time), step, phase, rank)
    return Entry(when, Fault.from_table(rest))


# One line each, for Python: what happens, and when.


def fault(
    kind: str,
    *link: str,
    at: str | float | None = None,
    at_step: int | None = None,
    phase: str = "step",
    rank: int | None = None,
    for_: str | float | None = None,
    **rest: Any,
) -> Script:
    """Return a script of one entry: `fault("loss", "h1", p=0.01, at_step=5)`.

    `link` is the fault's link; `rest` are the other fields of `Fault`. With neither `at` nor
    `at_step` it happens at the start.
    """
    table: dict[str, Any] = {"kind": kind, **rest}
    if link:
        table["link"] = link
    if for_ is not None:
        table["for"] = for_
    time = 0.0 if at is None and at_step is None else at
    when = When(None if time is None else seconds(time), at_step, phase, rank)
    return Script((Entry(when, Fault.from_table(table)),))


down = partial(fault, "down")
drop = partial(fault, "drop")
flap = partial(fault, "flap")
loss = partial(fault, "loss")
latency = partial(fault, "latency")
reorder = partial(fault, "reorder")
rate = partial(fault, "rate")
corrupt = partial(fault, "corrupt")
reset = partial(fault, "reset")
partition = partial(fault, "partition")
pause = partial(fault, "pause")
kill = partial(fault, "kill")
disk_full = partial(fault, "disk-full")
disk_slow = partial(fault, "disk-slow")


# Drawn from a seed

LINK_KINDS = ("down", "drop", "flap", "latency", "rate", "reset", "loss")
"""The kinds that `draw` takes unless told otherwise: what happens to links, not to processes."""


def draw(
    topology: Topology,
    *,
    seed: int,
    mtbf: float,
    duration: float,
    kinds: Sequence[str] = LINK_KINDS,
    longest: float = 3.0,
) -> Script:
    """Return a random script over `duration` seconds with `mtbf` seconds between faults on average.

    Times are those of a Poisson process; each fault lasts up to `longest` seconds. The same
    arguments give the same script.
    """
    if mtbf <= 0 or duration <= 0:
        raise UsageError(f"times above 0 were expected, found mtbf {mtbf} and {duration} s")
    rng = random.Random(f"{topology.name} {seed}")
    entries, now = [], rng.expovariate(1 / mtbf)
    while now < duration:
        when = When(time=round(now, 3))
        entries.append(Entry(when, draw_fault(topology, rng, kinds=kinds, longest=longest)))
        now += rng.expovariate(1 / mtbf)
    return Script(tuple(entries), seed)


def draw_steps(
    topology: Topology,
    *,
    seed: int,
    steps: int,
    faults: int,
    world_size: int,
    kinds: Sequence[str] = LINK_KINDS,
    longest: float = 3.0,
) -> Script:
    """Return a random script of `faults` faults, each at a step, phase and rank of its own."""
    rng = random.Random(f"{topology.name} {seed}")
    entries = [
        Entry(
            When(
                step=rng.randrange(steps),
                phase=rng.choice(("step", "reduce-scatter", "all-gather")),
                rank=rng.randrange(world_size),
            ),
            draw_fault(topology, rng, kinds=kinds, longest=longest),
        )
        for _ in range(faults)
    ]
    entries.sort(key=lambda entry: (entry.when.step or 0, PHASES.index(entry.when.phase)))
    return Script(tuple(entries), seed)


def draw_fault(
    topology: Topology, rng: random.Random, *, kinds: Sequence[str], longest: float
) -> Fault:
    """Return one random fault of `kinds` somewhere in `topology`."""
    kind = rng.choice(list(kinds))
    if kind not in KINDS:
        raise UsageError(f"a fault of {', '.join(KINDS)} was expected, found {kind!r}")
    lasting = round(rng.uniform(0.05, 1.0) * longest, 3)
    made = Fault(kind, **_draw_target(topology, rng, kind), **_draw_values(rng, kind, lasting))
    return replace(made, for_=lasting) if KINDS[kind].lasts else made


def _draw_target(topology: Topology, rng: random.Random, kind: str) -> dict[str, Any]:
    hosts = list(topology.hosts)
    if kind == "partition":
        rng.shuffle(hosts)
        cut = rng.randrange(1, len(hosts)) if len(hosts) > 1 else 1
        if len(hosts) > 2 and rng.random() < 0.25:  # a bridge: one host sees both sides
            return {"groups": (tuple(hosts[: cut + 1]), tuple(hosts[cut:]))}
        return {"groups": (tuple(hosts[:cut]), tuple(hosts[cut:]))}
    if "link" not in KINDS[kind].targets:
        return {"host": rng.choice(hosts)}
    choice = rng.random()
    if choice < 0.6 and len(hosts) > 1:
        return {"link": tuple(rng.sample(hosts, 2))}
    if choice < 0.8:
        return {"link": (rng.choice(hosts),)}
    host = rng.choice(hosts)
    return {"nic": (host, rng.choice(topology.nics(host, "data")).number)}


def _draw_values(rng: random.Random, kind: str, lasting: float) -> dict[str, Any]:
    match kind:
        case "drop":
            return {"direction": rng.choice(("both", "to", "from"))}
        case "flap":
            times = rng.randint(1, 3)
            part = round(lasting / (2 * times), 3)
            return {"down": part, "up": part, "times": times}
        case "loss":
            return {"p": rng.choice((0.001, 0.01, 0.05))}
        case "latency":
            return {"latency": rng.choice((0.001, 0.005, 0.02)), "jitter": rng.choice((0.0, 0.005))}
        case "reorder":
            return {"p": rng.choice((0.01, 0.1))}
        case "corrupt":
            return {"p": rng.choice((0.0001, 0.001))}
        case "rate":
            return {"rate": rng.choice((20e6, 100e6))}
        case "disk-slow":
            return {"rate": 80e6}
        case "reset":
            return {"ends": rng.choice(("both", "one"))}
    return {}
