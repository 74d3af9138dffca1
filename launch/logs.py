"""A run's files that the launcher writes: each rank's output, and the events as JSON lines."""

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from holdfast.launch.workers import Stream

LINE_LIMIT = 64 * 1024
"""Bytes after which a line is told although its end has not come."""

TAIL_SIZE = 64 * 1024
"""Bytes of each rank's stderr that are kept for the report of a failure."""


class LineSplitter:
    """Joins pieces of output to lines. Pure."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_LIMIT:
            lines.append(self._rest)
            self._rest = b""
        return [_text(line) for line in lines]

    def rest(self) -> list[str]:
        """Return the last line if its end never came."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest else []


def _text(line: bytes) -> str:
    """Decode a line as a terminal would show it in the end: what follows the last return."""
    text = line.decode("utf-8", errors="replace").rstrip("\r")
    return text.rsplit("\r", 1)[-1]


class AttemptLogs:
    """Keeps an attempt's output: `attempt_K/rank_R/{stdout,stderr}.log`, byte for byte."""

    def __init__(self, folder: Path, world_size: int) -> None:
        self._folder = folder
        self._files: dict[tuple[int, Stream], IO[bytes]] = {}
        self._tails: dict[int, bytes] = {}
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        for rank in range(world_size):
            self.path(rank, "stdout").parent.mkdir(parents=True, exist_ok=True)
            for stream in streams:
                # Unbuffered: what a worker said last is there even if the launcher is killed.
                path = self.path(rank, stream)
                self._files[rank, stream] = open(path, "ab", buffering=0)  # noqa: SIM115

    def path(self, rank: int, stream: Stream) -> Path:
        """Return the file that has the rank's output."""
        return self._folder / f"rank_{rank}" / f"{stream}.log"

    def write(self, rank: int, stream: Stream, data: bytes) -> None:
        """Append a piece of output."""
        self._files[rank, stream].write(data)
        if stream == "stderr":
            self._tails[rank] = (self._tails.get(rank, b"") + data)[-TAIL_SIZE:]

    def stderr_tail(self, rank: int) -> str:
        """Return the end of what the rank wrote to stderr."""
        return self._tails.get(rank, b"").decode("utf-8", errors="replace")

    def close(self) -> None:
        """Close the files; again is harmless."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class EventLog:
    """Appends the launcher's events to `events.jsonl`, each with its time in seconds since 1970."""

    def __init__(self, run_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        path = run_dir / "events.jsonl"
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def write(self, event: str, **values: Any) -> None:
        """Append one event."""
        self.append({"event": event, **values})

    def append(self, event: Mapping[str, Any]) -> None:
        """Append an event that is a mapping already, as workers send them."""
        self._file.write(json.dumps({"time": round(self._clock(), 3), **event}) + "\n")

    def close(self) -> None:
        """Close the file; again is harmless."""
        self._file.close()


def next_attempt(run_dir: Path) -> int:
    """Return the number of the next attempt in a run directory that may have had others."""
    found = [re.fullmatch(r"attempt_(\d+)", each.name) for each in run_dir.glob("attempt_*")]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def parse_event(line: str) -> Mapping[str, Any] | None:
    """Return a worker's event, or None if the line is not one."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None
