"""The pictures of what was measured: a comparison, a link, a matrix of links, a cost model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast.launch.bandwidth.figures import Result, libraries
from holdfast.launch.bandwidth.link import LinkFigures
from holdfast.launch.bandwidth.matrix import Matrix
from holdfast.launch.bandwidth.spec import format_size
from holdfast.launch.bandwidth.tune import Tuning, figures_by_algorithm


def plot_busbw(results: Sequence[Result], collective: str, path: Path) -> None:
    """Write a PNG to `path`: lines are medians, bands go from the slowest to the fastest round."""
    figure, axes = _figure()
    for library in libraries(results):
        own = [result.main for result in results if result.library == library]
        sizes = [series.size for series in own]
        is_ours = library.startswith("holdfast")
        (line,) = axes.plot(
            sizes,
            [series.busbw for series in own],
            marker="o",
            markersize=5,
            linewidth=2.4 if is_ours else 1.4,
            linestyle="-" if is_ours else "--",
            label=library,
        )
        axes.fill_between(
            sizes,
            [series.busbw_at(max(series.seconds)) for series in own],
            [series.busbw_at(min(series.seconds)) for series in own],
            color=line.get_color(),
            alpha=0.15,
            linewidth=0,
        )
    sizes = sorted({result.size for result in results})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [format_size(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("size of the array (bytes)")
    axes.set_ylabel("bus bandwidth (GB/s)")
    axes.set_title(f"{collective} of float32, {results[0].main.ranks} ranks on one host")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_link(figures: LinkFigures, path: Path) -> None:
    """Write a PNG to `path`: ours beside plain sockets, for each way and each rail."""
    figure, axes = _figure()
    bars = [(way, figures.ours[way], figures.raw[way]) for way in figures.ours]
    if len(figures.rails) > 1:
        bars += [(f"rail {each.rail}", each.ours, each.raw) for each in figures.rails]
    for number, (_, ours, raw) in enumerate(bars):
        axes.bar(number - 0.2, ours, 0.4, color="C0", label="holdfast" if not number else None)
        axes.bar(number + 0.2, raw, 0.4, color="0.7", label="plain sockets" if not number else None)
        axes.text(number, max(ours, raw), f"{ours / raw:.2f}", ha="center", va="bottom")
    axes.set_xticks(range(len(bars)), [name for name, _, _ in bars])
    axes.set_ylabel("GB/s")
    axes.set_title("one link, and the limit of its wire")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def plot_matrix(matrix: Matrix, path: Path) -> None:
    """Write a PNG to `path`: a heat map; the darker, the slower. Slow links have a red frame."""
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import MaxNLocator

    figure, axes = _figure()
    rates = [
        [rate if a != b else float("nan") for b, rate in enumerate(row)]
        for a, row in enumerate(matrix.rates)
    ]
    image = axes.imshow(rates, cmap="viridis", vmin=0)
    slow = {pair for pair, _ in matrix.slow()}
    few = len(rates) <= 16
    for a, row in enumerate(rates):
        for b, rate in enumerate(row):
            if few and a != b:
                dark = rate < 0.7 * matrix.median
                color = "white" if dark else "black"
                axes.text(b, a, f"{rate:.2f}", ha="center", va="center", color=color, fontsize=8)
            if (a, b) in slow:
                place = (b - 0.5, a - 0.5)
                axes.add_patch(Rectangle(place, 1, 1, fill=False, edgecolor="red", linewidth=2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("to rank")
    axes.set_ylabel("from rank")
    axes.set_title("bandwidth between all pairs of ranks")
    figure.colorbar(image, label="GB/s")
    figure.savefig(path, dpi=130)


def plot_tuning(tuning: Tuning, path: Path) -> None:
    """Write a PNG to `path`: time over size by algorithm; points measured, lines the model's."""
    figure, axes = _figure()
    for name, samples in figures_by_algorithm(tuning.samples).items():
        sizes = [each.size for each in samples]
        modelled = [1e6 * tuning.model.seconds(*each[:3]) for each in samples]
        (line,) = axes.plot(sizes, modelled, linewidth=1.2, label=name)
        axes.plot(sizes, [1e6 * each.seconds for each in samples], "o", color=line.get_color())
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({each.size for each in tuning.samples})
    axes.set_xticks(sizes, [format_size(size) for size in sizes])
    axes.minorticks_off()
    axes.set_xlabel("size of the array (bytes)")
    axes.set_ylabel("us")
    ranks = tuning.samples[0].world_size
    axes.set_title(f"all-reduce over {tuning.transport}, {ranks} ranks: measured, and the model")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def _figure() -> tuple[Any, Any]:
    """Return a figure and its axes; matplotlib is imported only when something is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
