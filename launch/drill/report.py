"""What a drill leaves to read: `drill.json` for programs, `drill.html` for people, a few lines."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from holdfast.fabric.topology import Topology
from holdfast.launch.drill.causes import Layout
from holdfast.launch.drill.figures import Figures, count, restarts
from holdfast.launch.drill.page import Story, page
from holdfast.launch.drill.page_faults import in_force
from holdfast.launch.drill.record import RunRecord
from holdfast.launch.drill.words import (
    headline,
    percent_text,
    percentiles_text,
    seconds_text,
    verdict,
)
from holdfast.runtime.files import make_folders, write_atomically

JSON_NAME = "drill.json"
PAGE_NAME = "drill.html"

_MOST_ROWS = 20


def write_report(
    folder: Path,
    quiet: RunRecord,
    faulty: RunRecord,
    figures: Figures,
    topology: Topology,
    script_text: str,
    *,
    title: str,
    again: str = "",
    hosts: Sequence[str] | None = None,
) -> Path:
    """Write `drill.json` and `drill.html` into `folder` and return the page's path.

    `script_text` is the fault script as TOML, `title` the job's command line, `again` the command
    that repeats the drill, `hosts` the host of each rank; without it, `ranks_on`'s. Each file is
    written atomically. Raises OSError where it cannot be.
    """
    layout = Layout(topology, hosts or ranks_on(topology, quiet, faulty))
    content = as_json(quiet, faulty, figures, topology, title=title, again=again)
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    story = Story(title, quiet, faulty, figures, layout, script_text, again)
    make_folders(folder)
    write_atomically(folder / JSON_NAME, text.encode())
    write_atomically(folder / PAGE_NAME, page(story).encode())
    return folder / PAGE_NAME


def ranks_on(topology: Topology, *records: RunRecord) -> list[str]:
    """Return the host of each rank seen in the records, as many on each, in the hosts' order."""
    seen = {end.rank for record in records for end in record.step_ends}
    seen |= {end.rank for record in records for end in record.ends}
    world_size = max(seen, default=len(topology.hosts) - 1) + 1
    each = math.ceil(world_size / len(topology.hosts))
    return [topology.hosts[rank // each] for rank in range(world_size)]


def as_json(
    quiet: RunRecord,
    faulty: RunRecord,
    figures: Figures,
    topology: Topology,
    *,
    title: str,
    again: str,
) -> dict[str, Any]:
    """Return what `drill.json` holds: the figures, and both runs in short."""
    return {
        "job": title,
        "command": again,
        "topology": topology.name,
        "hosts": len(topology.hosts),
        **figures.to_json(),
        "quiet": _in_short(quiet),
        "faulty": _in_short(faulty),
    }


def _in_short(record: RunRecord) -> dict[str, Any]:
    return {
        "seconds": record.seconds,
        "exit_status": record.exit_status,
        "error": record.error,
        "steps": record.steps,
        "samples": record.samples,
        "restarts": restarts(record),
        "weights_sha256": record.weights_sha256,
        "metrics": {
            name: value if math.isfinite(value) else None for name, value in record.metrics.items()
        },
    }


def describe(figures: Figures) -> str:
    """Return the faults, the figures and the verdict as lines for a terminal of 80 columns."""
    console = Console(width=80, color_system=None, highlight=False)
    with console.capture() as captured:
        if figures.faults:
            console.print(_faults(figures))
            left = len(figures.faults) - _MOST_ROWS
            if left > 0:
                console.print(f" and {count(left, 'fault')} more, in {JSON_NAME}")
            console.print()
        console.print(_figures(figures))
        console.print()
        console.print(f"{headline(figures)}. {' '.join(verdict(figures))}", markup=False)
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def _faults(figures: Figures) -> Table:
    table = Table(box=None, padding=(0, 1))
    table.add_column("no.", justify="right")
    table.add_column("fault", ratio=1)
    for heading in ("began", "in force", "detected", "recovered"):
        table.add_column(heading, justify="right", no_wrap=True)
    for fault in figures.faults[:_MOST_ROWS]:
        table.add_row(
            str(fault.number),
            Text(fault.text),
            f"{fault.began:.2f} s",
            in_force(fault),
            seconds_text(fault.detection_seconds),
            seconds_text(fault.recovery_seconds),
        )
    return table


def _figures(figures: Figures) -> Table:
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column()
    table.add_column()
    rows = (
        ("weights", "identical" if figures.weights_identical else "not identical"),
        ("steps lost, repeated", f"{figures.steps_lost:,}, {figures.steps_repeated:,}"),
        (
            "samples committed",
            f"{figures.samples_committed:,} of {figures.samples_expected:,} expected",
        ),
        ("detection p50 / p99", percentiles_text(figures.detection_seconds)),
        ("recovery p50 / p99", percentiles_text(figures.recovery_seconds)),
        ("links lost, restarts", f"{figures.links_lost:,}, {figures.restarts:,}"),
        (
            "goodput",
            f"{percent_text(figures.goodput)} of the quiet run's steps per second",
        ),
    )
    for row in rows:
        table.add_row(*row)
    return table
