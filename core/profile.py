"""Where the time of a computation goes: calls, seconds and bytes of each primitive.

with holdfast.profile() as p:
    loss = F.cross_entropy(model(x), y)
    loss.backward()
print(p)
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.variable import raw
from holdfast.core.watch import watching

if TYPE_CHECKING:
    from holdfast.core.primitive import Primitive


@dataclass
class Row:
    """What is known of one primitive. Times are in seconds, those of a GPU with its work done.

    `bytes` is the memory of the values that it returned, without views of its arguments.
    """

    name: str
    calls: int = 0
    forward: float = 0.0
    backward_calls: int = 0
    backward: float = 0.0
    bytes: int = 0

    @property
    def total(self) -> float:
        """Forward and backward together, in seconds."""
        return self.forward + self.backward


def profile() -> "Profile":
    """Measure every primitive that this thread runs inside: `with profile() as p:`, `print(p)`."""
    return Profile()


class Profile:
    """What was measured: `rows` as data, `table()` as text.

    A backward is measured where it runs inside. Entered again, a profile adds to what it has.
    """

    def __init__(self) -> None:
        self.wall = 0.0
        """Seconds inside, the primitives' and everything else's."""
        self._rows: dict[str, Row] = {}
        self._open: list[tuple[ExitStack, float]] = []

    def __enter__(self) -> Self:
        stack = ExitStack()
        stack.enter_context(watching(_Clock(self._row)))
        self._open.append((stack, perf_counter()))
        return self

    def __exit__(self, *error: object) -> None:
        stack, began = self._open.pop()
        self.wall += perf_counter() - began
        stack.close()

    def _row(self, name: str) -> Row:
        return self._rows.setdefault(name, Row(name))

    @property
    def rows(self) -> list[Row]:
        """What was measured, the most time first."""
        return sorted(self._rows.values(), key=lambda row: row.total, reverse=True)

    def table(self, limit: int | None = None) -> str:
        """Return the rows as text for people, the first `limit` of them and the rest in one."""
        rows = self.rows
        shown, rest = (rows, []) if limit is None else (rows[:limit], rows[limit:])
        if rest:
            shown = [*shown, _sum(f"{len(rest)} others", rest)]
        total = _sum("all primitives", rows)
        other = Row("elsewhere", forward=max(0.0, self.wall - total.total))
        whole = max(self.wall, total.total) or 1.0
        lines = [("primitive", "calls", "forward", "backward", "total", "share", "made")]
        for row in [*shown, total]:
            lines.append(
                (
                    row.name,
                    str(row.calls),
                    _seconds(row.forward),
                    _seconds(row.backward) if row.backward_calls else "",
                    _seconds(row.total),
                    f"{100 * row.total / whole:.1f} %",
                    _bytes(row.bytes),
                )
            )
        share = f"{100 * other.total / whole:.1f} %"
        lines.append((other.name, "", "", "", _seconds(other.total), share, ""))
        widths = [max(len(line[k]) for line in lines) for k in range(len(lines[0]))]
        texts = [
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
        return "\n".join([texts[0], rule, *texts[1:-2], rule, *texts[-2:]])

    def __str__(self) -> str:
        return self.table()


class _Clock:
    """The watcher: stands around primitives and their pullbacks with a watch in its hand."""

    def __init__(self, row: Callable[[str], Row]) -> None:
        self._row = row

    def __call__(
        self,
        primitive: "Primitive",
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        run: Callable[..., Any],
    ) -> Any:
        began = perf_counter()
        value = run(*arguments, **options)
        values = value if isinstance(value, tuple) else (value,)
        _settle(values)
        row = self._row(primitive.name)
        row.forward += perf_counter() - began
        row.calls += 1
        row.bytes += sum(_made(raw(part), arguments) for part in values)
        return value

    def backward(self, primitive: "Primitive", run: Callable[[Any], Any], g: Any) -> Any:
        """Time the pullback."""
        began = perf_counter()
        parts = run(g)
        _settle(parts)
        row = self._row(primitive.name)
        row.backward += perf_counter() - began
        # Of a primitive with several outputs each only hands on what came: that is no call.
        row.backward_calls += any(part is not None for part in parts)
        return parts


def _settle(values: Iterable[Any]) -> None:
    """Wait until a GPU has done what it was asked for: it goes on while Python returns."""
    for value in values:
        module = array_module(raw(value))
        if module is not np:
            module.cuda.get_current_stream().synchronize()
            return


def _made(array: Any, arguments: tuple[Any, ...]) -> int:
    """Return the bytes of `array`, 0 for a view of an argument."""
    given = (raw(argument) for argument in arguments)
    share = array_module(array).may_share_memory
    if any(isinstance(each, type(array)) and share(array, each) for each in given):
        return 0
    return int(array.nbytes)


def _sum(name: str, rows: Iterable[Row]) -> Row:
    whole = Row(name)
    for row in rows:
        whole.calls += row.calls
        whole.forward += row.forward
        whole.backward_calls += row.backward_calls
        whole.backward += row.backward
        whole.bytes += row.bytes
    return whole


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value * 1e6:.1f} µs"


def _bytes(value: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if value >= 1 << power:
            return f"{value / (1 << power):.1f} {unit}"
    return f"{value} B"
