"""How results are written down: nccl-tests' table, the table of ratios, the JSON file."""

from collections.abc import Mapping, Sequence

from holdfast.launch.bandwidth.figures import (
    RatioRow,
    Result,
    Series,
    average_busbw,
    geometric_mean,
    ratios,
)
from holdfast.launch.bandwidth.spec import format_size

_COLUMNS = "#{:>12} {:>13} {:>9} {:>7} {:>7}"
_FIGURES = " {:>9} {:>7} {:>7} {:>6}"


def table(results: Sequence[Result], library: str, *, checked: bool) -> str:
    """Return the results of one library as nccl-tests prints them."""
    own = [result for result in results if result.library == library]
    ranks = own[0].main.ranks
    lines = [
        f"# {library}: all-reduce, {ranks} ranks; medians of {len(own[0].main.seconds)} rounds, "
        "GB/s are 10^9 bytes/s",
        f"#{'':>52}{'out-of-place':>33}{'in-place':>33}".rstrip(),
        _COLUMNS.format("size", "count", "type", "redop", "root")
        + _FIGURES.format("time", "algbw", "busbw", "#wrong") * 2,
        _COLUMNS.format("(B)", "(elements)", "", "", "")
        + _FIGURES.format("(us)", "(GB/s)", "(GB/s)", "") * 2,
    ]
    for result in own:
        shape = (result.size, result.size // 4, "float", "sum", -1)
        lines.append(
            " "
            + _COLUMNS[1:].format(*shape)
            + _figures(result.out_of_place, checked)
            + _figures(result.in_place, checked)
        )
    if library == "holdfast-shm":
        lines.append(
            "# Out of place, the result is one memory that all ranks see: not copied to each, "
            "nor has any read it."
        )
    wrong = sum(result.wrong for result in own)
    if checked:
        lines.append(f"# Out of bounds values : {wrong} {'FAILED' if wrong else 'OK'}")
    lines.append(f"# Avg bus bandwidth    : {average_busbw(own, library):.4f}")
    return "\n".join(line.rstrip() for line in lines)


def _figures(series: Series | None, checked: bool) -> str:
    if series is None:
        return _FIGURES.format("-", "-", "-", "-")
    wrong = str(series.wrong) if checked else "N/A"
    time = f"{series.median * 1e6:.2f}"
    return _FIGURES.format(time, f"{series.algbw:.2f}", f"{series.busbw:.2f}", wrong)


def ratio_table(results: Sequence[Result], ours: str, peers: Sequence[str]) -> str:
    """Return ours over each peer, size by size, with the geometric means."""
    out_of_place = ratios(results, ours, peers)
    in_place = ratios(results, ours, peers, in_place=True)
    heads = [*peers, "best of them"]
    lines = [
        f"# {ours} over each peer: ratio of bus bandwidths, out of place (in place where a library "
        "has nothing else)",
        "#" + "".join(f"{head:>14}" for head in ["size", *heads]),
        *(_ratio_line(format_size(row.size), _cells(row, peers)) for row in out_of_place),
        _ratio_line("geo. mean", _means(out_of_place, peers)),
        _ratio_line("in place", _means(in_place, peers)),
    ]
    return "\n".join(lines)


def _cells(row: RatioRow, peers: Sequence[str]) -> list[float]:
    return [*(row.over[peer] for peer in peers), row.over_best]


def _means(rows: Sequence[RatioRow], peers: Sequence[str]) -> list[float]:
    columns = zip(*(_cells(row, peers) for row in rows), strict=True)
    return [geometric_mean(column) for column in columns]


def _ratio_line(name: str, values: Sequence[float]) -> str:
    return f" {name:>14}" + "".join(f"{value:>14.2f}" for value in values)


def progress_line(results: Sequence[Result]) -> str:
    """Return one line about one size, for whoever waits."""
    parts = [f"{result.library} {result.main.busbw:.2f}" for result in results]
    return f"{format_size(results[0].size):>6}  busbw GB/s: " + "  ".join(parts)


def as_json(
    results: Sequence[Result], *, date: str, versions: Mapping[str, str], cpus: int
) -> dict[str, object]:
    """Return what the JSON file holds. Nothing of the environment is in it."""
    return {
        "date": date,
        "versions": dict(versions),
        "cpus": cpus,
        "results": [result.as_json() for result in results],
    }
