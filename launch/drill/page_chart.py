"""Axes, paths and thinning for the page's charts: small, by hand, without any library.

A chart is an SVG that is stretched to the page's width (its x goes from 0 to `WIDTH`) and keeps its
height in pixels; lines keep their width. What must not be stretched, texts above all, is HTML that
lies over it, placed in percent. So a chart can be read on a phone, and needs no script.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 1000.0

Span = tuple[float, float, float]
"""A value from one x to another."""


@dataclass(frozen=True)
class Axis:
    """Maps values from `low` to `high` onto 0 to `size`, or `size` to 0 if it is `upright`."""

    low: float
    high: float
    size: float = WIDTH
    log: bool = False
    upright: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value; one outside is put on the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, at = math.log(low), math.log(high), math.log(at)
        part = (at - low) / (high - low) if high > low else 0.5
        return self.size * (1 - part if self.upright else part)

    def percent(self, value: float) -> str:
        """Return the place of a value as CSS has it."""
        return f"{100 * self(value) / self.size:.3f}%"

    def ticks(self, most: int = 8) -> list[float]:
        """Return round values within the axis: at most `most` or, on a log axis, the decades.

        Where a log axis has fewer than two of these, 2 and 5 times a decade are round too.
        """
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for parts in ((1,), (1, 2, 5)):
                ones = [part * 10.0**power for power in powers for part in parts]
                found = [value for value in ones if self.low <= value <= self.high]
                if len(found) > 1:
                    break
            return found
        step = round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [number * step for number in range(first, last + 1)]


def round_step(least: float) -> float:
    """Return the smallest of 1, 2 and 5 times a power of ten that is not below `least`."""
    if not least > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(part * power for part in (1, 2, 5, 10) if part * power >= least * (1 - 1e-9))


def tick_text(value: float) -> str:
    """Return a tick's value as short as it can be: `0.5`, `1,200`."""
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.0f}"


def number(value: float) -> str:
    """Return a coordinate with a tenth."""
    return f"{value:.1f}".removesuffix(".0")


# Paths


def line(points: Iterable[tuple[float, float]]) -> str:
    """Return a path through places; one that isn't finite breaks it."""
    said, pen = [], "M"
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            said.append(f"{pen}{number(x)} {number(y)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(said)


def stairs(spans: Iterable[Span], *, floor: float | None = None) -> str:
    """Return a path along the spans' values; a gap between two breaks it.

    With `floor`, each unbroken piece is closed along that height, to be filled.
    """
    said: list[str] = []
    end = -math.inf
    for start, stop, y in spans:
        if start > end + 0.05:
            if floor is not None and said:
                said.append(f"V{number(floor)}Z")
            base = y if floor is None else floor
            said.append(f"M{number(start)} {number(base)}")
        said.append(f"V{number(y)}H{number(stop)}")
        end = stop
    if floor is not None and said:
        said.append(f"V{number(floor)}Z")
    return "".join(said)


def rectangles(spans: Iterable[tuple[float, float]], top: float, bottom: float) -> str:
    """Return a path of boxes from one x to another; the thinnest is a line."""
    return "".join(
        f"M{number(start)} {number(top)}H{number(max(stop, start + 0.6))}V{number(bottom)}"
        f"H{number(start)}Z"
        for start, stop in spans
    )


# Thinning


def means(
    points: Sequence[tuple[float, float]], low: float, high: float, columns: int
) -> list[tuple[float, float]]:
    """Return at most one point per column from `low` to `high`: the mean of those in it.

    Points that are not more than the columns stay as they are. What isn't finite stands for itself
    in its column, so that it is seen.
    """
    if len(points) <= columns:
        return list(points)
    sums = [(0.0, 0.0, 0)] * columns
    for x, y in points:
        column = min(columns - 1, int((x - low) / (high - low) * columns)) if high > low else 0
        before = sums[column]
        sums[column] = (before[0] + x, before[1] + y, before[2] + 1)
    return [(x / count, y / count) for x, y, count in sums if count]


def extremes(spans: Sequence[Span], columns: int, size: float = WIDTH) -> list[tuple[Span, Span]]:
    """Return for each column that a span covers its lowest and its highest value, as spans."""
    lows: list[float | None] = [None] * columns
    highs: list[float | None] = [None] * columns
    for start, stop, value in spans:
        first = min(columns - 1, int(start / size * columns))
        last = max(first, min(columns - 1, math.ceil(stop / size * columns) - 1))
        for column in range(first, last + 1):
            low, high = lows[column], highs[column]
            lows[column] = value if low is None else min(low, value)
            highs[column] = value if high is None else max(high, value)
    width = size / columns
    return [
        ((place * width, (place + 1) * width, low), (place * width, (place + 1) * width, high))
        for place, (low, high) in enumerate(zip(lows, highs, strict=True))
        if low is not None and high is not None
    ]


def averages(spans: Sequence[Span], columns: int, size: float = WIDTH) -> list[Span]:
    """Return the spans' mean in each column that they cover, weighted by how much they cover.

    Spans that are not more than the columns stay as they are.
    """
    if len(spans) <= columns:
        return list(spans)
    width = size / columns
    areas, covered = [0.0] * columns, [0.0] * columns
    for start, stop, value in spans:
        first = min(columns - 1, int(start / width))
        last = max(first, min(columns - 1, math.ceil(stop / width) - 1))
        for column in range(first, last + 1):
            part = min(stop, (column + 1) * width) - max(start, column * width)
            areas[column] += value * part
            covered[column] += part
    return [
        (place * width, (place + 1) * width, area / cover)
        for place, (area, cover) in enumerate(zip(areas, covered, strict=True))
        if cover > 0
    ]


# HTML


def plot(height: float, shapes: Iterable[str], over: Iterable[str] = (), *, kind: str = "") -> str:
    """Return a chart: `shapes` are SVG in its coordinates, `over` is HTML that lies above them."""
    css = f"plot {kind}".strip()
    return (
        f'<div class="{css}" style="height:{number(height)}px"><svg viewBox="0 0 {number(WIDTH)} '
        f'{number(height)}" preserveAspectRatio="none" aria-hidden="true">{"".join(shapes)}</svg>'
        f"{''.join(over)}</div>"
    )


def path(kind: str, course: str, title: str = "") -> str:
    """Return a shape, with a text that is shown to whoever points at it."""
    if not course:
        return ""
    said = f"<title>{escape(title)}</title>" if title else ""
    return f'<path class="{kind}" d="{course}">{said}</path>' if said else (
        f'<path class="{kind}" d="{course}"/>'
    )  # fmt: skip


def text(kind: str, x: str | None, y: float, said: str) -> str:
    """Return a text over a chart, `x` in percent or as its kind has it, `y` in pixels."""
    left = "" if x is None else f"left:{x};"
    return f'<span class="{kind}" style="{left}top:{number(y)}px">{escape(said)}</span>'


def heights(axis: Axis, ticks: Iterable[float], said: Iterable[str]) -> tuple[str, list[str]]:
    """Return level lines at the ticks of an upright axis, and the texts beside them."""
    places = [axis(tick) for tick in ticks]
    lines = path("grid", "".join(f"M0 {number(y)}H{number(WIDTH)}" for y in places))
    return lines, [text("y", None, y, each) for y, each in zip(places, said, strict=True)]
