"""The picture of a comparison: bus bandwidth over size, a line per library."""

from collections.abc import Sequence
from pathlib import Path

from holdfast.launch.bandwidth.figures import Result, busbw, libraries
from holdfast.launch.bandwidth.spec import format_size


def plot_busbw(results: Sequence[Result], path: Path) -> None:
    """Write a PNG to `path`: lines are medians, bands go from the slowest to the fastest round."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
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
            [busbw(series.size, max(series.seconds), series.ranks) for series in own],
            [busbw(series.size, min(series.seconds), series.ranks) for series in own],
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
    axes.set_title(f"all-reduce of float32, {results[0].main.ranks} ranks on one host")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)
