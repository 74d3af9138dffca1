"""What a primitive costs beside its arithmetic: 1,000 multiplies of one element, ours and PyTorch.

    python benchmarks/primitive_overhead.py [--rounds 101] [--json FILE]

A chain `y = y * by` is computed and differentiated; figures are microseconds for one multiply,
forward and backward. `by` is a constant tensor, a Python number, or the leaf that the gradient is
taken of, where both factors get one. Both do one chain per round, who begins changes each round.
This Python needs PyTorch: pip install torch.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workloads import Library, load_holdfast, load_torch, require_torch, rows, use_one_thread

from holdfast.errors import HoldfastError, UsageError

LENGTH = 1000
WARMUP = 10

# Near 1, so that a thousand of them neither overflow nor vanish.
FACTOR = 0.999
FACTORS = ("constant", "number", "leaf")


def chain(library: Library, factor: str) -> Callable[[], float]:
    """Return what goes through the chain and back, and returns the seconds that took."""
    import numpy as np

    leaf = library.tensor(np.full(1, FACTOR, np.float32))
    leaf.requires_grad = True
    by: Any = {
        "constant": library.tensor(np.full(1, FACTOR, np.float32)),
        "number": FACTOR,
        "leaf": leaf,
    }[factor]
    # The power that the leaf ends with, times its derivative.
    expected = FACTOR**LENGTH * (LENGTH + 1 if factor == "leaf" else 1)

    def run() -> float:
        leaf.grad = None
        began = time.perf_counter()
        y = leaf
        for _ in range(LENGTH):
            y = y * by
        y.backward()
        seconds = time.perf_counter() - began
        assert abs(float(leaf.grad.item()) / expected - 1) < 1e-3
        return seconds

    return run


def summary(factor: str, ours: Sequence[float], torch: Sequence[float]) -> dict[str, Any]:
    """Return microseconds per multiply of seconds per chain, and the ratio (below 1: less)."""

    def microseconds(seconds: float) -> float:
        return seconds / LENGTH * 1e6

    return {
        "factor": factor,
        "ours": microseconds(statistics.median(ours)),
        "torch": microseconds(statistics.median(torch)),
        "ratio": statistics.median(a / b for a, b in zip(ours, torch, strict=True)),
        "ours_best": microseconds(min(ours)),
        "torch_best": microseconds(min(torch)),
        "best_ratio": min(ours) / min(torch),
    }


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure all chains."""
    require_torch()
    libraries = (load_holdfast(), load_torch())
    results = []
    for factor in FACTORS:
        chains = [chain(library, factor) for library in libraries]
        for each in chains * WARMUP:
            each()
        seconds: list[list[float]] = [[], []]
        for number in range(rounds):
            for which in (0, 1) if number % 2 else (1, 0):
                seconds[which].append(chains[which]())
        results.append(summary(factor, *seconds))
    return results


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as text."""
    columns = (
        ("ours", 10, ".2f"),
        ("torch", 10, ".2f"),
        ("ratio", 8, ".2f"),
        ("ours_best", 12, ".2f"),
        ("torch_best", 12, ".2f"),
        ("best_ratio", 12, ".2f"),
    )
    return (
        f"# a chain of {LENGTH:,} multiplies of one element, forward and backward: µs for one, "
        "medians, the ratio paired within a round\n" + rows(columns, results, "factor")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = run(options.rounds)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    use_one_thread()
    sys.exit(main())
