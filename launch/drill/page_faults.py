"""The page's faults: their families and colours, their lanes in the timeline, and their table."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from holdfast.launch.drill.figures import FaultFigures, Figures
from holdfast.launch.drill.page_chart import WIDTH, Axis, number, path, plot, rectangles, text
from holdfast.launch.drill.words import NOTHING, seconds_text

FAMILIES: Mapping[str, str] = {
    "down": "cut",
    "drop": "cut",
    "flap": "cut",
    "partition": "cut",
    "reset": "reset",
    "rate": "slow",
    "latency": "slow",
    "loss": "lossy",
    "reorder": "lossy",
    "corrupt": "lossy",
    "pause": "process",
    "kill": "process",
    "disk-full": "disk",
    "disk-slow": "disk",
}
"""What kinds of faults share a colour."""

_MOMENTS = ("reset", "kill")
"""The kinds that are over as soon as they have happened."""

_LANE = 22.0
_MOST_LANES = 10
_MOST_TOLD = 800
_CHARACTER = 6.4
"""About the width of a character, in thousandths of a page that is wide."""
_LONGEST_LABEL = 230.0
_MOST_ROWS = 200


def bands(figures: Figures, time: Axis, height: float) -> str:
    """Return the faults as a background for charts over time: one band each, a line for a moment.

    `time` is the charts' x axis, `height` theirs in pixels.
    """
    areas: dict[str, list[tuple[float, float]]] = {}
    moments: dict[str, list[float]] = {}
    for fault in figures.faults:
        start, end = time(fault.began), time(end_of(fault, time.high))
        if end - start < 0.3:
            moments.setdefault(FAMILIES[fault.kind], []).append(start)
        else:
            areas.setdefault(FAMILIES[fault.kind], []).append((start, end))
    shapes = [
        path(f"band {family}", rectangles(spans, 0, height)) for family, spans in areas.items()
    ]
    shapes += [
        path(f"moment {family}", "".join(f"M{number(x)} 0V{number(height)}" for x in places))
        for family, places in moments.items()
    ]
    return "".join(shapes)


def end_of(fault: FaultFigures, last: float) -> float:
    """Return when a fault ended: at `last`, the run's end, if it was never healed."""
    return last if fault.ended is None else fault.ended


@dataclass(frozen=True)
class _Place:
    """Where a fault is drawn: from `start` to `end`, with its words from `left` to `right`."""

    fault: FaultFigures
    start: float
    end: float
    left: float
    right: float
    lane: int = 0

    @property
    def before(self) -> bool:
        """Whether the words stand before the span and not over it."""
        return self.left < self.start


def lanes(figures: Figures, time: Axis) -> str:
    """Return the faults as spans in lanes, so that no two lie over each other, with their words.

    Where there are too many for words they share few lanes, and each can still be pointed at; of
    `_MOST_TOLD` and more only the colours are left.
    """
    if not figures.faults:
        return plot(_LANE + 6, (), [text("word none", "0%", 4, "no fault began")])
    faults = sorted(figures.faults, key=lambda fault: fault.began)
    places = _pack([_worded(fault, time) for fault in faults])
    worded = max(place.lane for place in places) < _MOST_LANES
    if not worded:
        places = _pack([_bare(fault, time) for fault in faults])
    shapes, words = [], []
    boxes: defaultdict[str, str] = defaultdict(str)
    for place in places:
        fault, family = place.fault, FAMILIES[place.fault.kind]
        top = 4 + place.lane % _MOST_LANES * _LANE
        box = rectangles([(place.start, place.end)], top, top + _LANE - 5)
        if len(places) > _MOST_TOLD:
            boxes[family] += box
            continue
        said = f"{fault.number}: {fault.text}"
        shapes.append(path(f"span {family}", box, f"{said}, {_when(fault)}, {in_force(fault)}"))
        shapes.append(path(f"edge {family}", f"M{number(place.start)} {top}V{top + _LANE - 5}"))
        if worded:
            words.append(_words(said, place, places, top))
    shapes += [path(f"span many {family}", all_boxes) for family, all_boxes in boxes.items()]
    most = min(_MOST_LANES, 1 + max(place.lane for place in places))
    return plot(_LANE * most + 6, shapes, words, kind="lanes")


def _words(said: str, place: _Place, places: Sequence[_Place], top: float) -> str:
    """Return a fault's words with all the room that its lane leaves them."""
    if place.before:
        where = f"right:{100 - place.start / WIDTH * 100:.2f}%"
        room = place.start - place.left
    else:
        where = f"left:{place.start / WIDTH * 100:.2f}%"
        lefts = (each.left for each in places if each.lane == place.lane)
        room = min((x for x in lefts if x >= place.right), default=WIDTH) - place.start
    size = f"top:{number(top)}px;max-width:{room / WIDTH * 100:.2f}%"
    return f'<span class="word" style="{where};{size}">{escape(said)}</span>'


def _worded(fault: FaultFigures, time: Axis) -> _Place:
    bare = _bare(fault, time)
    wide = min(_LONGEST_LABEL, 14 + _CHARACTER * (len(fault.text) + 4))
    if bare.start + wide > WIDTH:
        return replace(bare, left=bare.start - wide)
    return replace(bare, right=max(bare.end, bare.start + wide))


def _bare(fault: FaultFigures, time: Axis) -> _Place:
    start, end = time(fault.began), time(end_of(fault, time.high))
    return _Place(fault, start, end, start, end)


def _pack(places: Sequence[_Place]) -> list[_Place]:
    """Return each in the first lane that is free where it is."""
    free: list[float] = []
    found = []
    for place in sorted(places, key=lambda place: place.left):
        lane = next((lane for lane, until in enumerate(free) if until <= place.left), len(free))
        free[lane : lane + 1] = [place.right + 2]
        found.append(replace(place, lane=lane))
    return found


def _when(fault: FaultFigures) -> str:
    return f"at {fault.began:.2f} s in step {fault.step:,}"


def in_force(fault: FaultFigures) -> str:
    """Return for how long a fault was in force."""
    if fault.kind in _MOMENTS:
        return "a moment"
    return "to the end" if fault.ended is None else seconds_text(fault.ended - fault.began)


def table(figures: Figures) -> str:
    """Return the table of faults with what became of each; of very many, the first."""
    if not figures.faults:
        return '<p class="note">No fault began while the job ran.</p>'
    rows = "".join(_row(fault) for fault in figures.faults[:_MOST_ROWS])
    left = len(figures.faults) - _MOST_ROWS
    more = f'<p class="note">And {left:,} more: drill.json has them all.</p>' if left > 0 else ""
    return (
        '<div class="scroll"><table><thead><tr><th>no.</th><th>fault</th>'
        '<th class="figure">began</th><th class="figure">in step</th>'
        '<th class="figure">in force</th><th class="figure">links lost,<br>workers ended</th>'
        '<th class="figure">detected<br>after</th><th class="figure">recovered<br>after</th>'
        f"</tr></thead><tbody>{rows}</tbody></table></div>{more}"
    )


def _row(fault: FaultFigures) -> str:
    cells = (
        f"{fault.began:.2f} s",
        f"{fault.step:,}",
        in_force(fault),
        str(fault.outages or NOTHING),
        seconds_text(fault.detection_seconds),
        seconds_text(fault.recovery_seconds),
    )
    return (
        f'<tr><td class="faint">{fault.number}</td><td class="what">'
        f'<i class="chip {FAMILIES[fault.kind]}"></i>{escape(fault.text)}</td>'
        + "".join(f'<td class="figure">{escape(cell)}</td>' for cell in cells)
        + "</tr>"
    )
