"""The page's timeline: faults, links and workers, step times and throughput over the same time."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

from holdfast.launch.drill.causes import Outage, outages
from holdfast.launch.drill.figures import Figures, count, restarts, step_times
from holdfast.launch.drill.page_chart import (
    WIDTH,
    Axis,
    Span,
    averages,
    extremes,
    heights,
    number,
    path,
    plot,
    rectangles,
    stairs,
    text,
    tick_text,
)
from holdfast.launch.drill.page_faults import bands, lanes
from holdfast.launch.drill.record import Ended, RunRecord
from holdfast.launch.drill.words import seconds_text

_COLUMNS = 500
_MOST_RANKS = 32
_MOST_LINKS = 16
_MOST_MARKS = 1500
"""Over all ranks: marks that would lie over each other are left out beyond it."""

_NEGLIGIBLE = 0.01
"""Of what the busiest link carried: who carried no more is not shown."""

_RANK_HEIGHT = 26.0
_STEPS_HEIGHT = 150.0
_LINK_HEIGHT = 46.0


def timeline(quiet: RunRecord, faulty: RunRecord, figures: Figures) -> str:
    """Return what happened in the run under faults, in rows that share one axis of time."""
    last = max(faulty.seconds, 1e-3)
    time = Axis(0.0, last)
    return _Timeline(quiet, faulty, figures, time).html()


class _Timeline:
    def __init__(self, quiet: RunRecord, faulty: RunRecord, figures: Figures, time: Axis) -> None:
        self._quiet = quiet
        self._faulty = faulty
        self._figures = figures
        self._time = time

    def html(self) -> str:
        rows = [
            _row("time", "", self._axis(), kind="axis"),
            _row("faults", "", lanes(self._figures, self._time)),
            *self._ranks(),
            self._steps(),
            *self._links(),
            _row("", "", self._axis(), kind="axis"),
        ]
        return (
            f'<div class="timeline" data-seconds="{self._time.high:.6f}">{self._ground()}'
            f'{"".join(rows)}<div class="cursor" hidden><output></output></div></div>'
        )

    def _axis(self) -> str:
        ticks = self._time.ticks(10)
        said = [text("x", self._time.percent(tick), 2, f"{tick_text(tick)} s") for tick in ticks]
        return plot(20, (), said)

    def _ground(self) -> str:
        """Return what lies below all rows: lines of time, the faults, and restarts."""
        lines = "".join(f"M{number(self._time(at))} 0V100" for at in self._time.ticks(10))
        again = "".join(
            f"M{number(self._time(at))} 0V100" for at in sorted(self._faulty.starts)[1:]
        )
        shapes = [
            path("grid", lines),
            bands(self._figures, self._time, 100),
            path("restart", again),
        ]
        return (
            '<svg class="ground" viewBox="0 0 1000 100" preserveAspectRatio="none" '
            f'aria-hidden="true">{"".join(shapes)}</svg>'
        )

    # Links and workers, per rank

    def _ranks(self) -> list[str]:
        ranks = _ranks_of(self._faulty)
        by_rank: defaultdict[int, list[Outage]] = defaultdict(list)
        for outage in outages(self._faulty):
            by_rank[outage.event.rank].append(outage)
        # Of very many those with most to show, in their order.
        shown = sorted(sorted(ranks, key=lambda rank: -len(by_rank[rank]))[:_MOST_RANKS])
        rows = [
            _row(f"rank {rank}", "", self._rank(by_rank[rank], _MOST_MARKS // len(shown)))
            for rank in shown
        ]
        left = len(ranks) - len(shown)
        return rows + ([_note(f"and {count(left, 'rank')} with fewer events")] if left else [])

    def _rank(self, found: Sequence[Outage], most: int) -> str:
        """Draw one rank's row: when its links were away, and each event as a mark."""
        middle = _RANK_HEIGHT / 2
        away = [(self._time(each.event.time), self._end(each)) for each in found]
        shapes = [
            path("base", f"M0 {number(middle)}H{number(WIDTH)}"),
            path("away", rectangles(_united(away), middle - 3, middle + 3)),
        ]
        over = []
        for outage in _apart(found, self._time, most):
            event, x = outage.event, number(self._time(outage.event.time))
            at = f"{event.time:.2f} s: rank {event.rank}"
            if isinstance(event, Ended):
                ends = f"{at} ended ({_status(event.returncode)})"
                place = f"left:{self._time.percent(event.time)};top:{number(middle)}px"
                over.append(f'<span class="end" style="{place}" title="{escape(ends)}">✕</span>')
                continue
            lost = f"{at} lost its link to rank {event.peer}"
            why = f" ({event.why})" if event.why else ""
            course = f"M{x} {number(middle - 7)}V{number(middle + 7)}"
            shapes.append(path("lost", course, f"{lost}{why}"))
            if outage.mended is not None and outage.mended not in self._faulty.starts:
                took = seconds_text(outage.mended - event.time)
                there = f"M{number(self._time(outage.mended))} {number(middle)}h0"
                said = f"{outage.mended:.2f} s: rank {event.rank} has its link to rank"
                shapes.append(path("restored", there, f"{said} {event.peer} again, {took} later"))
        return plot(_RANK_HEIGHT, shapes, over)

    def _end(self, outage: Outage) -> float:
        return self._time(self._time.high if outage.mended is None else outage.mended)

    # Steps

    def _steps(self) -> str:
        times = step_times(self._faulty)
        usual = self._figures.step_seconds_quiet.p50
        if not times:
            return _row("step time", "", plot(40, (), [text("word none", "0%", 10, "no step")]))
        values = [max(each.seconds, 1e-6) for each in times] + ([usual] if usual else [])
        low, high = min(values), max(values)
        height = Axis(low / 1.6, high * 1.6, _STEPS_HEIGHT, log=True, upright=True)
        ticks = [tick for tick in height.ticks() if tick > height.low * 1.2]
        lines, said = heights(height, ticks, map(_round_seconds, ticks))
        spans = [
            (
                self._time(each.time - each.seconds),
                self._time(each.time),
                height(max(each.seconds, 1e-6)),
            )
            for each in times
        ]
        shapes, note = [lines], "logarithmic"
        if len(spans) <= 3 * _COLUMNS:
            shapes += [
                path("area steps", stairs(spans, floor=_STEPS_HEIGHT)),
                path("line steps", stairs(spans)),
            ]
        else:
            both = extremes(spans, 2 * _COLUMNS)  # upright: the lowest place is the longest step
            bars = "".join(
                f"M{number((start + end) / 2)} {number(y)}V{number(least[2] + 1)}"
                for (start, end, y), least in both
            )
            longest = [longest for longest, _ in both]
            shapes += [
                path("area steps", stairs(longest, floor=_STEPS_HEIGHT)),
                path("bars steps", bars),
            ]
        if usual:
            y = height(usual)
            shapes.append(path("reference", f"M0 {number(y)}H{number(WIDTH)}"))
            note += f"; dashed: the quiet run’s median, {seconds_text(usual)}"
        return _row("step time", note, plot(_STEPS_HEIGHT, shapes, said))

    # Throughput

    def _links(self) -> list[str]:
        found = throughput(self._faulty)
        if not found:
            return []
        carried = {
            link: sum((end - start) * rate for start, end, rate in spans)
            for link, spans in found.items()
        }
        least = _NEGLIGIBLE * max(carried.values())
        busy = [link for link in found if carried[link] > least]
        shown = sorted(sorted(busy, key=lambda link: -carried[link])[:_MOST_LINKS])
        thinned = {link: averages(self._placed(found[link]), _COLUMNS) for link in shown}
        top = max((rate for spans in thinned.values() for *_, rate in spans), default=0.0)
        rows = [
            _row(f"{rank} → {peer}", "" if place else "sent", self._link(thinned[rank, peer], top))
            for place, (rank, peer) in enumerate(shown)
        ]
        left = len(busy) - len(shown)
        return rows + ([_note(f"and {count(left, 'link')} that carried less")] if left else [])

    def _placed(self, spans: Iterable[Span]) -> list[Span]:
        return [(self._time(start), self._time(end), rate) for start, end, rate in spans]

    def _link(self, spans: Sequence[Span], top: float) -> str:
        height = Axis(0.0, top * 1.12 or 1.0, _LINK_HEIGHT, upright=True)
        tick = next(tick for count in (2, 4, 8) if (tick := height.ticks(count)[-1]))
        lines, said = heights(height, [tick], [_round_rate(tick)])
        drawn = [(start, end, height(rate)) for start, end, rate in spans]
        shapes = [
            lines,
            path("area sent", stairs(drawn, floor=_LINK_HEIGHT)),
            path("line sent", stairs(drawn)),
        ]
        return plot(_LINK_HEIGHT, shapes, said)


