"""Drills with real workers, through the fixture that users have."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.fabric import disk_full, down, flap, kill, loss, pause, reset, star
from holdfast.launch.drill.spec import DrillSpec

pytestmark = pytest.mark.local

SCRIPT = Path(__file__).parents[1] / "runtime" / "digits_worker.py"
KERNEL = pytest.param("kernel", marks=pytest.mark.netns)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.parametrize("kind", ["relay", KERNEL])
def test_training_survives_link_faults(drill, kind):
    faults = (
        flap("h0", "h1", down=1.0, at_step=5, phase="all-gather")
        + reset("h2", at_step=9, phase="reduce-scatter", rank=1)
        + loss("h1", p=0.01, at_step=11, for_="1s")
    )
    result = drill(SCRIPT, workers=3, faults=faults, fabric=kind)
    assert result.promise_kept, result.broken_promises
    assert result.weights_identical
    assert (result.steps_lost, result.steps_repeated, result.restarts) == (0, 0, 0)
    assert result.samples_committed == result.samples_expected > 0
    assert [fault.kind for fault in result.faults] == ["flap", "reset", "loss"]
    assert [fault.step for fault in result.faults] == [5, 9, 11]
    assert result.faults[1].detection_seconds is not None
    assert result.links_lost >= 2


def test_a_killed_worker_means_a_restart_from_the_checkpoint(drill, tmp_path):
    result = drill(SCRIPT, workers=2, faults=kill(worker=1, at_step=12), timeout=3)
    assert result.weights_identical
    assert result.restarts == 1
    assert result.steps_repeated > 0
    assert result.steps_lost == 0
    assert result.promise_kept
    [report] = tmp_path.glob("*/drill.json")
    told = json.loads(report.read_text())
    assert told["weights_identical"] is True
    assert told["recovery_seconds"]["p50"] == result.recovery_seconds.p50 > 0
    assert (report.parent / "drill.html").stat().st_size > 10_000


def test_a_full_disk_costs_checkpoints_not_the_job(drill, tmp_path):
    faults = disk_full(host="h0", at_step=7, for_="1s") + pause(host="h1", at_step=9, for_="300ms")
    result = drill(SCRIPT, workers=2, faults=faults)
    assert result.promise_kept
    [events] = tmp_path.glob("*/faulty/events.jsonl")
    assert "No space left" in events.read_text()


def test_faults_whose_moment_never_comes_are_told(drill):
    result = drill(SCRIPT, workers=2, faults=reset("h1", at_step=3) + kill(worker=1, at_step=999))
    assert result.promise_kept
    assert len(result.faults) == 1
    assert result.faults_never_began == ("in step 999, step: kill worker 1",)


def test_a_promise_that_is_broken_is_named(drill):
    result = drill(SCRIPT, workers=2, faults=down("h1", at_step=3), timeout=1, max_restarts=0)
    assert not result.promise_kept
    assert not result.weights_identical
    assert result.steps_lost > 0
    assert result.broken_promises


@pytest.mark.faults(seed=3, mtbf="700ms", kinds=("reset", "flap"))
def test_faults_are_drawn_from_the_marker_s_seed(drill):
    result = drill(SCRIPT, workers=2, args=["--epochs", "4"])
    assert result.promise_kept
    assert {fault.kind for fault in result.faults} <= {"reset", "flap"}


def test_a_drill_without_faults_is_refused(drill):
    with pytest.raises(UsageError, match="needs faults"):
        drill(SCRIPT)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"script": Path("no.py")}, "isn't there"),
        ({"fabric": "cardboard"}, "relay or kernel"),
        ({"mtbf": 0.0}, "above 0"),
        ({"topology": star(1)}, "two workers at least"),
        ({"faults": kill(worker=7)}, "from 0 to 2"),
        ({"timeout": 0.5}, "whole seconds"),
        ({"nproc_per_node": 0}, "--nproc-per-node must be at least 1"),
    ],
)
def test_what_cannot_be_drilled_is_refused(tmp_path, change, said):
    with pytest.raises(UsageError, match=said):
        DrillSpec(**({"script": SCRIPT, "run_dir": tmp_path / "run"} | change))


def test_a_folder_that_is_in_use_is_refused(tmp_path):
    (tmp_path / "something").touch()
    with pytest.raises(UsageError, match="not empty"):
        DrillSpec(script=SCRIPT, run_dir=tmp_path)


def command(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "holdfast", "drill", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        **more,
    )


def test_the_command(tmp_path):
    run = command("--run-dir", tmp_path / "run", "--mtbf", "1s", "--topology", "star:2", SCRIPT)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "the report:" in run.stdout
    names = {each.name for each in (tmp_path / "run").iterdir()}
    assert names >= {"drill.html", "drill.json", "faults.toml", "quiet", "faulty"}
    again = command(
        *("--run-dir", tmp_path / "again", "--faults", tmp_path / "run" / "faults.toml"),
        *("--topology", "star:2", SCRIPT),
    )
    assert again.returncode == 0, again.stdout + again.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--faults", "no.toml", SCRIPT], "cannot be read"),
        (["--topology", "ring:3", SCRIPT], "a topology of"),
        (["--mtbf", "often", SCRIPT], "a duration such as"),
        (["nothing.py"], "isn't there"),
        ([], "clone of Holdfast's repository"),
    ],
)
def test_bad_usage_is_status_2(tmp_path, arguments, said):
    run = command(*arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert said in run.stderr


def test_a_job_that_fails_by_itself_is_no_drill(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("raise SystemExit(7)")
    run = command("--run-dir", tmp_path / "run", script)
    assert run.returncode == 2
    assert "failed without any fault" in run.stderr


# The plugin

TEST = """
import pytest

@pytest.mark.faults(seed=11, mtbf="10ms")
def test_that_fails(fabric):
    net = fabric(2)
    while not net.happened:
        pass
    with net.link("h1").down():
        assert False, "as it should"

def test_quiet(fabric):
    assert not fabric(3).happened
"""


def test_a_failed_test_shows_the_script_that_repeats_it(tmp_path):
    path = tmp_path / "test_it.py"
    path.write_text(TEST)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
    )
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "fault script" in run.stdout
    assert re.search(r"seed = 11\n\n\[\[fault\]\]\nat = ", run.stdout)
