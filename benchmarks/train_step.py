"""One process and one thread train four models, alternately with ours and with PyTorch.

    python benchmarks/train_step.py [--models mlp,lenet,gpt,lstm] [--rounds 21] [--json FILE]

Both begin from the same weights, and the losses of the first steps have to agree. Then they take
turns of a quarter of a second, who begins changes each round, and a ratio is that of one round: the
median over rounds is printed, and the quartiles. Figures are samples/s. "by CPU" is the same ratio
in processor time, which others on the machine disturb less. The MLP is also compared with PyTorch's
Adam(fused=True). This Python needs PyTorch: pip install torch.
"""

import argparse
import gc
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads import (
    Library,
    Workload,
    chosen,
    load_holdfast,
    load_torch,
    require_torch,
    rows,
    samples,
    training_step,
    use_one_thread,
)

from holdfast.errors import HoldfastError, UsageError

TURN_SECONDS = 0.25
FIRST_STEPS = 5
LOSS_TOLERANCE = 1e-3
"""Relative: float32 sums in another order, through five steps of Adam."""

Step = Callable[[], Any]


@dataclass(frozen=True)
class Turn:
    """Seconds of one step, by the clock and of the processor."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Row:
    """What is compared: a workload, and settings that only PyTorch's optimizer has."""

    name: str
    workload: Workload
    torch_settings: Mapping[str, Any]


def rows_of(workloads: Sequence[Workload]) -> list[Row]:
    """Return the rows of the table, the MLP with PyTorch's fused Adam among them."""
    found = []
    for workload in workloads:
        found.append(Row(workload.name, workload, {}))
        if workload.name == "mlp":
            found.append(Row("mlp fused", workload, {"fused": True}))
    return found


def same_start(row: Row, ours: Library, torch: Library) -> tuple[Step, Step]:
    """Return a training step of each library, both with PyTorch's initial weights."""
    workload = row.workload
    inputs, targets = samples(workload.data)
    models = [workload.model(library.nn, library.functional) for library in (ours, torch)]
    models[0].load_state_dict(
        {name: held.detach().numpy() for name, held in models[1].state_dict().items()}
    )
    first, second = (
        training_step(
            library,
            model,
            workload.make_optimizer(library, model.parameters(), **more),
            workload.batches(library, inputs, targets),
        )
        for library, model, more in zip(
            (ours, torch), models, ({}, row.torch_settings), strict=True
        )
    )
    return first, second


def check_losses(name: str, ours: Step, torch: Step) -> list[float]:
    """Do the first steps of both; return our losses. Raises HoldfastError if they are not one."""
    losses = []
    for number in range(FIRST_STEPS):
        mine, theirs = float(ours().item()), float(torch().item())
        if not math.isclose(mine, theirs, rel_tol=LOSS_TOLERANCE):
            raise HoldfastError(
                f"{name}: the same weights and batches were to give the same losses, and those of "
                f"step {number} are {mine:.6f} (ours) and {theirs:.6f} (PyTorch's)"
            )
        losses.append(mine)
    return losses


def turn(step: Step, steps: int) -> Turn:
    """Do `steps` steps; return what one took."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    return Turn(
        (time.perf_counter() - wall) / steps,
        (time.process_time() - cpu) / steps,
    )


def alternate(ours: Step, torch: Step, rounds: int) -> tuple[int, list[tuple[Turn, Turn]]]:
    """Return how many steps a turn has, and the turns of both in each round."""
    slower = max(turn(step, FIRST_STEPS).wall for step in (ours, torch))
    steps = max(1, round(TURN_SECONDS / slower))
    for step in (ours, torch):
        turn(step, steps)
    measured = []
    for number in range(rounds):
        if number % 2:
            second = turn(torch, steps)
            measured.append((turn(ours, steps), second))
        else:
            measured.append((turn(ours, steps), turn(torch, steps)))
    return steps, measured


def summary(
    name: str, batch: int, steps: int, rounds: Sequence[tuple[Turn, Turn]]
) -> dict[str, Any]:
    """Return medians of samples/s, and of the ratios within each round."""
    ratios = [torch.wall / ours.wall for ours, torch in rounds]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if rounds[1:] else ratios * 3
    return {
        "model": name,
        "ours": statistics.median(batch / ours.wall for ours, _ in rounds),
        "torch": statistics.median(batch / torch.wall for _, torch in rounds),
        "ratio": statistics.median(ratios),
        "low": quartiles[0],
        "high": quartiles[2],
        "by_cpu": statistics.median(torch.cpu / ours.cpu for ours, torch in rounds),
        # Below 1 others had the processor; above, something computes on more than one thread.
        "busy": statistics.median(ours.cpu / ours.wall for ours, _ in rounds),
        "torch_busy": statistics.median(torch.cpu / torch.wall for _, torch in rounds),
        "batch": batch,
        "steps": steps,
        "ratios": ratios,
    }


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as text."""
    columns = (
        ("ours", 10, ",.0f"),
        ("torch", 10, ",.0f"),
        ("ratio", 8, ".2f"),
        ("low", 8, ".2f"),
        ("high", 8, ".2f"),
        ("by_cpu", 8, ".2f"),
        ("busy", 8, ".2f"),
        ("torch_busy", 12, ".2f"),
    )
    return (
        "# one thread, samples/s; medians over rounds, the ratio's quartiles, the ratio by CPU "
        "time, CPU time per second\n" + rows(columns, results)
    )


def run(workloads: Sequence[Workload], rounds: int) -> list[dict[str, Any]]:
    """Measure all workloads."""
    require_torch()
    ours, torch = load_holdfast(), load_torch()
    results = []
    for row in rows_of(workloads):
        steps = same_start(row, ours, torch)
        losses = check_losses(row.name, *steps)
        # What has been loaded is not looked through again: it would be charged to whoever is on.
        gc.collect()
        gc.freeze()
        count, measured = alternate(*steps, rounds)
        result = summary(row.name, row.workload.batch, count, measured)
        results.append({**result, "first_losses": losses})
        print(f"holdfast: {row.name}: ratio {result['ratio']:.2f}", file=sys.stderr)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="mlp,lenet,gpt,lstm", help="some of these")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        workloads = chosen(options.models)
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = run(workloads, options.rounds)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        about = {"python": platform.python_version(), "machine": platform.machine()}
        text = json.dumps({**about, "results": results}, indent=1)
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    use_one_thread()
    sys.exit(main())
