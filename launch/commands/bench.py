"""`holdfast bench`: measure, beside the other libraries where they are installed."""

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import HoldfastError, MissingDependency

if TYPE_CHECKING:
    from holdfast.launch.bandwidth.figures import Result
    from holdfast.launch.bandwidth.libraries import Library
    from holdfast.launch.bandwidth.spec import AllReduceSpec

app = typer.Typer(help="Measure bandwidth.", no_args_is_help=True)


@app.callback()
def bench() -> None:
    """Measure bandwidth."""


@app.command("all-reduce")
def all_reduce(
    min_bytes: Annotated[str, typer.Option("-b", "--min-bytes", help="smallest size")] = "64K",
    max_bytes: Annotated[
        str, typer.Option("-e", "--max-bytes", help="largest, always measured")
    ] = "100M",
    step_factor: Annotated[int, typer.Option("-f", "--step-factor", help="from size to size")] = 4,
    sizes: Annotated[str, typer.Option(help="these sizes instead, as 64K,1M,25M,100M")] = "",
    iters: Annotated[int, typer.Option("-n", "--iters", help="per round; 0: about 0.2 s")] = 0,
    warmup: Annotated[
        int | None,
        typer.Option(
            "-w", "--warmup", help="untimed, before each round (default: iters / 10, at least 2)"
        ),
    ] = None,
    check: Annotated[
        int, typer.Option("-c", "--check", min=0, max=1, help="count wrong values")
    ] = 1,
    rounds: Annotated[int, typer.Option(help="each library measures once in each")] = 5,
    ranks: Annotated[int, typer.Option(help="processes on this host")] = 2,
    transport: Annotated[str, typer.Option(help="ours: shm, tcp, both, or none")] = "shm,tcp",
    against: Annotated[str, typer.Option(help="peers: gloo, openmpi, mpich")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="write the results here")] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="write a picture (.png) here")
    ] = None,
    min_busbw: Annotated[
        float, typer.Option(help="GB/s: fail if the average of ours is below")
    ] = 0.0,
) -> None:
    """Measure all-reduce as nccl-tests does: algbw is size / time, busbw is algbw * 2(n-1)/n.

    Sizes take K, M and G (powers of two); GB are 10^9 bytes. Of ours and of each peer, every round
    measures one after the other in a rotating order; figures are medians over the rounds of the
    slowest rank's time per all-reduce.
    """
    from holdfast.launch.bandwidth import spec as specs

    spec = specs.AllReduceSpec(
        sizes=specs.parse_sizes(sizes)
        if sizes
        else specs.size_sequence(
            specs.parse_size(min_bytes), specs.parse_size(max_bytes), step_factor
        ),
        ranks=ranks,
        transports=specs.parse_names(transport),
        peers=specs.parse_names(against),
        rounds=rounds,
        iters=iters,
        warmup=warmup,
        check=bool(check),
        min_busbw=min_busbw,
        json_file=json_file,
        plot_file=plot_file,
    )
    peers_folder = os.environ.get("HOLDFAST_PEERS")
    folders = [Path(peers_folder)] if peers_folder else []
    run_all_reduce(spec, [*folders, Path(".peers")])


def run_all_reduce(spec: "AllReduceSpec", peer_folders: Sequence[Path]) -> None:
    """Measure, print the tables, write the files; raise `HoldfastError` if a gate is not passed."""
    from holdfast.launch.bandwidth.comparison import compare_all_reduce
    from holdfast.launch.bandwidth.controller import Controller
    from holdfast.launch.bandwidth.report import progress_line

    libraries = _libraries(spec, peer_folders)
    with Controller() as controller:
        groups = []
        for library in libraries:
            _say(f"starting {spec.ranks} ranks of {library.name}")
            groups.append((controller.start(library.program, spec.ranks), library.forms))
        results = compare_all_reduce(groups, spec, lambda of_size: _say(progress_line(of_size)))
        versions = {group.name: group.version for group, _ in groups}
    _write(spec, results, versions)
    _gate(spec, results)


def _libraries(spec: "AllReduceSpec", peer_folders: Sequence[Path]) -> "list[Library]":
    from holdfast.launch.bandwidth.libraries import ours, peer

    max_size = max(spec.sizes)
    found = [ours(transport, max_size) for transport in spec.transports]
    for name in spec.peers:
        try:
            found.append(peer(name, max_size, peer_folders))
        except MissingDependency as error:
            _say(f"{error}\nGoing on without {name}.")
    if not found:
        raise MissingDependency(f"none of {', '.join(spec.peers)} is installed: nothing to measure")
    return found


def _write(spec: "AllReduceSpec", results: "list[Result]", versions: dict[str, str]) -> None:
    from holdfast.launch.bandwidth import figures, report

    measured = figures.libraries(results)
    ours = [name for name in measured if name.startswith("holdfast-")]
    peers = [name for name in measured if name not in ours]
    blocks = [report.table(results, name, checked=spec.check) for name in measured]
    if peers:
        blocks += [report.ratio_table(results, name, peers) for name in ours]
    typer.echo("\n\n".join(blocks))
    if spec.json_file is not None:
        here = {
            "holdfast": importlib.metadata.version("holdfast"),
            "python": platform.python_version(),
            **versions,
        }
        content = report.as_json(
            results,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=here,
            cpus=len(os.sched_getaffinity(0)),
        )
        spec.json_file.write_text(json.dumps(content, indent=1) + "\n")
        _say(f"results are in {spec.json_file}")
    if spec.plot_file is not None:
        from holdfast.launch.bandwidth.plot import plot_busbw

        plot_busbw(results, spec.plot_file)
        _say(f"the plot is in {spec.plot_file}")


def _gate(spec: "AllReduceSpec", results: "list[Result]") -> None:
    from holdfast.launch.bandwidth.figures import average_busbw

    wrong = {result.library: result.wrong for result in results if result.wrong}
    if wrong:
        raise HoldfastError(
            f"wrong sums: elements of the exact sum were expected, wrong ones per library: {wrong}"
        )
    for transport in spec.transports:
        average = average_busbw(results, f"holdfast-{transport}")
        if average < spec.min_busbw:
            raise HoldfastError(
                f"holdfast-{transport}: an average bus bandwidth of at least {spec.min_busbw} GB/s "
                f"was expected (--min-busbw), {average:.2f} was measured"
            )


def _say(text: str) -> None:
    """Tell whoever waits; standard output is for the tables."""
    typer.echo(f"holdfast: {text}", err=True)
