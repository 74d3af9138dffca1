"""benchmarks/data_parallel.py: its figures, its table, and that our side really trains."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from holdfast.launch.bandwidth.comparison import Entrant, alternate
from holdfast.launch.bandwidth.controller import Controller
from holdfast.launch.bandwidth.processes import Program

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def data_parallel():
    return load("data_parallel")


def load(name) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module


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


def test_the_models_are_those_of_the_comparison():
    models = load("training_holdfast").MODELS
    sizes = {name: sum(p.array.size for p in make().parameters()) for name, make in models.items()}
    assert sizes == {"lenet": 61_706, "mlp": 669_706}


@pytest.mark.local
@pytest.mark.parametrize("model", ["lenet", "mlp"])
def test_our_side_trains_with_and_without_exchange(model, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.normal(size=(16, 1, 28, 28)).astype(np.float32))
    np.save(tmp_path / "labels.npy", rng.integers(0, 10, size=16))
    settings = {
        "model": model,
        "batch": 4,
        "images": str(tmp_path / "images.npy"),
        "labels": str(tmp_path / "labels.npy"),
        "transport": "shm",
    }
    path = BENCHMARKS / "training_holdfast.py"
    with Controller() as controller:
        program = Program("holdfast", Path(sys.executable), "steps", path, settings)
        group = controller.start(program, 2)
        started = [process.child for process in group._processes]
        entrants = [Entrant("holdfast", group, {"exchange": both}) for both in (True, False)]
        measured = alternate(entrants, rounds=2, iters=3)
    assert [len(rounds) for rounds in measured] == [2, 2]
    assert [child.returncode for child in started] == [0, 0]
