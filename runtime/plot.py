"""A picture of a run: its loss and its accuracies over the steps, with the data epochs marked."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from holdfast.errors import UsageError
from holdfast.runtime.files import write_atomically
from holdfast.runtime.metrics import METRICS_NAME, read_metrics

PLOT_NAME = "curves.png"

Floats = npt.NDArray[np.float64]
Curve = tuple[Floats, Floats]

# Okabe and Ito's colours, which stay apart for the colour-blind.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_GREY = "#8a8a8a"
_SMOOTHING = 0.02  # of the curve's points, to either side: what the smoothed line averages over
_LONGEST_REACH = 2000  # which bounds the work for very long runs
_EPOCH_LABELS = 12  # more than this many don't fit side by side


def plot_run(run_dir: Path) -> Path:
    """Draw `curves.png` in `run_dir` from its metrics and return its path.

    The metric `loss` is drawn raw and smoothed, each metric whose name ends in `accuracy` (0 … 1)
    in a panel below; a data epoch begins where the metric `data_epoch` grows. Raises UsageError if
    the run has no such metrics.
    """
    lines = read_metrics(run_dir)
    loss = _curve(lines, "loss")
    named = dict.fromkeys(name for line in lines for name in line if name.endswith("accuracy"))
    accuracies = {name: _curve(lines, name) for name in named}
    panels = (loss[0].size > 0) + bool(accuracies)
    if panels == 0:
        raise UsageError(
            f"{run_dir / METRICS_NAME} has neither a loss nor an accuracy to draw; a run writes "
            f"them as it trains"
        )
    figure = Figure(figsize=(8.0, 1.4 + 2.9 * panels), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(panels, 1, sharex=True, squeeze=False)[:, 0])
    if loss[0].size:
        _draw_loss(axes[0], *loss)
    if accuracies:
        _draw_accuracies(axes[-1], accuracies)
    _mark_epochs(axes, lines)
    axes[0].set_title(run_dir.resolve().name, loc="left", fontsize=11, pad=20)
    axes[-1].set_xlabel("step")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    path = run_dir / PLOT_NAME
    write_atomically(path, picture.getvalue())
    return path


def smoothed(values: Floats, reach: int) -> Floats:
    """Return the mean around each value, weighted down to nothing `reach` places to either side.

    It is centred, so that it doesn't lag behind a falling loss; at the ends it takes what is there.
    Values that aren't finite count for nothing and are nan in the result.
    """
    if not values.size:
        return values.copy()
    kernel = np.hanning(2 * reach + 3)
    finite = np.isfinite(values)
    # "full" and a slice, as "same" would give the kernel's length back for a short curve.
    middle = slice(reach + 1, reach + 1 + values.size)
    total = np.convolve(np.where(finite, values, 0.0), kernel, mode="full")[middle]
    weight = np.convolve(finite.astype(np.float64), kernel, mode="full")[middle]
    result = np.full(values.shape, np.nan)
    result[finite] = total[finite] / weight[finite]
    return result


def _curve(lines: list[dict[str, Any]], name: str) -> Curve:
    """Return the steps and values of the lines that have the metric `name`."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    table = np.array(points, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _draw_loss(axes: Axes, steps: Floats, values: Floats) -> None:
    axes.plot(steps, values, color=_COLOURS[0], alpha=0.3, linewidth=0.7, label="as logged")
    smooth = smoothed(values, reach=min(max(3, round(_SMOOTHING * values.size)), _LONGEST_REACH))
    marker = "o" if steps.size == 1 else ""  # one point makes no line
    axes.plot(steps, smooth, color=_COLOURS[0], linewidth=1.8, marker=marker, label="smoothed")
    axes.set_ylabel("training loss")
    axes.legend(loc="upper right", edgecolor="none", framealpha=1.0, fontsize=9)
    _tidy(axes)


def _draw_accuracies(axes: Axes, curves: dict[str, Curve]) -> None:
    for number, (name, (steps, values)) in enumerate(curves.items()):
        colour = _COLOURS[(number + 1) % len(_COLOURS)]
        label = name.replace("_", " ")
        axes.plot(steps, values, color=colour, marker="o", markersize=4, linewidth=1.6, label=label)
        if np.isfinite(values[-1]):
            axes.annotate(
                f"{100 * values[-1]:.2f} %",
                (steps[-1], values[-1]),
                xytext=(0, -7),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=9,
                color=colour,
            )
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.legend(loc="lower right", edgecolor="none", framealpha=1.0, fontsize=9)
    axes.margins(y=0.15)
    _tidy(axes)


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)


def _mark_epochs(axes: list[Axes], lines: list[dict[str, Any]]) -> None:
    """Draw a line where a data epoch ends, and number the epochs from 1 above the first panel.

    Of very many epochs only every second, third, … is marked.
    """
    steps, epochs = _curve(lines, "data_epoch")
    if not steps.size:
        return
    ends = np.flatnonzero(np.diff(epochs) > 0)
    first = 0.0 if epochs[0] == 0 else steps[0]
    last = max(line["step"] for line in lines)
    bounds = np.concatenate([[first], steps[ends], [last]])
    if first < last:
        edge = 0.02 * (last - first)
        axes[0].set_xlim(first - edge, last + edge)
    every = -(-(bounds.size - 1) // _EPOCH_LABELS)
    for panel in axes:
        for bound in bounds[every:-1:every]:
            panel.axvline(bound, color=_GREY, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    for number in range(0, bounds.size - 1, every):
        axes[0].annotate(
            f"epoch {int(epochs[0]) + number + 1}",
            ((bounds[number] + bounds[number + 1]) / 2, 1.0),
            xycoords=axes[0].get_xaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_GREY,
        )
