"""What can be done to a network, as data: a fault, and when it happens. Pure.

The words are those of Chaos Mesh. A fault names where it applies: a link (one name: all cables of
that host or switch; two: the cable between them or, of two hosts, what they send each other), a
NIC, a switch, a host, a worker, or groups of hosts.

Directions are seen from the first name: `to` is what it sends, `from` what it receives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from holdfast.errors import UsageError
from holdfast.fabric.units import bits_per_second, format_rate, format_seconds, seconds

Direction = Literal["both", "to", "from"]
Ends = Literal["both", "one"]
Network = Literal["data", "control", "all"]


@dataclass(frozen=True)
class Kind:
    """What a kind of fault may be aimed at, and what else it must and may say."""

    targets: tuple[str, ...]
    needs: tuple[str, ...] = ()
    may: tuple[str, ...] = ()
    lasts: bool = True


_PATH = ("link", "nic", "switch")

KINDS: Mapping[str, Kind] = {
    "down": Kind(_PATH),
    "drop": Kind(_PATH, may=("direction",)),
    "flap": Kind(_PATH, needs=("down",), may=("up", "times"), lasts=False),
    "loss": Kind(_PATH, needs=("p",), may=("direction",)),
    "latency": Kind(_PATH, needs=("latency",), may=("jitter", "direction")),
    "reorder": Kind(_PATH, needs=("p",), may=("latency", "direction")),
    "rate": Kind(_PATH, needs=("rate",), may=("direction",)),
    "corrupt": Kind(_PATH, needs=("p",), may=("direction",)),
    "reset": Kind(_PATH, may=("ends",), lasts=False),
    "partition": Kind(("groups",), may=("network",)),
    "pause": Kind(("host",)),
    "kill": Kind(("host", "worker"), lasts=False),
    "disk-full": Kind(("host",)),
    "disk-slow": Kind(("host",), needs=("rate",)),
}
"""Every kind of fault. `lasts`: it is in force for `for_` seconds, or until it is healed."""

REORDER_SECONDS = 0.005
"""How much later a packet comes that is overtaken, if a fault doesn't say."""


