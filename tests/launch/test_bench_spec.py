"""Sizes and options of `holdfast bench COLLECTIVE`."""

from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.launch.bandwidth.spec import (
    CollectiveSpec,
    format_size,
    parse_names,
    parse_size,
    parse_sizes,
    size_sequence,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4", 4), ("64K", 65536), ("100m", 100 << 20), ("1G", 1 << 30), ("2MiB", 2 << 20), (" 8 ", 8)],
)
def test_a_size_is_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "-4", "1.5M", "64Q", "4 4"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="64K"):
        parse_size(text)


@pytest.mark.parametrize("size", [4, 1000, 1024, 65536, 25 << 20, 100 << 20, 3 << 30])
def test_a_printed_size_is_read_again(size):
    assert parse_size(format_size(size)) == size


def test_the_last_size_is_measured_even_where_the_factor_misses_it():
    sizes = [format_size(size) for size in size_sequence(64 << 10, 100 << 20, 4)]
    assert sizes == ["64K", "256K", "1M", "4M", "16M", "64M", "100M"]


def test_a_last_size_on_the_way_comes_once():
    assert size_sequence(4, 16, 2) == (4, 8, 16)
    assert size_sequence(8, 8, 2) == (8,)


@pytest.mark.parametrize(("smallest", "largest", "factor"), [(4, 16, 1), (16, 4, 2), (0, 4, 2)])
def test_a_sequence_that_never_ends_is_refused(smallest, largest, factor):
    with pytest.raises(UsageError):
        size_sequence(smallest, largest, factor)


def test_lists_hold_each_once():
    assert parse_names("shm, tcp,shm") == ("shm", "tcp")
    assert parse_names("none") == parse_names("") == ()
    assert parse_sizes("1M,64K,1024K") == (65536, 1 << 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ranks": 1}, "--ranks: 2 to 256"),
        ({"ranks": 257}, "--ranks"),
        ({"sizes": (4, 6)}, "multiple of 4 bytes was expected, 6"),
        ({"sizes": ()}, "--sizes"),
        ({"collective": "all-to-none"}, "all-gather.*'all-to-none'"),
        ({"limit": True, "transports": ("shm",)}, "--limit"),
        ({"collective": "barrier", "limit": True}, "a barrier moves nothing"),
        ({"collective": "barrier", "plot_file": Path("a.png")}, "a barrier moves nothing"),
        ({"transports": ("rdma",)}, "--transport: shm, tcp are known, 'rdma'"),
        ({"peers": ("nccl",)}, "--against: gloo, openmpi, mpich are known, 'nccl'"),
        ({"transports": ()}, "nothing to measure"),
        ({"rounds": 0}, "--rounds"),
        ({"iters": -1}, "--iters"),
        ({"warmup": -1}, "--warmup"),
        ({"min_busbw": -1.0}, "--min-busbw"),
        ({"min_busbw": 1.0, "transports": (), "peers": ("gloo",)}, "--min-busbw"),
        ({"json_file": Path("/nowhere/at/all.json")}, "--json: the folder /nowhere/at"),
        ({"plot_file": Path("/plot.pdf")}, "--plot: a file named .png"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        CollectiveSpec(**{"collective": "all-reduce", "sizes": (4,), **options})


def test_arrays_are_whole_chunks():
    spec = CollectiveSpec("all-gather", sizes=(4, 8, 64 << 10), ranks=3)
    assert spec.sizes == (192, 65472)
    assert CollectiveSpec("all-reduce", sizes=(4, 64 << 10), ranks=3).sizes == (4, 64 << 10)
    assert CollectiveSpec("barrier", sizes=(4, 64 << 10)).sizes == (0,)
