"""A drill: the job in quiet, the same job under faults, and the comparison of the two."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import LaunchError
from holdfast.fabric.script import Script, draw
from holdfast.launch.console import Console
from holdfast.launch.drill.causes import Layout
from holdfast.launch.drill.figures import Figures, figures
from holdfast.launch.drill.record import RunRecord
from holdfast.launch.drill.report import ranks_on, write_report
from holdfast.launch.drill.run import JobRun
from holdfast.launch.drill.spec import DrillSpec
from holdfast.launch.signals import Signals

LONGEST = 3.0
"""Seconds that a drawn fault lasts at most; less if they come oftener than that."""
LONGER = 5.0
"""How many times the quiet run's seconds faults are drawn for: as much longer may a run get."""


@dataclass(frozen=True)
class Drill:
    """What became of a drill; `folder` holds its report, its fault script and both runs."""

    figures: Figures
    quiet: RunRecord
    faulty: RunRecord
    script: Script
    folder: Path


def run_drill(spec: DrillSpec, console: Console, signals: Signals) -> Drill:
    """Run the job twice and write the report.

    Raises LaunchError if the job fails without any fault, UnsupportedFault or UsageError for a
    script that the network cannot play, FabricError where there can be no such network.
    """
    console.notice(f"the quiet run: {_what(spec)}")
    quiet = JobRun(spec, "quiet", Script(), console, signals).run()
    if quiet.exit_status or quiet.weights_sha256 is None:
        raise LaunchError(
            f"the job failed without any fault, so a drill says nothing:\n{quiet.error}"
            if quiet.error
            else f"the script {spec.script} ended without a result: a drill needs a job that "
            "trains to its end with holdfast.init() and job.batches"
        )
    script = spec.faults
    if script is None:
        duration = LONGER * quiet.seconds
        script = draw(
            spec.topology,
            seed=spec.seed,
            mtbf=spec.mtbf,
            duration=duration,
            kinds=spec.kinds,
            longest=min(LONGEST, spec.mtbf),
        )
    (spec.run_dir / "faults.toml").write_text(script.to_toml(), encoding="utf-8")
    whence = "" if script.seed is None else f", drawn from seed {script.seed}"
    console.notice(
        f"the run under faults: {len(script.entries)} planned{whence}, in "
        f"{spec.run_dir / 'faults.toml'}"
    )
    faulty = JobRun(spec, "faulty", script, console, signals).run()
    layout = Layout(spec.topology, ranks_on(spec.topology, quiet))
    found = figures(quiet, faulty, quiet.samples, layout)
    write_report(
        spec.run_dir,
        quiet,
        faulty,
        found,
        spec.topology,
        script.to_toml(),
        title=shlex.join([str(spec.script), *spec.args]),
        again=spec.again,
    )
    return Drill(found, quiet, faulty, script, spec.run_dir)


def _what(spec: DrillSpec) -> str:
    hosts = len(spec.topology.hosts)
    return (
        f"{spec.world_size} workers on {hosts} hosts ({spec.topology.name}) over the "
        f"{spec.fabric} network"
    )
