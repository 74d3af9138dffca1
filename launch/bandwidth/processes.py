"""The child processes of a benchmark: how they start, what they printed, how they are ended."""

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from holdfast.errors import WorkerFailed

OUTPUT_SHOWN = 4000


@dataclass(frozen=True)
class Program:
    """How the ranks of one library are started.

    `python` runs `path` for the task `task` (see `ranks/rank.py`). With `mpiexec` (a command and
    its options) that command starts all ranks; else each is started by itself and is told its rank,
    where rank 0 is, and a token. `environment` comes on top of this process's own.
    """

    name: str
    python: Path
    task: str
    path: Path
    settings: Mapping[str, object] = field(default_factory=dict)
    mpiexec: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Host(Protocol):
    """Where a rank runs, if not simply here: a host of the fabric, say."""

    def address(self) -> str:
        """Return the address that others reach it at."""

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv`, whose first is an absolute path, there."""


@dataclass
class Process:
    """A child and what it printed; `rank` is None for an mpiexec. Its owner waits and closes."""

    child: subprocess.Popen[bytes]
    output: IO[bytes]
    rank: int | None

    @property
    def who(self) -> str:
        """What to call it in a message."""
        return "mpiexec" if self.rank is None else f"rank {self.rank}"

    def last_output(self) -> str:
        """Return the end of what it printed, on both streams."""
        size = self.output.seek(0, os.SEEK_END)
        self.output.seek(max(0, size - OUTPUT_SHOWN))
        text = self.output.read().decode(errors="replace").strip()
        return "…" + text if size > OUTPUT_SHOWN else text


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    rank: int | None,
    inherited: Sequence[int] = (),
) -> Process:
    """Start `command` in a session of its own; both its streams go to one unnamed file."""
    with contextlib.ExitStack() as on_error:
        output = on_error.enter_context(tempfile.TemporaryFile())
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            pass_fds=inherited,
            # Ctrl-C is for the controller, which then ends them in order.
            start_new_session=True,
        )
        on_error.pop_all()  # from here the process's owner closes the file
    return Process(child, output, rank)


def worker_failed(what: str, process: Process, rank: int) -> WorkerFailed:
    """Return the error that says `what` happened, how `process` ended and what it printed last."""
    code = process.child.poll()
    if code is None:
        how, status = f"{process.who} is still there", 1
    elif code < 0:
        how, status = f"ended by signal {-code} ({signal.strsignal(-code)})", 128 - code
    else:
        how, status = f"exit status {code}", code or 1
    message = f"{what}: {how}.{quoted(process.last_output())}"
    return WorkerFailed(message, rank=rank, exit_status=status)


def quoted(text: str) -> str:
    """Return what a process printed as a part of an error's message."""
    if not text:
        return " It printed nothing."
    return " It printed last:\n" + "\n".join("  | " + line for line in text.splitlines())


def wait_for_all(processes: Sequence[Process], seconds: float) -> None:
    """Return when all have ended, or after `seconds`."""
    expires = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.child.wait(max(0.0, expires - time.monotonic()))


def signal_groups(processes: Sequence[Process], number: signal.Signals) -> None:
    """Send a signal to the process group of each that has not ended."""
    for process in processes:
        # Not yet waited for: so the number is still its own, whatever else has ended.
        if process.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.child.pid, number)
