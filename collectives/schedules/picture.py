"""A schedule as a picture: ranks side by side, rounds downwards, what each rank holds in between.

The picture is one SVG without outside resources, scripts or ids, light or dark as its viewer asks.
A rank is a row of cells, one for each chunk, which are fuller the more contributions are in; a
message is an arrow in its chunk's colour, dashed where it takes the place of what is there. Pure:
the same schedule gives the same text.
"""

import math
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from holdfast.collectives.schedule import Receive, Schedule
from holdfast.collectives.schedules.proof import Symbols, rounds, start
from holdfast.errors import UsageError

MOST_RANKS, MOST_ROUNDS, MOST_CHUNKS = 16, 40, 64
"""What can still be read."""

_COLUMN, _ROW, _BAR = 92.0, 62.0, 15.0
_LEFT, _TOP = 86.0, 92.0
_BAR_WIDTH = 68.0

_STYLE = """
.hf-plan { --ground: #fbfaf7; --ink: #1f2d33; --faint: #6d7b80; --cell: #e6eaea;
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
@media (prefers-color-scheme: dark) { .hf-plan { --ground: #11191c; --ink: #e4ecee;
  --faint: #93a3a9; --cell: #263338; } }
.hf-plan .ground { fill: var(--ground); }
.hf-plan .cell { fill: var(--cell); }
.hf-plan .message { fill: none; stroke-width: 1.8; stroke-linecap: round; }
.hf-plan .placed { stroke-dasharray: 5 4; }
.hf-plan text { fill: var(--ink); text-anchor: middle; }
.hf-plan .title { font-size: 15px; font-weight: 600; text-anchor: start; }
.hf-plan .name { font-weight: 600; }
.hf-plan .small { font-size: 11px; fill: var(--faint); }
.hf-plan .start { text-anchor: start; }
"""


def draw(schedule: Schedule, *, root: int = 0, title: str = "") -> str:
    """Return the picture of a schedule as SVG; `root` is that of a broadcast, scatter or the like.

    Raises UsageError for one that is too large to be read.
    """
    if (
        schedule.world_size > MOST_RANKS
        or schedule.rounds > MOST_ROUNDS
        or schedule.chunks > MOST_CHUNKS
    ):
        raise UsageError(
            f"a picture has room for {MOST_RANKS} ranks, {MOST_ROUNDS} rounds and {MOST_CHUNKS} "
            f"chunks; {schedule.name} has {schedule.world_size}, {schedule.rounds} and "
            f"{schedule.chunks}: draw it for fewer ranks"
        )
    return "\n".join([*_picture(schedule, root, title or _title(schedule)), "</svg>\n"])


def _title(schedule: Schedule) -> str:
    collective = schedule.collective.replace("-", " ")
    return f"{schedule.algorithm.replace('-', ' ')}: {collective} of {schedule.world_size} ranks"


def _picture(schedule: Schedule, root: int, title: str) -> Iterator[str]:
    width = _LEFT + schedule.world_size * _COLUMN + 20
    width = max(width, 8.4 * len(title) + 40, 600)
    height = _TOP + schedule.rounds * _ROW + _BAR + 26
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="hf-plan" role="img" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}">'
    )
    yield f"<title>{escape(title)}</title><style>{_STYLE}</style>"
    yield f'<rect class="ground" width="{width:.0f}" height="{height:.0f}" rx="10"/>'
    yield f'<text class="title" x="20" y="28">{escape(title)}</text>'
    yield from _legend(schedule)
    for rank in range(schedule.world_size):
        yield f'<text class="name" x="{_middle(rank):.0f}" y="{_TOP - 12:.0f}">{rank}</text>'
    for number in range(schedule.rounds):
        y = _TOP + _BAR + number * _ROW + (_ROW - _BAR) / 2
        yield f'<text class="small start" x="20" y="{y + 4:.1f}">round {number + 1}</text>'
        yield from _messages(schedule, number)

    symbols = Symbols()
    first = start(schedule, symbols, root)
    yield from _bars(schedule, symbols, first, 0)
    for number, held in enumerate(rounds(schedule, symbols, first), 1):
        yield from _bars(schedule, symbols, held, number)


