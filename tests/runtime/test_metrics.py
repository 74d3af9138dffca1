"""Metrics stand in the file once, whatever a run that was killed and resumed wrote before."""

import json
import math
import threading

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from holdfast.errors import UsageError
from holdfast.runtime.metrics import MetricsLog, read_metrics


@pytest.fixture(autouse=True)
def counted_from_zero(monkeypatch):
    """Number this test's event files from 0.

    TensorBoard reads a folder's files by name: second, host, process, number. In one second and one
    process the tenth would come before the ninth; a run makes one.
    """
    counter = event_file_writer.AtomicCounter(0)
    monkeypatch.setattr(event_file_writer, "_global_uid", counter)


def scalars(run_dir, tag):
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    return [(each.step, each.value) for each in events.Scalars(tag)]


def write(run_dir, steps, resume_step=None):
    with MetricsLog(run_dir, resume_step) as log:
        for step in steps:
            log.write(step, {"loss": step / 4})


def test_what_is_written_is_read(tmp_path):
    with MetricsLog(tmp_path / "run") as log:
        log.write(1, {"loss": np.float32(0.5), "samples_per_second": 1000})
        log.write(2, {"test_accuracy": 0.75})
        log.flush()
        assert read_metrics(tmp_path / "run") == [
            {"step": 1, "loss": 0.5, "samples_per_second": 1000.0},
            {"step": 2, "test_accuracy": 0.75},
        ]
    assert scalars(tmp_path / "run", "loss") == [(1, 0.5)]
    assert scalars(tmp_path / "run", "test_accuracy") == [(2, 0.75)]


def test_what_is_not_finite_is_null_in_json(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, {"loss": math.nan})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "loss": None}
    assert math.isnan(read_metrics(tmp_path)[0]["loss"])
    assert math.isnan(scalars(tmp_path, "loss")[0][1])


def test_a_resumed_run_has_each_step_once(tmp_path):
    write(tmp_path, range(1, 11))
    write(tmp_path, range(6, 13), resume_step=5)
    expected = [(step, step / 4) for step in range(1, 13)]
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == expected
    assert scalars(tmp_path, "loss") == expected


def test_a_run_that_begins_again_forgets_everything(tmp_path):
    write(tmp_path, range(1, 11))
    write(tmp_path, [1], resume_step=0)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 0.25}]
    assert scalars(tmp_path, "loss") == [(1, 0.25)]


def test_without_a_resume_step_lines_are_appended(tmp_path):
    write(tmp_path, [1, 2])
    write(tmp_path, [3])
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]


@pytest.mark.parametrize("resume_step", [None, 2])
def test_a_torn_last_line_is_cut_off(tmp_path, resume_step):
    write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write(tmp_path, [3], resume_step)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"metrics.jsonl", "tensorboard"}


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"loss": 1.0}', '{"step": "1"}'])
def test_another_file_is_refused(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(UsageError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)
    with pytest.raises(UsageError, match="line 2"):
        MetricsLog(tmp_path, resume_step=1)


def test_a_metric_may_not_be_named_step(tmp_path):
    with MetricsLog(tmp_path) as log, pytest.raises(UsageError, match="step"):
        log.write(1, {"step": 2.0})


def test_a_run_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_closing_twice_is_harmless_and_leaves_no_thread(tmp_path):
    before = threading.active_count()
    log = MetricsLog(tmp_path)
    log.close()
    log.close()
    assert threading.active_count() == before
