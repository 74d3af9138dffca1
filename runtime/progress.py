"""What a person sees of a run: a progress bar on a terminal, plain lines elsewhere.

Events are mappings with an `event` key, as rank 0 sends them in JSON lines:

```
progress    step, total_steps, data_epoch, epochs, loss, samples_per_second
evaluated   step, data_epoch, metrics (a mapping of names to numbers)
checkpoint  step, path
resumed     step, path
notice      text
```

`data_epoch` counts from 0 and is shown from 1. Other events are none of a person's business.
"""

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

PLAIN_INTERVAL = 5.0
"""Seconds between two lines of progress where there is no terminal."""

BAR_INTERVAL = 0.1
"""Seconds between two drawings of the bar."""


class ProgressView:
    """Shows a run's events and its workers' lines. Safe to call from several threads.

    `clock` gives seconds and only has to be monotonic. Close it or use `with`, so that the
    terminal gets its cursor back.
    """

    def __init__(
        self, console: Console | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._last_shown_at: float | None = None
        self._began: tuple[int, float] | None = None  # the step and time that the rate counts from
        self._handlers: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
            "progress": self._on_progress,
            "evaluated": self._on_evaluated,
            "checkpoint": lambda event: self._print(
                f"step {event['step']}: checkpoint in {event['path']}"
            ),
            "resumed": self._on_resumed,
            "notice": lambda event: self._print(str(event["text"])),
        }

    def handle(self, event: Mapping[str, Any]) -> None:
        """Show one event; those of other kinds are ignored."""
        handler = self._handlers.get(str(event.get("event")))
        if handler is not None:
            with self._lock:
                handler(event)

    def line(self, text: str) -> None:
        """Show a line, as it is, above the bar if there is one."""
        with self._lock:
            self._print(text)

    def close(self) -> None:
        """Stop the bar and leave it as it stands; again is harmless."""
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _print(self, text: str) -> None:
        # A worker's line may hold brackets and be long: no markup, no colours, no wrapping.
        self._console.print(Text.from_ansi(text), soft_wrap=True, highlight=False)

    def _on_resumed(self, event: Mapping[str, Any]) -> None:
        self._began = None
        self._print(f"resumed after step {event['step']} from {event['path']}")

    def _on_evaluated(self, event: Mapping[str, Any]) -> None:
        metrics = ", ".join(
            f"{name.replace('_', ' ')} {_number(value)}" for name, value in event["metrics"].items()
        )
        self._print(f"epoch {event['data_epoch'] + 1}, step {event['step']}: {metrics}")

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        now = self._clock()
        if self._began is None or event["step"] < self._began[0]:
            self._began = (event["step"], now)
        eta = self._eta(event, now)
        rate = f"{event['samples_per_second']:,.0f} samples/s"
        if self._console.is_terminal:
            self._show_bar(event, rate, eta, now)
            return
        done = event["step"] >= event["total_steps"]
        if self._last_shown_at is None or done or now - self._last_shown_at >= PLAIN_INTERVAL:
            self._last_shown_at = now
            self._print(
                f"step {event['step']}/{event['total_steps']}, "
                f"epoch {event['data_epoch'] + 1}/{event['epochs']}, "
                f"loss {_number(event['loss'])}, {rate}, {eta} left"
            )

    def _eta(self, event: Mapping[str, Any], now: float) -> str:
        """Return the time left as h:mm:ss at the mean rate since the run began or went on."""
        assert self._began is not None
        steps = event["step"] - self._began[0]
        if steps <= 0 or now <= self._began[1]:
            return "-:--:--"
        left = max(0, event["total_steps"] - event["step"])
        seconds = round((now - self._began[1]) / steps * left)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"

    def _show_bar(self, event: Mapping[str, Any], rate: str, eta: str, now: float) -> None:
        shown: dict[str, Any] = {
            "epoch": f"epoch {event['data_epoch'] + 1}/{event['epochs']}",
            "loss": f"loss {_number(event['loss'])}",
            "rate": rate,
            "eta": f"{eta} left",
        }
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.fields[epoch]}"),
                BarColumn(bar_width=None),
                TextColumn("{task.completed}/{task.total}"),
                TextColumn("{task.fields[loss]}"),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[eta]}"),
                console=self._console,
                auto_refresh=False,  # a thread less; events come often enough
                expand=True,
            )
            self._task = self._bar.add_task("training", total=event["total_steps"], **shown)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=event["step"], total=event["total_steps"], **shown)
        if self._last_shown_at is None or now - self._last_shown_at >= BAR_INTERVAL:
            self._last_shown_at = now
            self._bar.refresh()


def _number(value: float) -> str:
    """Return a number with four significant digits, without an exponent where that is short."""
    return f"{value:.4f}" if 0.001 <= abs(value) < 1000 else f"{value:.4g}"
