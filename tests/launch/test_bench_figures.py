"""From times to bandwidths, ratios, tables, JSON and the plot."""

import json

import pytest

from holdfast.launch.bandwidth.figures import (
    Result,
    Series,
    algbw,
    average_busbw,
    geometric_mean,
    ratios,
)
from holdfast.launch.bandwidth.plot import plot_busbw
from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES
from holdfast.launch.bandwidth.report import as_json, progress_line, ratio_table, table

ALL_REDUCE = COLLECTIVES["all-reduce"]


def series(size, *seconds, ranks=2, wrong=0, collective="all-reduce"):
    factor = COLLECTIVES[collective].factor(ranks)
    return Series(size=size, ranks=ranks, factor=factor, seconds=seconds, wrong=wrong)


RESULTS = [
    Result("holdfast-shm", series(1 << 20, 1e-3, 3e-3, 2e-3), series(1 << 20, 4e-3)),
    Result("gloo", None, series(1 << 20, 8e-3)),
    Result("mpich", series(1 << 20, 4e-3), series(1 << 20, 2e-3)),
    Result("holdfast-shm", series(4 << 20, 2e-3), series(4 << 20, 4e-3)),
    Result("gloo", None, series(4 << 20, 4e-3)),
    Result("mpich", series(4 << 20, 16e-3), series(4 << 20, 2e-3)),
]


def test_bandwidths_are_those_of_nccl_tests():
    assert algbw(10**9, 0.5) == pytest.approx(2.0)
    assert series(10**9, 0.5).busbw == pytest.approx(2.0)
    assert series(10**9, 0.5, ranks=4).busbw == pytest.approx(3.0)
    assert series(10**9, 0.5, ranks=4, collective="all-gather").busbw == pytest.approx(1.5)
    assert series(10**9, 0.5, ranks=4, collective="broadcast").busbw == pytest.approx(2.0)
    assert series(10**9, 0.5, collective="send-recv").busbw == pytest.approx(2.0)
    # The example of its documentation: 512 MiB in 10,052 us on 8 ranks.
    assert algbw(536870912, 10052e-6) == pytest.approx(53.41, abs=0.01)
    assert series(536870912, 10052e-6, ranks=8).busbw == pytest.approx(93.46, abs=0.01)


def test_the_geometric_mean():
    assert geometric_mean([1.0, 4.0]) == pytest.approx(2.0)


def test_a_series_is_its_median():
    assert RESULTS[0].main.median == 2e-3


def test_ratios_are_per_size_over_each_peer_and_over_the_fastest():
    rows = ratios(RESULTS, "holdfast-shm", ["gloo", "mpich"])
    assert [row.size for row in rows] == [1 << 20, 4 << 20]
    assert rows[0].over == pytest.approx({"gloo": 4.0, "mpich": 2.0})
    assert rows[0].over_best == pytest.approx(2.0)
    assert rows[1].over == pytest.approx({"gloo": 2.0, "mpich": 8.0})
    assert rows[1].over_best == pytest.approx(2.0)


def test_in_place_ratios_compare_in_place_with_in_place():
    rows = ratios(RESULTS, "holdfast-shm", ["gloo", "mpich"], in_place=True)
    assert rows[0].over == pytest.approx({"gloo": 2.0, "mpich": 0.5})


def test_the_average_is_over_sizes_and_forms():
    expected = ((1 << 20) / 8e-3 + (4 << 20) / 4e-3) / 2 / 1e9
    assert average_busbw(RESULTS, "gloo") == pytest.approx(expected)


def test_the_json_has_an_entry_per_library_and_size():
    content = as_json(RESULTS, "all-reduce", {"gloo": "torch 2"})
    assert set(content) == {"date", "versions", "cpus", "collective", "results"}
    assert content["versions"]["gloo"] == "torch 2"
    entries = json.loads(json.dumps(content))["results"]
    assert len(entries) == 6
    first, gloo = entries[:2]
    assert list(first) == [
        *("library", "ranks", "size", "time_us", "algbw", "busbw", "wrong", "rounds", "in_place")
    ]
    assert (first["library"], first["ranks"], first["size"]) == ("holdfast-shm", 2, 1048576)
    assert first["time_us"] == pytest.approx(2000)
    assert first["rounds"] == pytest.approx([1000, 3000, 2000])
    assert first["busbw"] == pytest.approx(1048576 / 2e-3 / 1e9)
    assert first["in_place"]["time_us"] == pytest.approx(4000)
    # Gloo sums in place only: that is its entry's figure.
    assert "in_place" not in gloo
    assert gloo["time_us"] == pytest.approx(8000)


