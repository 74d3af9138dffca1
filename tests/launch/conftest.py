"""What the launcher's tests share: scripts to run, and a way to see what they leave behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MARK = "HOLDFAST_TEST_MARK"

EMIT = """
import json, os, signal, sys, time
def emit(**event):
    os.write(int(os.environ["HOLDFAST_EVENTS_FD"]), (json.dumps(event) + "\\n").encode())
def progress(step):
    emit(event="progress", step=step, total_steps=4, data_epoch=0, epochs=1, loss=1.0,
         samples_per_second=2.0)
rank = int(os.environ["RANK"])
restart = int(os.environ["HOLDFAST_RESTART_COUNT"])
run_dir = os.environ["HOLDFAST_RUN_DIR"]
"""
"""The beginning of a script that plays a worker without training anything."""


def wait_until(true: Callable[[], object], *, seconds: float = 60.0) -> None:
    """Return as soon as `true()` is; fail the test if that takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"waited {seconds} s for {true}"
        time.sleep(0.02)


def processes_of(mark: str, folder: Path) -> dict[int, str]:
    """Return the processes with `mark` in their environment or a file in `folder` open.

    Ray's hide their environment, but write their logs there.
    """
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(each) for each in (process / "fd").iterdir()]
            if mark.encode() in (process / "environ").read_bytes() or any(
                file.startswith(f"{folder}/") for file in files
            ):
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(process.name)] = line.decode(errors="replace")
        except OSError:
            continue
    return found


class Launches:
    """Starts `holdfast launch` so that all processes of it, Ray's too, can be found again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Short, for the sake of the sockets in it.
        self.temporary = Path(tempfile.mkdtemp(prefix="hf-", dir="/tmp"))
        self.run_dir = folder / "run"
        self.mark = uuid.uuid4().hex
        self._started: list[subprocess.Popen[str]] = []

    def script(self, body: str) -> str:
        """Write a worker's script and return its name."""
        (self.folder / "script.py").write_text(EMIT + body)
        return "script.py"

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `holdfast launch` in the folder; the run directory is `run_dir`."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RAY_", "HOLDFAST_", "OMP_"))
        }
        ours = {MARK: self.mark, "TMPDIR": str(self.temporary)}
        environment = {**inherited, **ours, **variables}
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "holdfast", "launch"),
                *("--run-dir", str(self.run_dir)),
                *arguments,
            ],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Do the same and wait for its end."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def left(self) -> tuple[dict[int, str], list[str]]:
        """Return the processes of these launches that still run, and the temporary files."""
        files = [each.name for each in self.temporary.iterdir()]
        return processes_of(self.mark, self.temporary), files

    def nothing_left(self) -> bool:
        """Whether there are neither."""
        return self.left() == ({}, [])

    def ready(self, *ranks: int) -> bool:
        """Whether the workers of `ranks` have made their `ready` files."""
        return all((self.run_dir / f"ready{rank}").exists() for rank in ranks)

    def close(self) -> None:
        """Kill what a failed test has left."""
        for process in self._started:
            process.kill()
            process.communicate()
        for pid in processes_of(self.mark, self.temporary):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.temporary, ignore_errors=True)


@pytest.fixture
def launches(tmp_path: Path) -> Iterator[Launches]:
    made = Launches(tmp_path)
    yield made
    made.close()


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until
