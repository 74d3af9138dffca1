"""What the examples' tests share: the data, and a way to run one."""

import json
from pathlib import Path

import pytest

from holdfast.errors import DataError
from holdfast.runtime.fetch import fetch_fashion_mnist

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def fashion_mnist():
    """Fashion-MNIST's folder; fetched if it is not there yet."""
    try:
        return fetch_fashion_mnist(report=print)
    except DataError as error:
        pytest.skip(f"Fashion-MNIST could not be fetched: {error}")


@pytest.fixture
def run(workers, tmp_path):
    """Run an example, or another script, on so many workers; return its result.json."""

    def run(size, script, *args, run_dir="run"):
        where = tmp_path / run_dir
        for code, errors in workers(size, EXAMPLES / script, *args, run_dir=where, timeout=150):
            assert code == 0, errors
        return json.loads((where / "result.json").read_text())

    return run
