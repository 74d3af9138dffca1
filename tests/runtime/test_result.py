"""result.json says how a run ended, and the weights' checksum depends on their values alone."""

import hashlib
import json
import math

import numpy as np
import pytest

from holdfast.errors import UsageError
from holdfast.runtime.result import RunResult, read_result, weights_sha256, write_result

RESULT = RunResult(
    status="finished",
    steps=1175,
    samples=300_000,
    seconds=12.5,
    samples_per_second=24_000.0,
    metrics={"test_accuracy": 0.9136, "loss": 0.31},
    weights_sha256="ab" * 32,
    world_size=2,
    transport="shm",
    restarts=1,
)


def test_it_comes_back_as_it_was_written(tmp_path):
    path = write_result(tmp_path / "run", RESULT)
    assert read_result(tmp_path / "run") == RESULT
    flat = json.loads(path.read_text())
    assert flat["status"] == "finished"
    assert flat["test_accuracy"] == 0.9136
    assert "metrics" not in flat
    assert [each.name for each in path.parent.iterdir()] == ["result.json"]


def test_a_later_result_replaces_an_earlier_one(tmp_path):
    write_result(tmp_path, RESULT)
    failed = RunResult(status="failed", exit_status=137, error="rank 1 ended with signal 9")
    write_result(tmp_path, failed)
    assert read_result(tmp_path) == failed


def test_a_run_without_a_result_has_none(tmp_path):
    assert read_result(tmp_path) is None


def test_what_is_not_finite_is_null(tmp_path):
    path = write_result(tmp_path, RunResult(status="failed", metrics={"loss": math.inf}))
    assert json.loads(path.read_text())["loss"] is None
    result = read_result(tmp_path)
    assert result is not None
    assert math.isnan(result.metrics["loss"])


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": "perhaps"}'])
def test_another_file_is_refused(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UsageError, match="result"):
        read_result(tmp_path)


def test_a_metric_may_not_hide_a_field():
    with pytest.raises(UsageError, match="steps"):
        RunResult(status="finished", metrics={"steps": 3.0})


def test_weights_sha256_is_over_the_elements_in_order():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    b = np.array(7, dtype=np.int64)
    expected = hashlib.sha256(a.tobytes() + b.tobytes()).hexdigest()
    assert weights_sha256([a, b]) == expected
    assert weights_sha256([b, a]) != expected
    assert weights_sha256([np.asfortranarray(a), b]) == expected
    assert weights_sha256([a.astype(">f4"), b]) == expected
    assert weights_sha256([np.repeat(a, 2, axis=1)[:, ::2], b]) == expected
    assert weights_sha256([a, np.zeros((0, 3)), b]) == expected
