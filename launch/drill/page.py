"""The page of a drill: one HTML file with all that is in it, to read without a network or script.

Everything that comes from a job or a script is escaped where it is put in. Long runs are thinned,
so that the page stays a page: the whole of it is in `drill.json` and in the runs' folders.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from holdfast.fabric.draw import draw
from holdfast.launch.drill.causes import AFTERMATH, Layout
from holdfast.launch.drill.figures import Figures, count, restarts
from holdfast.launch.drill.page_faults import table
from holdfast.launch.drill.page_loss import loss_chart
from holdfast.launch.drill.page_style import SCRIPT, STYLE
from holdfast.launch.drill.page_timeline import legend, timeline
from holdfast.launch.drill.record import RunRecord
from holdfast.launch.drill.words import (
    NOTHING,
    headline,
    percent_text,
    percentiles_text,
    seconds_text,
    verdict,
)

_LONGEST_SCRIPT = 60_000
_LONGEST_ERROR = 8_000
_SMALL = 4
"""Hosts that fit beside the loss curves."""

_MARK = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" '
    'stroke-linecap="round" aria-hidden="true"><path d="M12 21V10"/><path d="M12 14c-4 0-6-3-6-8"/>'
    '<path d="M12 11c4 0 6-3 6-7"/><path d="M4 21h16"/></svg>'
)
_HELD = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.2" '
    'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
    '<circle cx="12" cy="12" r="10"/><path d="M7.5 12.4l3 3 6-6.4"/></svg>'
)
_BROKEN = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.2" '
    'stroke-linecap="round" aria-hidden="true"><circle cx="12" cy="12" r="10"/>'
    '<path d="M8.4 8.4l7.2 7.2M15.6 8.4l-7.2 7.2"/></svg>'
)

_IDLE = (
    '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.2" '
    'stroke-linecap="round" aria-hidden="true"><circle cx="12" cy="12" r="10"/>'
    '<path d="M7.8 12h8.4"/></svg>'
)


@dataclass(frozen=True)
class Story:
    """All that a page tells. `again` is the command that repeats the drill, or empty."""

    title: str
    quiet: RunRecord
    faulty: RunRecord
    figures: Figures
    layout: Layout
    script_text: str
    again: str = ""


def page(story: Story) -> str:
    """Return the page as HTML."""
    sections = (
        _verdict(story.figures),
        _cards(story.figures),
        _error(story.faulty),
        _pictures(story),
        _timeline(story),
        _section("Faults", "", table(story.figures)),
        _section("Both runs", "", _runs(story.quiet, story.faulty)),
        _script(story),
        _section("What the figures mean", "", _definitions()),
    )
    head = "Holdfast drill: " + headline(story.figures).lower()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(head)}: {escape(story.title)}</title><style>{STYLE}</style></head>\n"
        f'<body><main><header><p class="brand">{_MARK}Holdfast drill</p>'
        f"<h1>{escape(story.title)}</h1></header>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def _section(heading: str, sub: str, body: str) -> str:
    below = f'<p class="sub">{sub}</p>' if sub else ""
    return f"<section><h2>{escape(heading)}</h2>{below}{body}</section>"


def _verdict(figures: Figures) -> str:
    css, sign = ("broken", _BROKEN) if figures.broken_promises else ("held", _HELD)
    if figures.promise_kept and not figures.faults:
        css, sign = "idle", _IDLE
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(figures))
    digest = ""
    if figures.weights_identical:
        digest = f"<p><code>sha256 of the weights: {figures.weights_sha256}</code></p>"
    return (
        f'<section class="verdict {css}">{sign}<div><strong>{headline(figures)}</strong>{said}'
        f"{digest}</div></section>"
    )


def _cards(figures: Figures) -> str:
    samples = figures.samples_committed == figures.samples_expected
    detected = sum(fault.detection_seconds is not None for fault in figures.faults)
    recovered = sum(fault.recovery_seconds is not None for fault in figures.faults)
    ridden = detected < len(figures.faults)
    of = f"of {count(len(figures.faults), 'fault')}"
    longest = seconds_text(figures.longest_step_seconds)
    cards = (
        _card(
            "identical" if figures.weights_identical else "not identical",
            "weights",
            "bit for bit, by their SHA-256",
            good=figures.weights_identical,
        ),
        _card(
            f"{figures.steps_lost:,} / {figures.steps_repeated:,}",
            "steps lost / repeated",
            f"of {figures.steps_expected:,}",
            good=None if figures.steps_lost == 0 else False,
        ),
        _card(
            f"{figures.samples_committed:,}",
            "samples committed",
            "as many as expected" if samples else f"{figures.samples_expected:,} were expected",
            good=None if samples else False,
        ),
        _card(
            percent_text(figures.goodput),
            "goodput",
            "of the quiet run’s steps per second",
        ),
        _card(
            percentiles_text(figures.detection_seconds),
            "detection, p50 / p99",
            f"{detected} {of}" + ("; the others were ridden out" if ridden else ""),
        ),
        _card(
            percentiles_text(figures.recovery_seconds), "recovery, p50 / p99", f"{recovered} {of}"
        ),
        _card(
            f"{figures.links_lost:,}",
            "links lost",
            count(figures.restarts, "restart") + " of the job",
        ),
        _card(
            seconds_text(figures.step_seconds_faulty.p50),
            "median step",
            f"in quiet {seconds_text(figures.step_seconds_quiet.p50)}; longest {longest}",
        ),
    )
    return f'<div class="cards">{"".join(cards)}</div>'


def _card(value: str, what: str, note: str, *, good: bool | None = None) -> str:
    css = {True: "card good", False: "card bad", None: "card"}[good]
    return (
        f'<div class="{css}"><b>{escape(value)}</b><span class="what">{escape(what)}</span>'
        f"<span>{escape(note)}</span></div>"
    )


def _error(faulty: RunRecord) -> str:
    if not faulty.error:
        return ""
    return _section("How the job ended", "", f"<pre>{escape(faulty.error[-_LONGEST_ERROR:])}</pre>")


def _timeline(story: Story) -> str:
    sub = (
        "A fault is a coloured band through all rows; a tall step is one that waited for the "
        "network. The last rows are what a rank sends to a peer."
    )
    body = legend(story.faulty) + timeline(story.quiet, story.faulty, story.figures)
    return _section("Timeline", sub, body)


def _pictures(story: Story) -> str:
    """Return the loss and the network, beside each other where the network is small enough."""
    loss = _section("Loss", "", loss_chart(story.quiet, story.faulty))
    both = f"{loss}{_network(story.layout)}"
    small = len(story.layout.topology.hosts) <= _SMALL
    return f'<div class="pair">{both}</div>' if small else both


def _network(layout: Layout) -> str:
    net = layout.topology
    switches = f"{len(net.switches)} switch{'' if len(net.switches) == 1 else 'es'}"
    sub = (
        f"{escape(net.name)}: {count(len(layout.hosts), 'rank')} on "
        f"{count(len(net.hosts), 'host')}, {switches}. An arrow is what a rank sends to the next "
        "one in the ring; a number says how many share a cable in one direction."
    )
    return _section("Network", sub, f'<div class="net">{draw(net, layout.hosts)}</div>')


def _runs(quiet: RunRecord, faulty: RunRecord) -> str:
    rows = [
        ("exit status", str(quiet.exit_status), str(faulty.exit_status)),
        ("time", seconds_text(quiet.seconds), seconds_text(faulty.seconds)),
        ("steps", f"{quiet.steps:,}", f"{faulty.steps:,}"),
        ("samples", f"{quiet.samples:,}", f"{faulty.samples:,}"),
        ("restarts", str(restarts(quiet)), str(restarts(faulty))),
        (
            "links lost",
            str(sum(event.lost for event in quiet.links)),
            str(sum(event.lost for event in faulty.links)),
        ),
        ("weights, sha256", _digest(quiet), _digest(faulty)),
    ]
    names = dict.fromkeys((*quiet.metrics, *faulty.metrics))
    rows += [
        (name.replace("_", " "), _metric(quiet, name), _metric(faulty, name)) for name in names
    ]
    body = "".join(
        f'<tr><td>{escape(what)}</td><td class="figure">{escape(one)}</td>'
        f'<td class="figure">{escape(other)}</td></tr>'
        for what, one, other in rows
    )
    return (
        '<div class="scroll short"><table><thead><tr><th></th><th class="figure">quiet</th>'
        f'<th class="figure">under faults</th></tr></thead><tbody>{body}</tbody></table></div>'
    )


def _digest(record: RunRecord) -> str:
    return NOTHING if record.weights_sha256 is None else f"{record.weights_sha256[:16]}…"


def _metric(record: RunRecord, name: str) -> str:
    return f"{record.metrics[name]:.6g}" if name in record.metrics else NOTHING


def _script(story: Story) -> str:
    again = f"<pre>{escape(story.again)}</pre>" if story.again else ""
    shown = story.script_text[:_LONGEST_SCRIPT]
    cut = len(shown) < len(story.script_text)
    more = '<p class="note">The rest is in faults.toml.</p>' if cut else ""
    sub = (
        "The command that ran this drill. The faults are in <code>faults.toml</code> beside this "
        "page; <code>--faults faults.toml</code> plays just these again."
    )
    return _section("Again", sub, f"{again}<pre>{escape(shown) or '# no faults'}</pre>{more}")


def _definitions() -> str:
    said: Iterable[tuple[str, str]] = (
        (
            "detection",
            "from a fault’s beginning to the first lost link or ended worker that is put down to "
            "it. It is put down to a fault that can touch it and is in force, or ended less than "
            f"{AFTERMATH:g} s ago; of several to one that cuts, and then to the latest. A fault "
            "that nobody gave up a connection for was ridden out.",
        ),
        (
            "recovery",
            "from when getting over the fault was possible (its end or, if later, its detection) "
            "to the end of the first step after every link lost to it was restored and every "
            "worker started again. A fault that was not detected has one only if it cuts and held "
            "the job up for longer than any step of the quiet run took.",
        ),
        ("p50, p99", "the smallest value that half, or 99 %, of the values do not exceed."),
        ("steps lost", "those of the quiet run’s result that the other result lacks."),
        ("steps repeated", "how often a step was ended again by a rank that had ended it before."),
        (
            "goodput",
            "steps a second, each counted once, from the end of the first step to the end of the "
            "last, over the quiet run’s.",
        ),
        (
            "promises",
            "the job finishes; weights and samples are those of the quiet run; no step is lost; "
            "and unless a process was killed or paused, nothing restarts and no step is repeated.",
        ),
    )
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in said) + "</dl>"
