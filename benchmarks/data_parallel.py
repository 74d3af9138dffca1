"""Two processes train, alternately with ours and with PyTorch's DistributedDataParallel over Gloo.

    python benchmarks/data_parallel.py [--models lenet,mlp] [--rounds 7] [--json FILE]

Both do the same: Fashion-MNIST images already in memory, one thread per rank, LeNet-5 with SGD and
momentum (128 per rank) or an MLP of 784-512-512-10 with Adam (256 per rank). Each library is also
measured against itself: the same two processes, the same start, no exchange of gradients. Figures
are samples/s of both ranks; ratios are taken within a round, then the median over rounds.
PyTorch is looked for as `holdfast bench all-reduce --against gloo` does it (`make peers`).
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

from holdfast.errors import HoldfastError, UsageError
from holdfast.launch.bandwidth.comparison import Entrant, alternate
from holdfast.launch.bandwidth.controller import Controller
from holdfast.launch.bandwidth.libraries import find_python
from holdfast.launch.bandwidth.processes import Program

RANKS = 2
BATCH = {"lenet": 128, "mlp": 256}
IMAGES = 8192
ROUND_SECONDS = 1.0
HERE = Path(__file__).resolve().parent


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


def measure(model: str, ours: Program, torch: Program, rounds: int) -> dict[str, object]:
    """Train one model in turns."""
    with Controller() as controller:
        groups = [controller.start(program, RANKS) for program in (ours, torch)]
        entrants = [
            Entrant(group.name, group, {"exchange": exchange})
            for exchange in (True, False)
            for group in groups
        ]
        measured = alternate(entrants, rounds=rounds, seconds=ROUND_SECONDS)
    samples = RANKS * BATCH[model]
    return summary(
        model,
        [
            Throughput(*(samples / each.seconds for each in of_round))
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
    lines = [
        f"# {RANKS} processes, samples/s of both; medians, ratios paired within a round",
        f"{'model':8}" + "".join(f"{name:>{width}}" for name, width, _ in columns),
    ]
    for result in results:
        cells = (format(result[name], form).rjust(width) for name, width, form in columns)
        lines.append(f"{result['model']:8}" + "".join(cells))
    return "\n".join(lines)


def write_data(folder: Path) -> dict[str, object]:
    """Write what all processes train on as .npy files; return the settings that name them."""
    from holdfast.runtime.datasets import fashion_mnist

    images, labels = fashion_mnist()[0][np.arange(IMAGES)]
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    return {"images": str(folder / "images.npy"), "labels": str(folder / "labels.npy")}


def run(
    models: Sequence[str], rounds: int, *, transport: str, fused: bool
) -> list[dict[str, object]]:
    """Measure all `models`; processes and files are gone when this returns."""
    peers_folder = os.environ.get("HOLDFAST_PEERS")
    folders = [Path(peers_folder)] if peers_folder else []
    torch_python = find_python("gloo", [*folders, HERE.parent / ".peers"])
    results = []
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch:
        data = write_data(Path(scratch))
        for model in models:
            settings = {**data, "model": model, "batch": BATCH[model]}
            ours = Program(
                name="holdfast",
                python=Path(sys.executable),
                task="steps",
                path=HERE / "training_holdfast.py",
                settings={**settings, "transport": transport},
            )
            torch = Program(
                name="torch",
                python=torch_python,
                task="steps",
                path=HERE / "training_torch.py",
                settings={**settings, "fused": fused},
            )
            print(f"holdfast: training {model} in {rounds} rounds", file=sys.stderr)
            results.append(measure(model, ours, torch, rounds))
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="lenet,mlp", help="lenet, mlp or both")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--transport", default="shm", choices=("shm", "tcp"), help="ours")
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused optimizers")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        models = tuple(dict.fromkeys(options.models.split(",")))
        for model in models:
            if model not in BATCH:
                raise UsageError(f"--models: {', '.join(BATCH)} are known, {model!r} was given")
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = run(models, options.rounds, transport=options.transport, fused=options.fused)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
