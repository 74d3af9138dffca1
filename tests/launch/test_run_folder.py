"""The run directory: one job at a time, no result of an earlier one, the line at the end."""

import json
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.launch.run_folder import RunFolder, describe_result
from holdfast.launch.spec import LaunchSpec
from holdfast.runtime.result import RunResult


def spec(run_dir: Path) -> LaunchSpec:
    return LaunchSpec(Path("train.py"), run_dir, "one", nproc_per_node=2)


def test_only_one_job_at_a_time(tmp_path):
    with RunFolder(spec(tmp_path / "run")):
        with (
            pytest.raises(UsageError, match="another job runs in"),
            RunFolder(spec(tmp_path / "run")),
        ):
            pass
        with RunFolder(spec(tmp_path / "other")):
            pass
    with RunFolder(spec(tmp_path / "run")):
        pass


def test_it_begins_without_the_result_of_an_earlier_launch(tmp_path):
    with RunFolder(spec(tmp_path)) as folder:
        folder.write_end(RunResult(status="failed", exit_status=7))
        assert folder.result() == RunResult(status="failed", exit_status=7)
    with RunFolder(spec(tmp_path)) as folder:
        assert folder.result() is None
    assert json.loads((tmp_path / "job.json").read_text())["run_id"] == "one"


def test_a_folder_that_cannot_be_made_is_bad_usage(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UsageError, match="cannot be written to"),
        RunFolder(spec(tmp_path / "file" / "run")),
    ):
        pass


def test_the_last_line_has_the_figures_and_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = RunResult(
        status="finished",
        steps=2350,
        seconds=12.34,
        samples_per_second=48_000.4,
        metrics={"test_accuracy": 0.91234},
        restarts=1,
    )
    assert describe_result(tmp_path / "runs" / "x", result, 20.0) == (
        "finished: test_accuracy 0.9123, 2,350 steps in 12.3 s, 48,000 samples/s, 1 restart: runs/x"
    )
    assert describe_result(Path("/elsewhere"), None, 3.21) == "finished in 3.2 s: /elsewhere"
