"""The numbers of a run over its steps: JSON lines for programs, TensorBoard's files for people.

Rule: a line of `metrics.jsonl` is written in one call and cut off again if a run goes on from
before its step, so that each step stands in the file once.
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsFloat

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from holdfast.errors import UsageError
from holdfast.runtime.files import make_folders, write_atomically

METRICS_NAME = "metrics.jsonl"
TENSORBOARD_NAME = "tensorboard"


class MetricsLog:
    """Writes the metrics of the run in `run_dir`. One process writes; close it or use `with`.

    What a crash left of a last line is always cut off. With `resume_step`, the number of steps that
    the checkpoint resumed from had finished, so is everything of later steps, and TensorBoard is
    told to forget it too: pass 0 for a run that begins again. Without it, lines are only appended.
    Raises UsageError if `metrics.jsonl` holds what no run wrote.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None) -> None:
        make_folders(run_dir)
        self.path = run_dir / METRICS_NAME
        _mend(self.path, resume_step)
        self._descriptor = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644
        )
        self._events = EventFileWriter(str(run_dir / TENSORBOARD_NAME))
        self._closed = False
        if resume_step is not None:
            # TensorBoard drops what earlier files of the folder hold from the event's step on.
            start = SessionLog(status=SessionLog.START)
            self._events.add_event(
                Event(wall_time=time.time(), step=resume_step + 1, session_log=start)
            )

    def write(self, step: int, values: Mapping[str, SupportsFloat]) -> None:
        """Add the `values` after `step` finished steps.

        A value that isn't finite is null in the JSON line and what it is in TensorBoard.
        """
        plain = {name: float(value) for name, value in values.items()}
        if "step" in plain:
            raise UsageError("a metric may not be named 'step'")
        line = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in plain.items()
        }
        left = memoryview((json.dumps(line) + "\n").encode())
        while left:
            left = left[os.write(self._descriptor, left) :]
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in plain.items()]
        self._events.add_event(
            Event(wall_time=time.time(), step=step, summary=Summary(value=scalars))
        )

    def flush(self) -> None:
        """Return when all that was written is on the disk."""
        os.fsync(self._descriptor)
        self._events.flush()

    def close(self) -> None:
        """Flush and end the writer's thread; again is harmless."""
        if self._closed:
            return
        self._closed = True
        try:
            self._events.close()
        finally:
            os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics: `step` (int) and the values (float, nan for null).

    A torn last line, of a run that was killed or is writing, is left out; so a run without metrics
    gives an empty list. Raises UsageError if the file holds what no run wrote.
    """
    path = run_dir / METRICS_NAME
    return [
        {name: math.nan if value is None else value for name, value in entry.items()}
        for _, entry in _entries(path)
    ]


def _entries(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each whole line of the file with what it says."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    lines = data.splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        del lines[-1]
    return [(line, _parse(path, number, line)) for number, line in enumerate(lines, start=1)]


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{path}, line {number}: expected a JSON object: {error}") from error
    if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
        raise UsageError(f"{path}, line {number}: expected a JSON object with a step")
    return entry


def _mend(path: Path, resume_step: int | None) -> None:
    """Cut off a torn last line and, with `resume_step`, the lines of later steps."""
    if not path.exists():
        return
    kept = b"".join(
        line
        for line, entry in _entries(path)
        if resume_step is None or entry["step"] <= resume_step
    )
    if len(kept) != path.stat().st_size:
        write_atomically(path, kept)
