"""The page's loss curves: the quiet run's, wide and pale, and on it the one under faults."""

import math
from collections.abc import Iterable
from itertools import islice

from holdfast.launch.drill.figures import count
from holdfast.launch.drill.page_chart import (
    Axis,
    heights,
    line,
    means,
    number,
    path,
    plot,
    text,
    tick_text,
)
from holdfast.launch.drill.record import RunRecord

_HEIGHT = 280.0
_COLUMNS = 1000

Curve = tuple[tuple[int, float], ...]


def loss_chart(quiet: RunRecord, faulty: RunRecord) -> str:
    """Return both curves in one chart, with a sentence on how far they are apart.

    Of long runs it shows the means of as many steps as fall into a column.
    """
    steps = [step for step, _ in (*quiet.loss, *faulty.loss)]
    if not steps:
        return '<p class="note">The runs have told no loss.</p>'
    across = Axis(float(min(steps)), float(max(steps)))
    curves = [
        means(curve, across.low, across.high, _COLUMNS) for curve in (quiet.loss, faulty.loss)
    ]
    values = [value for curve in curves for _, value in curve if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.06 * (high - low) or 0.1
    bottom = 0.0 if 0 <= low < 0.4 * high else low - margin
    up = Axis(bottom, high + margin, _HEIGHT, upright=True)
    ticks = up.ticks(6)
    levels, said = heights(up, ticks, map(tick_text, ticks))
    drawn = [
        line(
            (across(step), up(value) if math.isfinite(value) else math.nan) for step, value in curve
        )
        for curve in curves
    ]
    uprights = "".join(f"M{number(across(tick))} 0V{number(_HEIGHT)}" for tick in _steps(across))
    shapes = [
        path("grid", uprights),
        levels,
        path("line quiet", _dotted(drawn[0])),
        path("line faulty", _dotted(drawn[1])),
    ]
    below = [text("x", across.percent(tick), 2, tick_text(tick)) for tick in _steps(across)]
    most = max(len(quiet.loss), len(faulty.loss))
    mean = f", each point the mean of about {most / _COLUMNS:.3g}" if most > _COLUMNS else ""
    return (
        '<p class="legend"><span><i class="key quiet"></i>quiet</span>'
        '<span><i class="key faulty"></i>under faults</span></p>'
        f'<div class="curves">{plot(_HEIGHT, shapes, said)}{plot(20, (), below)}</div>'
        f'<p class="note">Training loss over steps{mean}. {compare(quiet.loss, faulty.loss)}</p>'
    )


def compare(quiet: Curve, faulty: Curve) -> str:
    """Return in a sentence how far two curves are apart."""
    ours, theirs = dict(faulty), dict(quiet)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return "The curves have no step in common."
    apart = [(step, _gap(ours[step], theirs[step])) for step in common]
    only = len(ours) + len(theirs) - 2 * len(common)
    be = "is" if only == 1 else "are"
    also = f" {count(only, 'point')} {be} of one curve alone." if only else ""
    worst = max(gap for _, gap in apart)
    if worst == 0:
        return f"Identical at all {count(len(common), 'point')}.{also}"
    first = next(step for step, gap in apart if gap)
    return (
        f"From step {first:,} on the curves differ, by up to {worst:.3g} "
        f"({count(len(common), 'point')} compared).{also}"
    )


def _gap(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    gap = abs(one - other)
    return gap if math.isfinite(gap) else math.inf


def _steps(across: Axis) -> Iterable[float]:
    """Return the ticks of the axis that are whole steps."""
    return islice((tick for tick in across.ticks(10) if tick == int(tick)), 24)


def _dotted(course: str) -> str:
    """Let a curve of a single point be seen: a line of no length has round ends."""
    return f"{course}h0" if course and "L" not in course else course
