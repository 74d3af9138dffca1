"""All optimizers side by side: one small network on Fashion-MNIST, and the curves of their losses.

python examples/optimizers.py                            optimizers.png in the run's directory
holdfast launch --nproc-per-node 2 examples/optimizers.py

Every optimizer has a copy of the same network, with the same weights to begin with, and all copies
see the same batches. They lie in one arena, so their gradients are summed over the ranks together.
Rates are those, of 1, 2 and 5 times powers of 10, with the smallest loss in the second epoch.
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.runtime.metrics import read_metrics

RECIPES: dict[str, Callable[[Iterable[nn.Parameter]], optim.Optimizer]] = {
    "SGD": lambda p: optim.SGD(p, lr=0.2),
    "Momentum": lambda p: optim.SGD(p, lr=0.02, momentum=0.9),
    "Nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "LARS": lambda p: optim.LARS(p, lr=5.0),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.02),
    "Adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.002),
    "Yogi": lambda p: optim.Yogi(p, lr=0.002),
    "Adam": lambda p: optim.Adam(p, lr=0.002),
    "AMSGrad": lambda p: optim.Adam(p, lr=0.002, amsgrad=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.005),
    "Adamax": lambda p: optim.Adamax(p, lr=0.01),
    "NAdam": lambda p: optim.NAdam(p, lr=0.002),
    "RAdam": lambda p: optim.RAdam(p, lr=0.005),
    "LAMB": lambda p: optim.LAMB(p, lr=0.005),
    "Lion": lambda p: optim.Lion(p, lr=0.0005),
}
"""How each one is made of the parameters that it is to update."""


class SideBySide(optim.Optimizer):
    """Optimizers that step together, each for its own parameters of one arena.

    A job has one optimizer, which tells it what to keep in a checkpoint: here that of every part,
    the arrays under the part's name.
    """

    def __init__(self, parts: Mapping[str, optim.Optimizer]) -> None:
        groups = [{"params": part.parameters, "lr": part.lr} for part in parts.values()]
        super().__init__(groups, defaults={})
        self.parts = parts

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for part in self.parts.values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        states = {name: part.state_dict() for name, part in self.parts.items()}
        arrays = {
            f"{name}.{key}": array
            for name, state in states.items()
            for key, array in state.pop("state").items()
        }
        return {"kind": "SideBySide", "state": arrays, "parts": states}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        arrays = state_dict["state"]
        for name, part in self.parts.items():
            begin = f"{name}."
            own = {k.removeprefix(begin): a for k, a in arrays.items() if k.startswith(begin)}
            part.load_state_dict({**state_dict["parts"][name], "state": own})


def plot(path: Path, lines: list[dict[str, Any]]) -> None:
    """Draw the loss of each optimizer over the steps, a panel for each, all others in grey."""
    lines = [line for line in lines if "SGD" in line]
    steps = [line["step"] for line in lines]
    curves = {name: [line[name] for line in lines] for name in RECIPES}
    figure = Figure(figsize=(7.8, 7.2), dpi=96, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(4, 4, sharex=True, sharey=True)
    for axes, (name, curve) in zip(grid.flat, curves.items(), strict=True):
        for other in curves.values():
            axes.plot(steps, other, color="#dcdcdc", linewidth=0.8)
        axes.plot(steps, curve, color="#0072B2", linewidth=1.8)
        axes.set_title(f"{name}: {curve[-1]:.3f}", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    axes.set(xscale="log", yscale="log")  # of one panel for all: they share their axes
    axes.set_xticks([100, 1000], ["100", "1000"])
    axes.set_yticks([0.3, 0.5, 1.0], ["0.3", "0.5", "1"])
    axes.minorticks_off()
    figure.supxlabel("step", fontsize=10)
    figure.supylabel("training loss (cross-entropy); above each panel where it ends", fontsize=10)
    figure.savefig(path, pil_kwargs={"optimize": True})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=60_000, help="train on the first so many")
    parser.add_argument("--batch-size", type=int, default=128, help="of the global batch")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument(
        "--log-every", type=int, default=50, help="steps: their losses are averaged"
    )
    args = parser.parse_args()

    job = hf.init()
    train, _ = hf.datasets.fashion_mnist()
    train = train.subset(np.arange(args.samples))
    models = nn.ModuleDict()
    for name in RECIPES:
        hf.manual_seed(job.seed)
        models[name] = nn.Sequential(
            nn.Flatten(), nn.Linear(28 * 28, args.width), nn.ReLU(), nn.Linear(args.width, 10)
        )
    models.to(job.device)
    hf.Arena(models.parameters())  # one for all, in which each optimizer finds its own
    optimizer = SideBySide(
        {name: make(models[name].parameters()) for name, make in RECIPES.items()}
    )
    job.prepare(models, optimizer, checkpoint_every=0)

    window: list[list[float]] = []  # of each step, every optimizer's loss
    for images, labels in job.batches(train, args.batch_size, args.epochs):
        losses = hf.stack([F.cross_entropy(model(images), labels) for model in models.values()])
        # Each loss reaches the weights of its own network: the gradient of the sum is all of them.
        job.backward(losses.sum())
        job.step()
        window.append(losses.tolist())
        if job.steps % args.log_every == 0:
            means = np.mean(window, axis=0)
            values = (job.sum(mean) / job.world_size for mean in means)
            job.log(**dict(zip(models, values, strict=True)))
            window.clear()

    if job.rank == 0 and job.run_dir is not None:
        plot(job.run_dir / "optimizers.png", read_metrics(job.run_dir))


if __name__ == "__main__":
    main()