@dataclass(frozen=True)
class Fault:
    """One thing that is done to a network; see `KINDS` for what belongs to which kind.

    `for_`, `latency`, `jitter`, `down` and `up` are in seconds, `rate` in bit/s, `p` a probability
    per packet. `flap` takes its target down `times` times, for `down` seconds, `up` apart. Raises
    UsageError for what does not fit.
    """

    kind: str
    link: tuple[str, ...] = ()
    nic: tuple[str, int] | None = None
    switch: str | None = None
    host: str | None = None
    worker: int | None = None
    groups: tuple[tuple[str, ...], ...] = ()
    for_: float | None = None
    p: float = 0.0
    latency: float = 0.0
    jitter: float = 0.0
    rate: float = 0.0
    down: float = 0.0
    up: float = 1.0
    times: int = 1
    direction: Direction = "both"
    ends: Ends = "both"
    network: Network = "data"

    def __post_init__(self) -> None:
        kind = KINDS.get(self.kind)
        if kind is None:
            raise UsageError(f"a fault of {', '.join(KINDS)} was expected, found {self.kind!r}")
        if self.kind == "reorder" and not self.latency:
            object.__setattr__(self, "latency", REORDER_SECONDS)
        given = [name for name in _TARGETS if getattr(self, name) not in (None, ())]
        if len(given) != 1 or given[0] not in kind.targets:
            raise UsageError(
                f"{self.kind} is aimed at one {' or '.join(kind.targets)}, found "
                f"{' and '.join(given) or 'none'}"
            )
        for name in kind.needs:
            if not getattr(self, name):
                raise UsageError(f"{self.kind} needs {_shown(name)} above 0")
        for each in fields(self):
            if each.name in _ALWAYS or each.name in (*kind.needs, *kind.may):
                continue
            if getattr(self, each.name) != each.default:
                raise UsageError(f"{self.kind} does not take {_shown(each.name)}")
        if self.for_ is not None and not kind.lasts:
            raise UsageError(f"{self.kind} happens at once: it does not take for")
        self._check_values()

    def _check_values(self) -> None:
        for name in ("latency", "jitter", "rate", "down", "up", "for_"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise UsageError(f"{self.kind}: {_shown(name)} must be from 0, found {value}")
        if not 0 <= self.p <= 1:
            raise UsageError(f"{self.kind}: p is a probability from 0 to 1, found {self.p}")
        if self.worker is not None and self.worker < 0:
            raise UsageError(f"{self.kind}: a worker's rank is from 0, found {self.worker}")
        if self.times < 1:
            raise UsageError(f"{self.kind}: times must be at least 1, found {self.times}")
        for name, known in (("direction", Direction), ("ends", Ends), ("network", Network)):
            if getattr(self, name) not in get_args(known):
                raise UsageError(
                    f"{self.kind}: {name} is one of {', '.join(get_args(known))}, found "
                    f"{getattr(self, name)!r}"
                )
        if len(self.link) > 2:
            raise UsageError(f"a link has one or two names, found {', '.join(self.link)}")
        if self.groups and (len(self.groups) < 2 or not all(self.groups)):
            raise UsageError("a partition has at least two groups of hosts")

    def to_table(self) -> dict[str, Any]:
        """Return what `from_table` reads, of TOML's and JSON's values."""
        table: dict[str, Any] = {"kind": self.kind}
        for each in fields(self)[1:]:
            value = getattr(self, each.name)
            if value == each.default:
                continue
            if each.name in _SECONDS:
                value = format_seconds(value)
            elif each.name == "rate":
                value = format_rate(value)
            elif isinstance(value, tuple):
                value = [list(part) if isinstance(part, tuple) else part for part in value]
            table[_shown(each.name)] = value
        return table

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Fault":
        """Return the fault that a table describes; raise UsageError for what is wrong with it."""
        known = {_shown(each.name): each.name for each in fields(cls)}
        unknown = sorted(table.keys() - known.keys())
        if unknown:
            raise UsageError(
                f"a fault has {', '.join(known)}; found {', '.join(map(repr, unknown))}"
            )
        values = {known[name]: _read(known[name], value) for name, value in table.items()}
        if "kind" not in values:
            raise UsageError(f"a fault's kind is missing: one of {', '.join(KINDS)}")
        return cls(**values)

    def __str__(self) -> str:
        table = self.to_table()
        words = [str(table.pop("kind"))]
        for name in _TARGETS:
            if name in table:
                words.append(_target(name, table.pop(name)))
        lasting = [f"for {table.pop('for')}"] if "for" in table else []
        for name, value in table.items():
            words.append(str(value) if name in _SPEAKS_FOR_ITSELF else f"{name} {value}")
        return " ".join(words + lasting)


_TARGETS = ("link", "nic", "switch", "host", "worker", "groups")
_SPEAKS_FOR_ITSELF = frozenset({"latency", "rate"})
_ALWAYS = frozenset({"kind", "for_", *_TARGETS})
_SECONDS = frozenset({"for_", "latency", "jitter", "down", "up"})


def _shown(name: str) -> str:
    return name.rstrip("_")


def _target(name: str, value: Any) -> str:
    if name == "link":
        return "-".join(value)
    if name == "nic":
        return f"NIC {value[1]} of {value[0]}"
    if name == "groups":
        return " | ".join(",".join(group) for group in value)
    return f"{name} {value}" if name == "worker" else str(value)


def _read(name: str, value: Any) -> Any:
    """Return a table's value as the field has it."""
    try:
        if name in _SECONDS:
            return seconds(value)
        if name == "rate":
            return bits_per_second(value)
        return _READERS[name](value)
    except (TypeError, ValueError):
        raise UsageError(f"{_shown(name)} = {value!r} is not what a fault can have there") from None


def _names(value: Any) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(n, str) and n for n in names):
        raise TypeError(value)
    return tuple(names)


def _groups(value: Any) -> tuple[tuple[str, ...], ...]:
    if not isinstance(value, list | tuple) or any(isinstance(group, str) for group in value):
        raise TypeError(value)
    return tuple(_names(group) for group in value)


def _nic(value: Any) -> tuple[str, int]:
    host, index = value
    if not isinstance(host, str) or type(index) is not int or index < 0:
        raise TypeError(value)
    return host, index


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "kind": _text,
    "link": _names,
    "nic": _nic,
    "switch": _text,
    "host": _text,
    "worker": _integer,
    "groups": _groups,
    "p": float,
    "times": _integer,
    "direction": _text,
    "ends": _text,
    "network": _text,
}
