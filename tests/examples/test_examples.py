"""The examples and the README's script run on real data and learn."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.local, pytest.mark.usefixtures("fashion_mnist")]


def test_lenet_on_two_workers(run):
    result = run(2, "fashion_lenet.py", "--epochs", 1)
    assert result["samples"] == 60_000
    assert result["test_accuracy"] > 0.75


def test_logistic_regression_tells_two_classes_apart(run):
    result = run(1, "logistic_regression.py", "--epochs", 1)
    assert result["samples"] == 12_000
    assert result["test_accuracy"] > 0.9


def test_the_readme_s_script_runs_as_it_stands(run, tmp_path):
    block, *_ = re.findall(r"```python\n(.*?)```", (TOP / "README.md").read_text(), re.DOTALL)
    assert len(re.findall(r"#\s\d", block)) == 5
    script = tmp_path / "train.py"
    script.write_text(block.replace("epochs=5", "epochs=1"))
    assert run(2, script)["loss"] < 1.0
