"""benchmarks/data_parallel.py: its figures, its table, and that our side really trains."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from holdfast.launch.bandwidth.comparison import Entrant, alternate
from holdfast.launch.bandwidth.controller import Controller

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def data_parallel(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("data_parallel")


def test_ratios_are_paired_within_a_round(data_parallel):
    rounds = [
        data_parallel.Throughput(ours=100, torch=50, no_exchange=100, torch_no_exchange=100),
        data_parallel.Throughput(ours=40, torch=10, no_exchange=80, torch_no_exchange=10),
        data_parallel.Throughput(ours=90, torch=30, no_exchange=100, torch_no_exchange=40),
    ]
    result = data_parallel.summary("mlp", rounds)
    assert result["model"] == "mlp"
    assert (result["ours"], result["torch"]) == (90, 30)
    assert result["ratio"] == 3.0  # the median of 2, 4 and 3, where the medians' ratio is 3 as well
    assert result["ours_over_no_exchange"] == 0.9  # of 1, 0.5 and 0.9
    assert result["torch_over_no_exchange"] == 0.75  # of 0.5, 1 and 0.75
    assert result["rounds"][1] == {
        "ours": 40,
        "torch": 10,
        "no_exchange": 80,
        "torch_no_exchange": 10,
    }
    assert "mlp" in data_parallel.table([result])


@pytest.mark.parametrize("arguments", [["--models", "resnet"], ["--rounds", "0"]])
def test_bad_options_are_exit_status_2(data_parallel, arguments, capsys):
    assert data_parallel.main(arguments) == 2
    assert "holdfast: error: --" in capsys.readouterr().err


@pytest.mark.local
@pytest.mark.parametrize("model", ["mlp", "lenet", "gpt", "lstm"])
def test_our_side_trains_with_and_without_exchange(data_parallel, model, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    workload = importlib.import_module("workloads").WORKLOADS[model]
    count = 2 * workload.batch
    if workload.data == "images":
        arrays = rng.normal(size=(count, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, count)
    else:
        arrays = rng.integers(0, 97, (count, 64)), rng.integers(0, 97, (count, 64))
    monkeypatch.setattr(data_parallel, "samples", lambda data: arrays)
    program = data_parallel.our_program(data_parallel.write_data(workload, tmp_path), "shm")
    assert program.python == Path(sys.executable)
    with Controller() as controller:
        group = controller.start(program, 2)
        started = [process.child for process in group._processes]
        entrants = [Entrant("holdfast", group, {"exchange": both}) for both in (True, False)]
        measured = alternate(entrants, rounds=2, iters=3)
    assert [len(rounds) for rounds in measured] == [2, 2]
    assert [child.returncode for child in started] == [0, 0]
