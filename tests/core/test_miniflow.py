"""The smallest example runs, converges and shows its graph."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "miniflow.py"


@pytest.mark.local
def test_miniflow_converges_and_prints_its_graph():
    run = subprocess.run(
        [sys.executable, str(EXAMPLE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("26 parameters")
    lines = re.findall(r"output \[(\S+), (\S+)\], loss (\S+)", run.stdout)
    assert len(lines) > 3
    first, second, loss = (float(number) for number in lines[-1])
    assert abs(first + 0.85) < 1e-4
    assert abs(second - 0.72) < 1e-4
    assert loss < 1e-9
    order = re.findall(r"^  (\S+) \[", run.stdout, re.MULTILINE)
    assert order.index("linear_1") < order.index("sigmoid_1") < order.index("linear_2")
    assert order[-1] == "mse_loss_1"
