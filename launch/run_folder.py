"""The run directory as the launcher keeps it: one job at a time, its spec, how it ended."""

import contextlib
import fcntl
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.errors import UsageError
from holdfast.launch.logs import EventLog
from holdfast.launch.spec import LaunchSpec
from holdfast.runtime.result import RESULT_NAME, RunResult, read_result, write_result

_LOCK = ".lock"


class RunFolder:
    """Makes and locks `spec.run_dir` and writes `job.json`, from `__enter__` to `__exit__`.

    Raises UsageError if another job runs in it.
    """

    def __init__(self, spec: LaunchSpec) -> None:
        self._spec = spec
        self._lock: int | None = None
        self.path = spec.run_dir
        self.events: EventLog

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UsageError(
                f"the run directory {self.path} cannot be written to: {error.strerror}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise UsageError(
                f"another job runs in {self.path}: wait for its end or give another --run-dir"
            ) from error
        self._lock = lock
        with contextlib.suppress(FileNotFoundError):  # the result of an earlier launch
            (self.path / RESULT_NAME).unlink()
        job = json.dumps(self._spec.to_json(), indent=2)
        (self.path / "job.json").write_text(job + "\n", encoding="utf-8")
        self.events = EventLog(self.path)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.events.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def result(self) -> RunResult | None:
        """Return what the job itself wrote about its end; None if it wrote nothing."""
        return read_result(self.path)

    def write_end(self, result: RunResult) -> None:
        """Write how a job ended that could not do so itself."""
        write_result(self.path, result)


def describe_result(run_dir: Path, result: RunResult | None, seconds: float) -> str:
    """Return the one line that a launch ends with."""
    shown = _shown(run_dir)
    if result is None:
        return f"finished in {seconds:.1f} s: {shown}"
    figures = [f"{name} {_number(value)}" for name, value in result.metrics.items()]
    figures.append(f"{result.steps:,} steps in {result.seconds:.1f} s")
    figures.append(f"{result.samples_per_second:,.0f} samples/s")
    if result.restarts:
        figures.append("1 restart" if result.restarts == 1 else f"{result.restarts} restarts")
    return f"{result.status}: {', '.join(figures)}: {shown}"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(run_dir: Path) -> str:
    """Return the path as it is shortest from here."""
    with contextlib.suppress(ValueError):
        return str(run_dir.relative_to(Path.cwd()))
    return str(run_dir)
