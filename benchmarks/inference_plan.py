"""Inference by a plan beside the model itself, alternately: how much faster, and equal within what.

python benchmarks/inference_plan.py [--rounds 7] [--json FILE]
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import workloads

TURN_SECONDS = 0.2


def models() -> dict[str, tuple[Any, list[tuple[int, ...]]]]:
    """Return modules by name, each with the shapes of its inputs."""
    import holdfast.nn.functional as functional
    from holdfast import nn

    class Residual(nn.Module):
        """A block of two convolutions with batch normalization, around which the input goes."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(channels)
            self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(channels)

        def forward(self, x: Any) -> Any:
            """Return the shape of `x`."""
            y = functional.relu(self.norm1(self.first(x)))
            return functional.relu(self.norm2(self.second(y)) + x)

    residual = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        Residual(32),
        nn.MaxPool2d(2),
        Residual(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    gpt = workloads.WORKLOADS["gpt"].model(nn, functional)
    return {
        "mlp": (workloads.mlp(nn, functional), [(1, 784)]),
        "lenet": (workloads.lenet(nn, functional), [(1, 1, 28, 28), (32, 1, 28, 28)]),
        "residual": (residual, [(1, 1, 28, 28), (32, 1, 28, 28)]),
        "gpt": (gpt, [(1, workloads.LENGTH)]),
    }


def seconds(call: Callable[[], Any]) -> float:
    """Return the time of a call, over as many as fit a turn."""
    count, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < TURN_SECONDS:
        call()
        count += 1
    return spent / count


def measured(name: str, model: Any, shape: tuple[int, ...], rounds: int) -> dict[str, Any]:
    """Return medians of both, and of their ratio in each round."""
    import numpy as np

    import holdfast as hf

    rng = np.random.default_rng(0)
    if name == "gpt":
        x = hf.tensor(rng.integers(0, workloads.CHARACTERS, shape))
    else:
        x = hf.tensor(rng.standard_normal(shape).astype(np.float32))
    for _ in range(3):
        if name != "gpt":
            model(x)  # statistics for the batch normalizations
    model.eval()
    plan = hf.trace(model, x)
    with hf.no_grad():
        expected = model(x).array
        apart = float(np.abs(plan(x).array - expected).max() / np.abs(expected).max())
        pairs = [(seconds(lambda: model(x)), seconds(lambda: plan(x))) for _ in range(rounds)]
    return {
        "model": name,
        "input": list(shape),
        "model_us": 1e6 * statistics.median(a for a, _ in pairs),
        "plan_us": 1e6 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "largest_difference": apart,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write it if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(arguments)
    workloads.use_one_thread()
    results = [
        measured(name, model, shape, args.rounds)
        for name, (model, shapes) in models().items()
        for shape in shapes
    ]
    print("# one thread, medians; the largest difference is relative to the largest output")
    print("model      input               model us    plan us  ratio  difference")
    for row in results:
        print(
            f"{row['model']:<10} {row['input']!s:<18} {row['model_us']:>9,.0f}  "
            f"{row['plan_us']:>9,.0f}  {row['ratio']:>5.2f}  {row['largest_difference']:.1e}"
        )
    if args.json is not None:
        args.json.write_text(json.dumps({"results": results}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