def throughput(record: RunRecord) -> dict[tuple[int, int], list[Span]]:
    """Return what each rank sent to each peer: (from, to, bytes a second), in seconds of the run.

    The counters begin again with every attempt; of the time before an attempt's first sample
    nothing is known.
    """
    starts = sorted(record.starts)
    samples: defaultdict[tuple[int, int], list[tuple[int, float, int]]] = defaultdict(list)
    for each in record.traffic:
        attempt = bisect_right(starts, each.time)
        samples[each.rank, each.peer].append((attempt, each.time, each.sent))
    found: dict[tuple[int, int], list[Span]] = {}
    for link, points in samples.items():
        points.sort()
        found[link] = [
            (start, end, (after - before) / (end - start))
            for (one, start, before), (other, end, after) in pairwise(points)
            if one == other and end > start and after >= before
        ]
    return found


def legend(faulty: RunRecord) -> str:
    """Return what the marks of the timeline mean, those that are in it."""
    marks = []
    if any(event.lost for event in faulty.links):
        marks.append('<span><i class="key lost"></i>link lost</span>')
        marks.append('<span><i class="key restored"></i>restored</span>')
        marks.append('<span><i class="key away"></i>in between</span>')
    if any(end.returncode for end in faulty.ends):
        marks.append('<span><i class="end">✕</i>worker ended</span>')
    if restarts(faulty):
        marks.append('<span><i class="key restart"></i>job started again</span>')
    return f'<p class="legend">{"".join(marks)}</p>' if marks else ""


