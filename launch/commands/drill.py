"""`holdfast drill`: run a job quietly and under faults, and see whether it holds."""

import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from holdfast.errors import HoldfastError, UsageError
from holdfast.launch.spec import default_run_dir, fresh_folder

MAIN_JOB = Path("examples/fashion_lenet.py")
MAIN_JOB_ARGS = ("--epochs", "4")


def drill(
    script: Annotated[
        Path | None,
        typer.Argument(help="the Python file to run [default: the main job]", metavar="[SCRIPT]"),
    ] = None,
    args: Annotated[
        list[str] | None, typer.Argument(help="its own arguments", metavar="[ARGS]")
    ] = None,
    faults: Annotated[
        Path | None, typer.Option(help="a fault script (TOML); without it faults are drawn")
    ] = None,
    mtbf: Annotated[str, typer.Option(help="mean time between the faults that are drawn")] = "2s",
    seed: Annotated[int, typer.Option(help="what they are drawn from")] = 8,
    fabric: Annotated[
        Literal["relay", "kernel"],
        typer.Option(help="relay: this user's processes; kernel: network namespaces, needs root"),
    ] = "relay",
    topology: Annotated[
        str, typer.Option(help="star:N, two-rails:N, leaf-spine:L,S,H, fat-tree:K, or a TOML file")
    ] = "star:3",
    nproc_per_node: Annotated[int, typer.Option(help="workers on each host")] = 1,
    max_restarts: Annotated[
        int, typer.Option(help="how often a job that lost a worker is started again")
    ] = 3,
    timeout: Annotated[
        int, typer.Option(help="seconds without progress on any link after which the job gives up")
    ] = 60,
    run_dir: Annotated[
        Path | None, typer.Option(help="where everything goes [default: runs/drill-DATE-TIME]")
    ] = None,
) -> None:
    """Run SCRIPT without and with network faults, and report whether it held.

    Without SCRIPT it drills the main job under link faults. The report is drill.html in the run
    directory, with drill.json and faults.toml beside it. Options come before SCRIPT. Exit status: 0
    if every promise was kept, 1 if one was broken, 2 if the drill could not be held (an option, a
    script or network that cannot be used, a job that fails by itself), 130 after Ctrl-C.
    """
    from holdfast.fabric.script import load_script
    from holdfast.fabric.topology import parse_topology
    from holdfast.fabric.units import seconds
    from holdfast.launch.console import Console
    from holdfast.launch.drill.drill import run_drill
    from holdfast.launch.drill.report import describe
    from holdfast.launch.drill.spec import DrillSpec
    from holdfast.launch.signals import Interrupted, Signals
    from holdfast.runtime.progress import ProgressView

    chosen, own = (MAIN_JOB, MAIN_JOB_ARGS) if script is None else (script, tuple(args or ()))
    if script is None:
        _prepare_main_job()
    folder = run_dir or fresh_folder(default_run_dir(Path("drill"), datetime.now()))
    spec = DrillSpec(
        script=chosen,
        args=own,
        run_dir=Path.cwd() / folder,
        topology=parse_topology(topology),
        fabric=fabric,
        nproc_per_node=nproc_per_node,
        faults=None if faults is None else load_script(faults),
        mtbf=seconds(mtbf),
        seed=seed,
        max_restarts=max_restarts,
        timeout=timeout,
        again=shlex.join(["holdfast", *sys.argv[1:]]),
    )
    console = Console(ProgressView())
    try:
        with Signals() as signals:
            done = run_drill(spec, console, signals)
    except HoldfastError as error:
        console.problem(f"error: {error}")
        sys.exit(2)
    except Interrupted as interrupted:
        console.problem(f"interrupted by {interrupted}: {spec.run_dir}")
        sys.exit(interrupted.exit_status)
    finally:
        console.close()
    print(describe(done.figures))
    console.notice(f"the report: {spec.run_dir / 'drill.html'}")
    if not done.figures.promise_kept:
        sys.exit(1)


def _prepare_main_job() -> None:
    """Have the main job's data here; raise UsageError where its script isn't."""
    if not MAIN_JOB.is_file():
        raise UsageError(
            f"the main job, {MAIN_JOB}, isn't here: run this in a clone of Holdfast's repository, "
            "or name a training script of yours"
        )
    from holdfast.runtime.fetch import fetch_fashion_mnist

    fetch_fashion_mnist(lambda line: print(f"holdfast: {line}", flush=True))
