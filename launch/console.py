"""What the launcher shows: workers' lines with their rank, their events, its own messages."""

import sys
from collections.abc import Mapping
from typing import Any

from holdfast.launch.workers import Stream
from holdfast.runtime.progress import ProgressView


class Console:
    """Shows a job on this process's terminal, or on its stdout and stderr if they are no terminal.

    The workers' stderr stays stderr, but for a terminal: there the view draws a bar, and every line
    has to go above it.
    """

    def __init__(self, view: ProgressView) -> None:
        self._view = view
        self._one_screen = sys.stdout.isatty() and sys.stderr.isatty()

    def worker_line(self, rank: int, stream: Stream, text: str) -> None:
        """Show a line of a worker's output with its rank before it."""
        line = f"[rank {rank}] {text}"
        if stream == "stderr" and not self._one_screen:
            print(line, file=sys.stderr, flush=True)
        else:
            self._view.line(line)

    def event(self, event: Mapping[str, Any]) -> None:
        """Show an event of rank 0: progress, an evaluation, a checkpoint."""
        self._view.handle(event)

    def notice(self, text: str) -> None:
        """Show a message of the launcher's own."""
        self._view.line(f"holdfast: {text}")

    def problem(self, text: str) -> None:
        """Show a message of the launcher's own about something that went wrong."""
        if self._one_screen:
            self._view.line(f"holdfast: {text}")
        else:
            print(f"holdfast: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal as it was found; lines may still follow."""
        self._view.close()