def _row(label: str, note: str, chart: str, *, kind: str = "") -> str:
    small = f"<small>{escape(note)}</small>" if note else ""
    css = f"row {kind}".strip()
    return f'<div class="{css}"><div class="label">{escape(label)}{small}</div>{chart}</div>'


def _note(said: str) -> str:
    return f'<div class="row"><div class="label"></div><p class="note">{escape(said)}</p></div>'


def _ranks_of(record: RunRecord) -> list[int]:
    seen = {each.rank for each in record.step_ends} | {each.rank for each in record.links}
    return sorted(seen | {each.rank for each in record.ends})


def _apart(found: Sequence[Outage], time: Axis, most: int) -> list[Outage]:
    """Return outages that don't lie over each other, if there are more than `most` of them."""
    if len(found) <= most:
        return list(found)
    first: dict[int, Outage] = {}
    for outage in found:
        first.setdefault(int(time(outage.event.time) / time.size * most), outage)
    return list(first.values())


def _united(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return what the spans cover together, in pieces that don't touch."""
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _status(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"exit status {returncode}"


def _round_seconds(value: float) -> str:
    if value >= 1:
        return f"{value:g} s"
    return f"{value * 1e3:g} ms" if value >= 1e-3 else f"{value * 1e6:g} µs"


def _round_rate(value: float) -> str:
    """Return a rate in bytes a second for an axis."""
    for unit, size in (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3)):
        if value >= size:
            return f"{value / size:g} {unit}"
    return f"{value:g} B/s"
