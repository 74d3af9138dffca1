"""`holdfast bench`: measure, beside the other libraries where they are installed."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.errors import HoldfastError, MissingDependency
from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES

if TYPE_CHECKING:
    from holdfast.launch.bandwidth.figures import Result
    from holdfast.launch.bandwidth.libraries import Library
    from holdfast.launch.bandwidth.spec import CollectiveSpec

app = typer.Typer(help="Measure collectives, links and networks.", no_args_is_help=True)


def collective(
    context: typer.Context,
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
    limit: Annotated[
        bool, typer.Option("--limit", help="measure plain sockets too: the limit of TCP's wire")
    ] = False,
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
    """Measure the collective that this command is called after."""
    from holdfast.launch.bandwidth import spec as specs

    assert context.command.name is not None
    spec = specs.CollectiveSpec(
        collective=context.command.name,
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
        limit=limit,
        min_busbw=min_busbw,
        json_file=json_file,
        plot_file=plot_file,
    )
    run_collective(spec, peer_folders())


for _name in COLLECTIVES:
    app.command(
        _name,
        short_help=f"Measure {_name}, beside other libraries.",
        help=f"Measure {_name} as nccl-tests does: algbw is size / time, busbw what the hardware "
        "has to carry.\n\nSizes take K, M and G (powers of two); GB are 10^9 bytes. Of ours and of "
        "each peer, every round measures one after the other in a rotating order; figures are "
        "medians over the rounds of the slowest rank's time.",
    )(collective)


_Rounds = Annotated[int, typer.Option(help="figures are medians over these")]
_Ranks = Annotated[int, typer.Option(help="processes on this host, unless ranks were started")]
_Rails = Annotated[
    int, typer.Option(help="connections for each interface (default: HOLDFAST_RAILS, or 1)")
]
_Interfaces = Annotated[
    str,
    typer.Option(help="interfaces or addresses, as eth0,eth1 (default: HOLDFAST_INTERFACES)"),
]
_Json = Annotated[Path | None, typer.Option("--json", help="write the results here")]
_Plot = Annotated[Path | None, typer.Option("--plot", help="write a picture (.png) here")]
_Size = Annotated[str, typer.Option(help="bytes per measurement, as 64M (default: chosen)")]


@app.command()
def link(
    size: _Size = "0",
    rounds: _Rounds = 5,
    rails: _Rails = 0,
    interfaces: _Interfaces = "",
    json_file: _Json = None,
    plot_file: _Plot = None,
) -> None:
    """Measure one TCP link between two ranks, each way and by rail, beside plain sockets.

    Both ranks run on this host and use the loopback interface, unless they are started as workers
    are: on two hosts, set RANK (0 and 1), WORLD_SIZE=2, MASTER_ADDR (an address of rank 0's host)
    and the same HOLDFAST_TOKEN, and run this command on both.
    """
    from holdfast.launch.bandwidth import link as links
    from holdfast.launch.bandwidth import plot
    from holdfast.launch.bandwidth.spec import parse_names, parse_size
    from holdfast.launch.bandwidth.together import seated

    spec = links.LinkSpec(
        size=parse_size(size),
        rounds=rounds,
        rails=rails,
        interfaces=parse_names(interfaces),
        json_file=json_file,
        plot_file=plot_file,
    )
    with seated(2, os.environ) as seat:
        figures = links.measure(seat, spec, _say)
    if figures is not None:
        _finish(links.table(figures), figures.as_json(), spec.json_file)
        if spec.plot_file is not None:
            plot.plot_link(figures, spec.plot_file)


@app.command()
def matrix(
    ranks: _Ranks = 4,
    size: _Size = "0",
    rounds: _Rounds = 3,
    parallel: Annotated[
        bool, typer.Option("--parallel", help="measure pairs that share no rank at the same time")
    ] = False,
    rails: _Rails = 0,
    interfaces: _Interfaces = "",
    json_file: _Json = None,
    plot_file: _Plot = None,
) -> None:
    """Measure the bandwidth of TCP from every rank to every other; a slow link stands out.

    One pair after the other, each way by itself, unless --parallel. The ranks run on this host and
    use the loopback interface, unless they are started as workers are (see `bench link --help`).
    """
    from holdfast.launch.bandwidth import matrix as matrices
    from holdfast.launch.bandwidth import plot
    from holdfast.launch.bandwidth.spec import parse_names, parse_size
    from holdfast.launch.bandwidth.together import seated

    spec = matrices.MatrixSpec(
        size=parse_size(size),
        rounds=rounds,
        parallel=parallel,
        rails=rails,
        interfaces=parse_names(interfaces),
        json_file=json_file,
        plot_file=plot_file,
    )
    with seated(ranks, os.environ) as seat:
        found = matrices.measure(seat, spec, _say)
    if found is not None:
        _finish(matrices.table(found), found.as_json(), spec.json_file)
        if spec.plot_file is not None:
            plot.plot_matrix(found, spec.plot_file)


@app.command()
def tune(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="write the model here, for HOLDFAST_MODEL")
    ] = None,
    ranks: _Ranks = 4,
    transport: Annotated[str, typer.Option(help="one that runs schedules: tcp")] = "tcp",
    sizes: Annotated[str, typer.Option(help="bytes")] = "4,4K,64K,1M,4M,16M",
    algorithms: Annotated[str, typer.Option(help="by name (default: all)")] = "",
    rounds: _Rounds = 3,
    json_file: _Json = None,
    plot_file: _Plot = None,
) -> None:
    """Measure all-reduce by every algorithm and fit the cost model by which `auto` chooses.

    A job uses it when HOLDFAST_MODEL names the file. The ranks run on this host and use the
    loopback interface, unless they are started as workers are (see `bench link --help`): tune
    where the job will run.
    """
    from holdfast.collectives.cost import ALGORITHMS
    from holdfast.launch.bandwidth import plot
    from holdfast.launch.bandwidth import spec as specs
    from holdfast.launch.bandwidth import tune as tuning
    from holdfast.launch.bandwidth.together import seated

    spec = tuning.TuneSpec(
        sizes=specs.parse_sizes(sizes),
        algorithms=specs.parse_names(algorithms) or ALGORITHMS,
        transport=transport,
        rounds=rounds,
        model_file=output,
        json_file=json_file,
        plot_file=plot_file,
    )
    with seated(ranks, os.environ) as seat:
        tuned = tuning.measure(seat, spec, _say)
    if tuned is not None:
        _finish(tuning.table(tuned), tuned.as_json(), spec.json_file)
        if spec.plot_file is not None:
            plot.plot_tuning(tuned, spec.plot_file)
        if spec.model_file is not None:
            spec.model_file.write_text(tuned.model.to_json())
            _say(f"the model is in {spec.model_file}: set HOLDFAST_MODEL={spec.model_file}")


def _finish(table: str, content: dict[str, object], json_file: Path | None) -> None:
    from holdfast.launch.bandwidth.report import setting

    typer.echo(table)
    if json_file is not None:
        _write_json({**setting({}), **content}, json_file)


def peer_folders() -> list[Path]:
    """Return where peers may be installed: HOLDFAST_PEERS, then `.peers` here."""
    folder = os.environ.get("HOLDFAST_PEERS")
    return [*([Path(folder)] if folder else []), Path(".peers")]


def run_collective(spec: "CollectiveSpec", peer_folders: Sequence[Path]) -> None:
    """Measure, print the tables, write the files; raise `HoldfastError` if a gate is not passed."""
    from holdfast.launch.bandwidth.comparison import compare
    from holdfast.launch.bandwidth.controller import Controller
    from holdfast.launch.bandwidth.report import progress_line

    with Controller() as controller:
        groups = []
        for library in _libraries(spec, peer_folders):
            _say(f"starting {spec.ranks} ranks of {library.name}")
            groups.append((controller.start(library.program, spec.ranks), library))
        results = compare(groups, spec, lambda of_size: _say(progress_line(of_size)))
        versions = {group.name: group.version for group, library in groups if library.checkable}
    _write(spec, results, versions)
    _gate(spec, results)


def _libraries(spec: "CollectiveSpec", peer_folders: Sequence[Path]) -> "list[Library]":
    from holdfast.launch.bandwidth.libraries import ours, peer, raw

    max_size = max(spec.sizes)
    found = [ours(transport, spec.collective, max_size) for transport in spec.transports]
    if spec.limit:
        found.append(raw())
    for name in spec.peers:
        try:
            found.append(peer(name, spec.collective, max_size, peer_folders))
        except MissingDependency as error:
            _say(f"{error}\nGoing on without {name}.")
    if not found:
        raise MissingDependency(f"none of {', '.join(spec.peers)} is installed: nothing to measure")
    return found


def _write(spec: "CollectiveSpec", results: "list[Result]", versions: dict[str, str]) -> None:
    from holdfast.launch.bandwidth import figures, report
    from holdfast.launch.bandwidth.libraries import LIMIT

    measured = figures.libraries(results)
    ours = [name for name in measured if name.startswith("holdfast-")]
    blocks = [report.table(results, spec.what, name, checked=spec.check) for name in measured]
    for name in ours:
        # Shared memory has no wire.
        peers = [
            other
            for other in measured
            if other not in ours and (other != LIMIT or name == "holdfast-tcp")
        ]
        if peers:
            blocks.append(report.ratio_table(results, name, peers))
    typer.echo("\n\n".join(blocks))
    if spec.json_file is not None:
        _write_json(report.as_json(results, spec.collective, versions), spec.json_file)
    if spec.plot_file is not None:
        from holdfast.launch.bandwidth.plot import plot_busbw

        plot_busbw(results, spec.collective, spec.plot_file)
        _say(f"the plot is in {spec.plot_file}")


def _write_json(content: dict[str, object], file: Path) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")
    _say(f"results are in {file}")


def _gate(spec: "CollectiveSpec", results: "list[Result]") -> None:
    from holdfast.launch.bandwidth.figures import average_busbw

    wrong = {result.library: result.wrong for result in results if result.wrong}
    if wrong:
        raise HoldfastError(
            f"wrong values: what the ranks' inputs give was expected, wrong ones per library: "
            f"{wrong}"
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