def test_the_table_has_the_columns_of_nccl_tests():
    lines = table(RESULTS, ALL_REDUCE, "holdfast-shm", checked=True).splitlines()
    names = next(line for line in lines if "redop" in line)
    assert names.split() == [
        *("#", "size", "count", "type", "redop", "root"),
        *("time", "algbw", "busbw", "#wrong") * 2,
    ]
    row = next(line for line in lines if line.startswith(" ")).split()
    assert row[:5] == ["1048576", "262144", "float", "sum", "-1"]
    assert row[5:] == ["2000.00", "0.52", "0.52", "0", "4000.00", "0.26", "0.26", "0"]
    assert "# Out of bounds values : 0 OK" in lines
    assert lines[-1].startswith("# Avg bus bandwidth    : ")


def test_columns_stand_below_their_names():
    lines = table(RESULTS, ALL_REDUCE, "gloo", checked=True).splitlines()
    names = next(line for line in lines if "redop" in line)
    row = next(line for line in lines if line.startswith(" "))
    assert len(names) == len(row)


def test_the_table_says_what_was_not_measured():
    row = next(
        line
        for line in table(RESULTS, ALL_REDUCE, "gloo", checked=False).splitlines()
        if line.startswith(" ")
    )
    assert row.split()[5:] == ["-", "-", "-", "-", "8000.00", "0.13", "0.13", "N/A"]


def test_wrong_values_are_shown():
    result = Result("gloo", None, series(8, 1e-3, wrong=3))
    assert "# Out of bounds values : 3 FAILED" in table([result], ALL_REDUCE, "gloo", checked=True)


def test_a_result_that_one_memory_holds_for_all_is_said_to_be_so():
    assert "one memory that all ranks see" in table(
        RESULTS, ALL_REDUCE, "holdfast-shm", checked=True
    )
    assert "one memory" not in table(RESULTS, ALL_REDUCE, "mpich", checked=True)


def test_the_table_says_what_the_collective_is():
    gathered = [Result("gloo", series(1 << 20, 1e-3, collective="gather"), None)]
    lines = table(gathered, COLLECTIVES["gather"], "gloo", checked=True).splitlines()
    assert lines[0].startswith("# gloo: gather, 2 ranks")
    row = next(line for line in lines if line.startswith(" ")).split()
    assert row[:5] == ["1048576", "262144", "float", "none", "0"]


def test_the_limit_is_no_peer_but_has_its_column():
    limited = [*RESULTS, *(Result("raw", series(size << 20, 1e-3), None) for size in (1, 4))]
    lines = ratio_table(limited, "holdfast-shm", ["raw", "gloo"]).splitlines()
    assert lines[1].split() == ["#", "size", "gloo", "best", "of", "them", "of", "the", "limit"]
    assert lines[2].split() == ["1M", "4.00", "4.00", "0.50"]
    assert lines[4].split()[-1] == "0.50"
    alone = ratio_table(limited, "holdfast-shm", ["raw"]).splitlines()
    assert alone[1].split() == ["#", "size", "of", "the", "limit"]
    assert alone[2].split() == ["1M", "0.50"]
    assert len(alone) == 5
    text = table(limited, ALL_REDUCE, "raw", checked=True)
    assert "both ways at once" in text
    assert "Out of bounds" not in text


def test_the_table_of_ratios():
    lines = ratio_table(RESULTS, "holdfast-shm", ["gloo", "mpich"]).splitlines()
    assert lines[1].split() == ["#", "size", "gloo", "mpich", "best", "of", "them"]
    assert lines[2].split() == ["1M", "4.00", "2.00", "2.00"]
    assert lines[3].split() == ["4M", "2.00", "8.00", "2.00"]
    assert lines[4].split()[-3:] == ["2.83", "4.00", "2.00"]
    assert lines[5].startswith("       in place")


def test_the_progress_line():
    assert progress_line(RESULTS[:3]).split()[:2] == ["1M", "busbw"]
    assert progress_line([Result("gloo", series(0, 1e-5), None)]) == "us: gloo 10.0"


def test_the_plot_is_a_picture(tmp_path):
    plot_busbw(RESULTS, "all-reduce", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
