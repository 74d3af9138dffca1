"""`holdfast bench link`, `matrix` and `tune`: order, figures, tables, pictures, and real runs."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from holdfast.collectives.cost import CostModel
from holdfast.errors import RendezvousError, UsageError, WorkerFailed
from holdfast.launch.bandwidth import link, matrix, tune
from holdfast.launch.bandwidth.plot import plot_link, plot_matrix, plot_tuning
from holdfast.launch.bandwidth.together import seated
from holdfast.launch.bandwidth.two_hosts import TwoHosts, two_rails_of
from holdfast.launch.commands import bench

LINK = link.LinkFigures(
    size=1 << 20,
    rounds=3,
    addresses=("10.1.0.2", "10.2.0.2"),
    congestion="cubic",
    ours=dict(zip(link.WAYS, (1.8, 2.0, 0.9), strict=True)),
    raw=dict(zip(link.WAYS, (2.0, 2.0, 1.0), strict=True)),
    rails=[link.RailRate(0, "10.1.0.2", 0.6, 0.5), link.RailRate(1, "10.2.0.2", 0.3, 0.5)],
    latency_us=20.0,
    raw_latency_us=10.0,
)
# From rank 2 to rank 1 it is slow.
MATRIX = matrix.Matrix(((0, 1.0, 1.1), (0.9, 0, 1.0), (1.2, 0.3, 0)), rounds=3, parallel=False)
MODEL = CostModel(alpha=20e-6, beta=1e-9, gamma=0.1e-9)
TUNING = tune.Tuning(
    tuple(
        tune.Sample(name, 4, size, MODEL.seconds(name, 4, size))
        for size in (4, 64 << 10, 16 << 20)
        for name in ("ring", "exchange", "direct", "double-tree")
        if tune.possible(name, 4, size)
    ),
    MODEL,
    "tcp",
)


@given(st.integers(2, 33), st.booleans())
def test_every_pair_is_measured_once(ranks, parallel):
    found = matrix.turns(ranks, parallel=parallel)
    pairs = [pair for turn in found for pair in turn]
    assert sorted(pairs) == [(a, b) for a in range(ranks) for b in range(a + 1, ranks)]
    for turn in found:
        busy = [rank for pair in turn for rank in pair]
        assert len(busy) == len(set(busy))
    if parallel:
        assert len(found) == ranks - 1 + ranks % 2


def test_a_slow_link_is_named():
    assert MATRIX.median == 1.0
    assert MATRIX.slow() == [((2, 1), 0.3)]
    lines = matrix.table(MATRIX).splitlines()
    assert "one pair after the other" in lines[0]
    assert lines[4].split() == ["2", "1.200", "!0.300", "-"]
    assert lines[-1] == "# median 1.000; below 0.5 of it: 2 to 1 0.300"
    assert MATRIX.as_json()["slow"] == [{"from": 2, "to": 1, "rate": 0.3}]


def test_a_matrix_without_a_slow_link_and_of_many_ranks():
    ranks = 20
    rates = tuple(tuple(0.0 if a == b else 1.0 for b in range(ranks)) for a in range(ranks))
    lines = matrix.table(matrix.Matrix(rates, rounds=1, parallel=True)).splitlines()
    assert len(lines) == 2  # the figures do not fit
    assert "disjoint pairs at the same time" in lines[0]
    assert "no link is below" in lines[1]


def test_a_link_is_shown_as_a_part_of_the_limit():
    assert LINK.of_limit == pytest.approx(dict(zip(link.WAYS, (0.9, 1.0, 0.9), strict=True)))
    lines = link.table(LINK).splitlines()
    assert "cubic" in lines[0]
    assert lines[2].split() == ["0", "to", "1", "1.800", "2.000", "0.90"]
    assert lines[5].split() == ["rail", "0,", "10.1.0.2", "0.600", "0.500"]
    assert lines[-1].split() == ["4", "bytes,", "us", "20.0", "10.0"]
    assert json.loads(json.dumps(LINK.as_json()))["rails"][1]["address"] == "10.2.0.2"


def test_the_table_of_a_tuning_says_what_is_chosen():
    lines = tune.table(TUNING).splitlines()
    assert lines[1].split() == ["#", "size", "ring", "exchange", "direct", "double-tree", "chosen"]
    assert lines[2].split()[-1] == MODEL.choose(4, 4, ("ring", "exchange", "direct", "double-tree"))
    assert lines[4].split()[0] == "16M"
    assert " - " in lines[4]  # nobody exchanges that much
    assert "(1.00 GB/s)" in lines[5]
    assert len(TUNING.as_json()["samples"]) == 11


@pytest.mark.parametrize(
    ("draw", "what"), [(plot_link, LINK), (plot_matrix, MATRIX), (plot_tuning, TUNING)]
)
def test_pictures_are_drawn(draw, what, tmp_path):
    draw(what, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["link", "--size", "6"], "--size"),
        (["link", "--rounds", "0"], "--rounds"),
        (["link", "--rails", "65", "--size", "4K"], "rails"),
        (["matrix", "--size", "6"], "--size"),
        (["matrix", "--plot", "matrix.pdf"], "--plot"),
        (["tune", "--sizes", "6"], "--sizes"),
        (["tune", "--algorithms", "star"], "--algorithms: .*'star'"),
        (["tune", "-o", "/nowhere/at/all.json"], "-o: the folder"),
        (["tune", "--ranks", "1"], "2 ranks"),
        (["matrix", "--ranks", "1"], "2 ranks"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, message):
    result = CliRunner().invoke(bench.app, arguments)
    assert isinstance(result.exception, UsageError), result.output
    assert re.search(message, str(result.exception))


def run(tmp_path: Path, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "holdfast", "bench", *arguments],
        cwd=tmp_path,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=90)
    assert process.returncode == 0, err
    return out


@pytest.mark.local
def test_a_rank_that_fails_is_named_with_what_it_printed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["holdfast", "no-such-command"])
    failed = pytest.raises(WorkerFailed, match="rank 1 ended: exit status 2")
    with failed as caught, seated(2, os.environ):
        raise RendezvousError("rank 1 never came")
    assert "no-such-command" in str(caught.value)


@pytest.mark.local
def test_a_link_over_two_rails_on_this_host(tmp_path):
    options = ["--size", "256K", "--rounds", "1", "--interfaces", "127.0.0.2,127.0.0.3"]
    out = finished(run(tmp_path, "link", *options, "--json", "link.json"))
    assert "rail 1, 127.0.0.3" in out
    content = json.loads((tmp_path / "link.json").read_text())
    assert [each["address"] for each in content["rails"]] == ["127.0.0.2", "127.0.0.3"]
    assert sum(each["ours"] for each in content["rails"]) > 0
    assert set(content["ours"]) == set(link.WAYS)


@pytest.mark.local
def test_ranks_that_somebody_else_starts_measure_together(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    variables = {
        "WORLD_SIZE": "3",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "HOLDFAST_TOKEN": secrets.token_hex(32),
    }
    options = ["matrix", "--size", "64K", "--rounds", "1", "--parallel"]
    started = [run(tmp_path, *options, **variables, RANK=str(rank)) for rank in range(3)]
    first, *others = [finished(process) for process in started]
    assert len([line for line in first.splitlines() if line.startswith(" ")]) == 3
    assert others == ["", ""]


@pytest.mark.local
def test_a_model_is_fitted_and_written(tmp_path):
    options = ["--ranks", "3", "--sizes", "4,64K", "--rounds", "1"]
    picked = ["--algorithms", "ring,direct"]
    out = finished(run(tmp_path, "tune", *options, *picked, "-o", "model.json"))
    assert "chosen" in out
    CostModel.from_json((tmp_path / "model.json").read_text())


@pytest.mark.local
@pytest.mark.netns
def test_the_two_ends_of_a_link_are_started_on_two_hosts(tmp_path):
    command = [sys.executable, "-m", "holdfast", "bench", "link"]
    options = ["--size", "256K", "--rounds", "1", "--interfaces", "eth0,eth1"]
    with TwoHosts(two_rails_of("1gbit", "100mbit"), tmp_path) as two:
        variables = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": two.hosts[0].address(),
            "HOLDFAST_TOKEN": secrets.token_hex(32),
        }
        started = [
            host.popen(
                [*command, *options],
                env={**os.environ, **variables, "RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for rank, host in enumerate(two.hosts)
        ]
        ends = [process.communicate(timeout=90) for process in started]
    assert [process.returncode for process in started] == [0, 0], ends
    assert b"rail 0, 10.1.0.2" in ends[0][0]
    assert b"rail 1, 10.2.0.2" in ends[0][0]
    assert ends[1][0] == b""
