"""`holdfast clean`: what is found, what is removed, and what is left alone."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile

import pytest

from holdfast.fabric import leftovers
from holdfast.fabric.kernel import namespaces
from holdfast.launch import cli
from holdfast.launch.commands.clean import MPI_PREFIX, MPI_SECONDS

pytestmark = pytest.mark.local

NOBODY = "1 1"
"""No process has this number and start time."""


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["clean", *arguments])
    captured = capsys.readouterr()
    return ended.value.code, captured.out.splitlines(), captured.err


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A temporary folder of one's own, short enough for Ray, and places without namespaces."""
    short = tempfile.mkdtemp(prefix="hf-", dir="/tmp")
    monkeypatch.setattr(tempfile, "tempdir", short)
    monkeypatch.setattr(namespaces, "NAMESPACES", tmp_path / "netns")
    monkeypatch.setattr(namespaces, "RECORDS", tmp_path / "records")
    yield tmp_path.__class__(short)
    leftovers.sweep()
    subprocess.run(["rm", "-rf", short], check=True)


def test_nothing_left_is_said(root, capsys):
    status, out, _ = run(capsys)
    assert status == 0
    assert out[0] == "nothing was left by killed runs"
    assert "it has no names" in out[1]


def test_what_killed_runs_left_is_listed_then_removed_and_the_living_left_alone(root, capsys):
    sleeper = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(100)"], start_new_session=True
    )
    used = leftovers.Traces()
    dead = leftovers.Traces()
    dead.started(sleeper.pid)
    (dead.folder / "owner").write_text(NOBODY)
    ray = [root / f"holdfast-ray-{name}" for name in ("dead", "used")]
    mpi = [root / f"{MPI_PREFIX}{name}" for name in ("dead", "used")]
    for folder in ray + mpi:
        folder.mkdir()
    for folder in ray:
        (folder / "lock").touch()
    os.utime(mpi[0], (0, os.stat(mpi[0]).st_mtime - 2 * MPI_SECONDS))
    namespaces.NAMESPACES.mkdir()
    orphan = namespaces.NAMESPACES / "hf-0123abcd-h0"
    orphan.touch()
    try:
        with open(ray[1] / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            gone = [str(dead.folder), str(ray[0]), str(mpi[0]), "network 0123abcd"]
            status, listed, _ = run(capsys, "--dry-run")
            assert status == 0
            assert len(listed) == len(gone) + 1
            assert all(line.startswith("would remove ") for line in listed[:-1])
            assert all(any(each in line for line in listed) for each in gone)
            assert sleeper.poll() is None
            assert ray[0].exists()
            status, removed, _ = run(capsys)
            assert status == 0
            assert removed == [line.replace("would remove", "removed") for line in listed]
            assert sleeper.wait(10) == -signal.SIGKILL
            assert not any(each.exists() for each in (dead.folder, ray[0], mpi[0], orphan))
            assert all(each.exists() for each in (used.folder, ray[1], mpi[1]))
            assert run(capsys)[1][0] == "nothing was left by killed runs"
    finally:
        sleeper.kill()
        sleeper.wait(10)
        used.remove()


def test_what_is_another_user_s_asks_for_root(root, capsys, monkeypatch):
    dead = leftovers.Traces()
    (dead.folder / "owner").write_text(NOBODY)

    def refuse(folder):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(leftovers, "clear", refuse)
    status, _, err = run(capsys)
    assert status == 2
    assert "sudo holdfast clean" in err
    monkeypatch.undo()
    dead.remove()