def _legend(schedule: Schedule) -> Iterator[str]:
    """Say what an arrow means, as far as the schedule has both."""
    receives = [
        receive
        for rank in range(schedule.world_size)
        for step in schedule.steps(rank)
        for receive in step.receives
    ]
    x = 20.0
    for reduce, said in ((True, "is added"), (False, "takes its place")):
        if any(receive.reduce == reduce for receive in receives):
            kind = "message" if reduce else "message placed"
            colour = _colour(0, 1)
            yield (
                f'<path class="{kind}" stroke="{colour}" d="M{x:.0f} 46h34"/>'
                f'<text class="small start" x="{x + 42:.0f}" y="50">{said}</text>'
            )
            x += 110 if reduce else 134
    said = "a colour for each chunk; " if schedule.chunks > 1 else ""
    said += "the more is in it, the fuller" if _adding(schedule) else "what a rank has is full"
    yield f'<text class="small start" x="{x:.0f}" y="50">{said}</text>'


def _messages(schedule: Schedule, number: int) -> Iterator[str]:
    """Yield a round's arrows; the longest lie below."""
    arrows = [
        (receive.peer, rank, receive)
        for rank in range(schedule.world_size)
        for receive in schedule.program(rank, number).receives
    ]
    top = _TOP + _BAR + number * _ROW + 2
    bottom = top + _ROW - _BAR - 4
    for source, target, receive in sorted(arrows, key=lambda each: -abs(each[0] - each[1])):
        chunk = receive.chunk
        begin, end = _cell(schedule, source, chunk), _cell(schedule, target, chunk, receive.run)
        if schedule.collective == "all-to-all":
            begin = _cell(schedule, source, target)
        yield _arrow(
            begin, top, end, bottom, _colour(chunk, schedule.chunks), receive, source, target
        )


def _arrow(
    x: float,
    top: float,
    end: float,
    bottom: float,
    colour: str,
    receive: Receive,
    source: int,
    target: int,
) -> str:
    length = math.hypot(end - x, bottom - top)
    along, down = (end - x) / length, (bottom - top) / length
    tip = [
        (end - 6 * along + side * 3.2 * down, bottom - 6 * down - side * 3.2 * along)
        for side in (1, -1)
    ]
    kind = "message" if receive.reduce else "message placed"
    last = receive.chunk + receive.run - 1
    chunks = f"chunk {last}" if receive.run == 1 else f"chunks {receive.chunk} to {last}"
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in [(end, bottom), *tip])
    return (
        f"<g><title>rank {source} → rank {target}: {chunks}</title>"
        f'<path class="{kind}" stroke="{colour}" d="M{x:.1f} {top:.1f}L{end - 4 * along:.1f} '
        f'{bottom - 4 * down:.1f}"/><polygon fill="{colour}" points="{points}"/></g>'
    )


def _bars(
    schedule: Schedule, symbols: Symbols, held: Sequence[Sequence[int]], number: int
) -> Iterator[str]:
    """Yield what the ranks hold after `number` rounds."""
    y = _TOP + number * _ROW
    cell = _BAR_WIDTH / schedule.chunks
    adding = _adding(schedule)
    most = schedule.world_size if adding else 1
    for rank, chunks in enumerate(held):
        left = _middle(rank) - _BAR_WIDTH / 2
        yield (
            f'<rect class="cell" x="{left:.1f}" y="{y:.1f}" width="{_BAR_WIDTH:.0f}" '
            f'height="{_BAR:.0f}" rx="2"/>'
        )
        for chunk, value in enumerate(chunks):
            count = symbols.ranks(value).bit_count()
            if not count:
                continue
            tall = max(3.0, _BAR * count / most)
            whole = adding and count == most
            mark = ' stroke="var(--ink)" stroke-width="0.8"' if whole and cell > 4 else ""
            yield (
                f'<rect x="{left + chunk * cell:.2f}" y="{y + _BAR - tall:.1f}" '
                f'width="{max(1.0, cell - 0.8):.2f}" height="{tall:.1f}" '
                f'fill="{_colour(chunk, schedule.chunks)}"{mark}><title>rank {rank}, chunk '
                f"{chunk}: {escape(symbols.text(value))}</title></rect>"
            )


def _adding(schedule: Schedule) -> bool:
    return schedule.collective in ("all-reduce", "reduce-scatter", "reduce")


def _middle(rank: int) -> float:
    return _LEFT + (rank + 0.5) * _COLUMN


def _cell(schedule: Schedule, rank: int, chunk: int, run: int = 1) -> float:
    """Return the middle of a run of a rank's cells."""
    cell = _BAR_WIDTH / schedule.chunks
    return _middle(rank) - _BAR_WIDTH / 2 + (chunk + run / 2) * cell


def _colour(chunk: int, chunks: int) -> str:
    return f"hsl({(212 + 360 * chunk / chunks) % 360:.0f} 62% 50%)"
