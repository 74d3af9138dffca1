"""The benchmarks of training in one process: models, figures, and what both sides compute."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from holdfast.errors import HoldfastError, MissingDependency

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ("train_step", "primitive_overhead", "step_memory")


@pytest.fixture(autouse=True)
def benchmarks_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def load(name):
    return importlib.import_module(name)


def made_up(data):
    """Samples without a data set."""
    rng = np.random.default_rng(0)
    if data == "images":
        return rng.normal(size=(256, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 256)
    return rng.integers(0, 97, (64, 64)), rng.integers(0, 97, (64, 64))


@pytest.mark.parametrize(
    ("model", "size"), [("mlp", 669_706), ("lenet", 61_706), ("gpt", 826_368), ("lstm", 118_049)]
)
def test_the_models_are_those_of_the_comparison(model, size):
    workloads = load("workloads")
    ours, workload = workloads.load_holdfast(), workloads.WORKLOADS[model]
    made = workload.model(ours.nn, ours.functional)
    assert sum(p.numel() for p in made.parameters()) == size
    optimizer = workload.make_optimizer(ours, made.parameters())
    batches = workload.batches(ours, *made_up(workload.data))
    step = workloads.training_step(ours, made, optimizer, batches)
    before = [p.detach().numpy().copy() for p in made.parameters()]
    assert np.isfinite(float(step().item()))
    after = [p.detach().numpy() for p in made.parameters()]
    assert not any(np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_batches_come_again_and_a_part_of_one_is_left_out():
    workloads = load("workloads")
    ours, lstm = workloads.load_holdfast(), workloads.WORKLOADS["lstm"]
    inputs = np.arange(70 * 2).reshape(70, 2)
    batches = lstm.batches(ours, inputs, inputs + 1)
    first, second, third = next(batches), next(batches), next(batches)
    assert first[0].shape == (32, 2)
    assert first[1].numpy().tolist() == list(range(1, 65))
    assert int(second[0][0, 0]) == 64
    assert np.array_equal(third[0].numpy(), first[0].numpy())


def test_text_samples_are_windows_of_the_standard_library():
    workloads = load("workloads")
    inputs, targets = workloads.samples("text")
    assert inputs.shape == targets.shape == (workloads.WINDOWS, workloads.LENGTH)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])
    assert inputs.max() < workloads.CHARACTERS


def test_ratios_are_paired_within_a_round_and_their_median_counts():
    train_step = load("train_step")
    times = [(1.0, 2.0), (2.0, 2.0), (1.0, 4.0)]
    rounds = [
        (train_step.Turn(ours, ours / 2), train_step.Turn(torch, torch)) for ours, torch in times
    ]
    result = train_step.summary("mlp", 100, 7, rounds)
    assert (result["model"], result["batch"], result["steps"]) == ("mlp", 100, 7)
    assert (result["ours"], result["torch"]) == (100.0, 50.0)
    assert (result["low"], result["ratio"], result["high"]) == (1.5, 2.0, 3.0)
    assert result["ratios"] == [2.0, 1.0, 4.0]
    assert result["by_cpu"] == 4.0
    assert (result["busy"], result["torch_busy"]) == (0.5, 1.0)
    assert "mlp" in train_step.table([result])
    assert train_step.summary("mlp", 1, 1, rounds[:1])["low"] == 2.0


def test_turns_are_as_long_as_asked_and_who_begins_changes(monkeypatch):
    train_step = load("train_step")
    turns = []

    def turn(step, steps):
        turns.append((step(), steps))
        return train_step.Turn(train_step.TURN_SECONDS / 10, 0.0)

    monkeypatch.setattr(train_step, "turn", turn)
    steps, measured = train_step.alternate(lambda: "ours", lambda: "torch", 3)
    assert (steps, len(measured)) == (10, 3)
    assert turns[:2] == [("ours", 5), ("torch", 5)]  # to see how long a step takes
    assert turns[2:4] == [("ours", 10), ("torch", 10)]  # to be warm
    assert [name for name, _ in turns[4:]] == ["ours", "torch", "torch", "ours", "ours", "torch"]


def test_losses_that_differ_are_no_comparison():
    train_step = load("train_step")

    def step(*losses):
        each = iter(losses)
        return lambda: np.float32(next(each))

    assert len(train_step.check_losses("mlp", step(*range(5)), step(*range(5)))) == 5
    with pytest.raises(
        HoldfastError, match=r"gpt: the same weights.* step 1 are 2\.000000 \(ours\)"
    ):
        train_step.check_losses("gpt", step(1, 2, 3, 4, 5), step(1, 3, 3, 4, 5))


def test_overhead_is_per_multiply():
    overhead = load("primitive_overhead")
    result = overhead.summary("number", [0.002, 0.004, 0.003], [0.004, 0.004, 0.004])
    assert result["ours"] == pytest.approx(3)
    assert result["torch"] == pytest.approx(4)
    assert result["ratio"] == pytest.approx(0.75)
    assert result["ours_best"] == pytest.approx(2)
    assert result["best_ratio"] == pytest.approx(0.5)
    assert "number" in overhead.table([result])


@pytest.mark.parametrize("factor", ["constant", "number", "leaf"])
def test_our_chain_of_multiplies_is_differentiated_right(factor):
    assert load("primitive_overhead").chain(load("workloads").load_holdfast(), factor)() > 0


def test_memory_is_that_of_the_process_and_beyond_loading():
    memory = load("step_memory")
    ours, torch = {"loaded": 10 << 20, "peak": 30 << 20}, {"loaded": 20 << 20, "peak": 60 << 20}
    result = memory.summary("gpt", ours, torch)
    assert (result["ours"], result["torch"], result["ratio"]) == (30, 60, 0.5)
    assert (result["ours_beyond"], result["torch_beyond"]) == (20, 40)
    assert result["beyond_ratio"] == 0.5
    assert "gpt" in memory.table([result])


@pytest.mark.local
def test_a_process_measures_its_own_peak(tmp_path):
    for name, array in zip(("inputs", "targets"), made_up("images"), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    child = [BENCHMARKS / "step_memory.py", "--child", "ours", "mlp", "2", tmp_path]
    done = subprocess.run([sys.executable, *child], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert 10 << 20 < found["loaded"] < found["peak"] < 1 << 30


@pytest.mark.parametrize("script", SCRIPTS)
def test_bad_options_are_exit_status_2(script, capsys):
    counted = "--steps" if script == "step_memory" else "--rounds"
    wrong = [[counted, "0"]] + ([] if script == "primitive_overhead" else [["--models", "resnet"]])
    for arguments in wrong:
        assert load(script).main(arguments) == 2
        assert f"holdfast: error: {arguments[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_pytorch_it_says_how_to_get_it(script, monkeypatch, capsys):
    workloads = load("workloads")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency):
        workloads.require_torch()
    assert load(script).main([]) == 1
    assert "-m pip install torch" in capsys.readouterr().err


@pytest.mark.parity
@pytest.mark.parametrize("model", ["mlp", "lenet", "gpt", "lstm"])
def test_both_libraries_have_the_same_losses(model, monkeypatch):
    pytest.importorskip("torch", reason="pip install torch")
    workloads, train_step = load("workloads"), load("train_step")
    monkeypatch.setattr(train_step, "samples", made_up)
    libraries = workloads.load_holdfast(), workloads.load_torch()
    for row in train_step.rows_of([workloads.WORKLOADS[model]]):
        losses = train_step.check_losses(row.name, *train_step.same_start(row, *libraries))
        assert losses[-1] < losses[0] * 1.2


@pytest.mark.parity
def test_the_command_measures_and_writes_json(tmp_path):
    pytest.importorskip("torch", reason="pip install torch")
    command = [sys.executable, BENCHMARKS / "primitive_overhead.py", "--rounds", "2"]
    done = subprocess.run(
        [*command, "--json", tmp_path / "out.json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert [each["factor"] for each in results] == ["constant", "number", "leaf"]
    assert all(each["ours"] > 0 and each["torch"] > 0 for each in results)
    assert "best_ratio" in done.stdout
