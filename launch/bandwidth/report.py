"""How results are written down: nccl-tests' table, the table of ratios, the JSON file."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from holdfast.launch.bandwidth.figures import (
    RatioRow,
    Result,
    Series,
    average_busbw,
    geometric_mean,
    ratios,
)
from holdfast.launch.bandwidth.libraries import LIMIT
from holdfast.launch.bandwidth.ranks.collectives import ROOT, Collective
from holdfast.launch.bandwidth.spec import format_size

_COLUMNS = "#{:>12} {:>13} {:>9} {:>7} {:>7}"
_FIGURES = " {:>9} {:>7} {:>7} {:>6}"


def table(results: Sequence[Result], what: Collective, library: str, *, checked: bool) -> str:
    """Return the results of one library at one collective as nccl-tests prints them."""
    own = [result for result in results if result.library == library]
    ranks = own[0].main.ranks
    lines = [
        f"# {library}: {what.name}, {ranks} ranks; medians of {len(own[0].main.seconds)} rounds, "
        "GB/s are 10^9 bytes/s",
        f"#{'':>52}{'out-of-place':>33}{'in-place':>33}".rstrip(),
        _COLUMNS.format("size", "count", "type", "redop", "root")
        + _FIGURES.format("time", "algbw", "busbw", "#wrong") * 2,
        _COLUMNS.format("(B)", "(elements)", "", "", "")
        + _FIGURES.format("(us)", "(GB/s)", "(GB/s)", "") * 2,
    ]
    for result in own:
        shape = (
            result.size,
            result.size // 4,
            "float",
            "sum" if what.reduces else "none",
            ROOT if what.rooted else -1,
        )
        lines.append(
            " "
            + _COLUMNS[1:].format(*shape)
            + _figures(result.out_of_place, checked)
            + _figures(result.in_place, checked)
        )
    if library == "holdfast-shm" and what.name == "all-reduce":
        lines.append(
            "# Out of place, the result is one memory that all ranks see: not copied to each, "
            "nor has any read it."
        )
    wrong = sum(result.wrong for result in own)
    if library == LIMIT:
        ways = "both ways at once" if what.both_ways else "one way"
        lines.append(f"# The limit of the wire: as many bytes as a rank has to move, {ways}.")
    elif checked:
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
    """Return ours over each peer, size by size, with the geometric means.

    `peers` may have `LIMIT` among them: ours over it is which part of the wire's limit is reached.
    """
    others = [peer for peer in peers if peer != LIMIT]
    out_of_place = ratios(results, ours, others)
    in_place = ratios(results, ours, others, in_place=True)
    limits = [row.over[LIMIT] for row in ratios(results, ours, peers)] if LIMIT in peers else []
    heads = [*others, *(["best of them"] if others else []), *(["of the limit"] if limits else [])]
    lines = [
        f"# {ours} over each peer: ratio of bus bandwidths, out of place (in place where a library "
        "has nothing else)"
        if others
        else f"# {ours}: which part of the wire's limit its bus bandwidth is",
        "#" + "".join(f"{head:>14}" for head in ["size", *heads]),
    ]
    for number, row in enumerate(out_of_place):
        cells = _cells(row, others) + limits[number : number + 1]
        lines.append(_ratio_line(format_size(row.size), cells))
    mean = [geometric_mean(limits)] if limits else []
    lines.append(_ratio_line("geo. mean", _means(out_of_place, others) + mean))
    if others and any(result.in_place and result.out_of_place for result in results):
        lines.append(_ratio_line("in place", _means(in_place, others)))
    return "\n".join(lines)


def _cells(row: RatioRow, peers: Sequence[str]) -> list[float]:
    return [*(row.over[peer] for peer in peers), *([row.over_best] if peers else [])]


def _means(rows: Sequence[RatioRow], peers: Sequence[str]) -> list[float]:
    columns = zip(*(_cells(row, peers) for row in rows), strict=True)
    return [geometric_mean(column) for column in columns]


def _ratio_line(name: str, values: Sequence[float]) -> str:
    return f" {name:>14}" + "".join(f"{value:>14.2f}" for value in values)


def progress_line(results: Sequence[Result]) -> str:
    """Return one line about one size, for whoever waits."""
    if not results[0].size:
        parts = [f"{result.library} {result.main.median * 1e6:.1f}" for result in results]
        return "us: " + "  ".join(parts)
    parts = [f"{result.library} {result.main.busbw:.2f}" for result in results]
    return f"{format_size(results[0].size):>6}  busbw GB/s: " + "  ".join(parts)


def as_json(
    results: Sequence[Result], collective: str, versions: Mapping[str, str]
) -> dict[str, object]:
    """Return what the JSON file holds. Nothing of the environment is in it."""
    return {
        **setting(versions),
        "collective": collective,
        "results": [result.as_json() for result in results],
    }


def setting(versions: Mapping[str, str]) -> dict[str, object]:
    """Return when, with what and on how many processors something is measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "holdfast": importlib.metadata.version("holdfast"),
            "python": platform.python_version(),
            **versions,
        },
        "cpus": len(os.sched_getaffinity(0)),
    }
