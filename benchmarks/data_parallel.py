"""Two processes train, alternately with ours and with PyTorch's DistributedDataParallel over Gloo.

    python benchmarks/data_parallel.py [--models mlp,lenet,gpt,lstm] [--rounds 7] [--json FILE]

Both do the same: samples already in memory, one thread per rank, the models, batches (per rank) and
optimizers of `workloads.py`. Each library is also measured against itself: the same two processes,
the same start, no exchange of gradients. Figures are samples/s of both ranks; ratios are taken
within a round, then the median over rounds. PyTorch is looked for as `holdfast bench all-reduce
--against gloo` does it (`make peers`).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from workloads import WORKLOADS, Workload, chosen, rows, samples

from holdfast.errors import HoldfastError, UsageError
from holdfast.launch.bandwidth.comparison import Entrant, alternate
from holdfast.launch.bandwidth.controller import Controller
from holdfast.launch.bandwidth.libraries import find_python
from holdfast.launch.bandwidth.processes import Program

RANKS = 2
ROUND_SECONDS = 1.0
HERE = Path(__file__).resolve().parent
PATH = {"PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH"))))}
"""For the ranks, which are started by path in another folder, to find `workloads.py`."""


@dataclass(frozen=True)
class Throughput:
    """Samples/s of both ranks together, in one round."""

    ours: float
    torch: float
    no_exchange: float
    torch_no_exchange: float


def summary(model: str, rounds: Sequence[Throughput]) -> dict[str, object]:
    """Return medians of samples/s, and medians of the ratios within each round."""

    def median(of: Callable[[Throughput], float]) -> float:
        return statistics.median(of(each) for each in rounds)

    return {
        "model": model,
        "ours": median(lambda each: each.ours),
        "torch": median(lambda each: each.torch),
        "ratio": median(lambda each: each.ours / each.torch),
        "no_exchange": median(lambda each: each.no_exchange),
        "ours_over_no_exchange": median(lambda each: each.ours / each.no_exchange),
        "torch_no_exchange": median(lambda each: each.torch_no_exchange),
        "torch_over_no_exchange": median(lambda each: each.torch / each.torch_no_exchange),
        "rounds": [vars(each) for each in rounds],
    }


def measure(workload: Workload, programs: Sequence[Program], rounds: int) -> dict[str, object]:
    """Train one model in turns, with our program and PyTorch's."""
    with Controller() as controller:
        groups = [controller.start(program, RANKS) for program in programs]
        entrants = [
            Entrant(group.name, group, {"exchange": exchange})
            for exchange in (True, False)
            for group in groups
        ]
        measured = alternate(entrants, rounds=rounds, seconds=ROUND_SECONDS)
    together = RANKS * workload.batch
    return summary(
        workload.name,
        [
            Throughput(*(together / each.seconds for each in of_round))
            for of_round in zip(*measured, strict=True)
        ],
    )


def table(results: Sequence[Mapping[str, object]]) -> str:
    """Return the results as text."""
    columns = (
        ("ours", 11, ",.0f"),
        ("torch", 11, ",.0f"),
        ("ratio", 8, ".2f"),
        ("no_exchange", 13, ",.0f"),
        ("ours_over_no_exchange", 23, ".2f"),
        ("torch_no_exchange", 19, ",.0f"),
        ("torch_over_no_exchange", 24, ".2f"),
    )
    return (
        f"# {RANKS} processes, samples/s of both; medians, ratios paired within a round\n"
        + rows(columns, results)
    )


def write_data(workload: Workload, folder: Path) -> dict[str, object]:
    """Write what all processes train on as .npy files; return the settings that name them."""
    files = {name: str(folder / f"{name}.npy") for name in ("inputs", "targets")}
    for file, array in zip(files.values(), samples(workload.data), strict=True):
        np.save(file, array)
    return {"model": workload.name, **files}


def our_program(settings: Mapping[str, object], transport: str) -> Program:
    """Return how our ranks are started."""
    path = HERE / "training_holdfast.py"
    settings = {**settings, "transport": transport}
    return Program("holdfast", Path(sys.executable), "steps", path, settings, environment=PATH)


def torch_program(settings: Mapping[str, object], python: Path, *, fused: bool) -> Program:
    """Return how PyTorch's ranks are started."""
    path = HERE / "training_torch.py"
    return Program("torch", python, "steps", path, {**settings, "fused": fused}, environment=PATH)


def run(
    workloads: Sequence[Workload], rounds: int, *, transport: str, fused: bool
) -> list[dict[str, object]]:
    """Measure all `workloads`; processes and files are gone when this returns."""
    peers_folder = os.environ.get("HOLDFAST_PEERS")
    folders = [Path(peers_folder)] if peers_folder else []
    torch_python = find_python("gloo", [*folders, HERE.parent / ".peers"])
    results = []
    for workload in workloads:
        print(f"holdfast: training {workload.name} in {rounds} rounds", file=sys.stderr)
        with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
            settings = write_data(workload, Path(scratch))
            programs = (
                our_program(settings, transport),
                torch_program(settings, torch_python, fused=fused),
            )
            results.append(measure(workload, programs, rounds))
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(WORKLOADS), help="some of these")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--transport", default="shm", choices=("shm", "tcp"), help="ours")
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused optimizers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        workloads = chosen(options.models)
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = run(workloads, options.rounds, transport=options.transport, fused=options.fused)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
