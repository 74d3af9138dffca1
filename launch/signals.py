"""Ctrl-C and SIGTERM: the first stops the job in good order, the second at once.

Rule: a handler raises nothing. An exception out of nowhere is lost in a destructor or leaves Ray
half-built; so the first signal is a flag that the loops look at.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

HANDLED = (signal.SIGINT, signal.SIGTERM)

_LAST_WORDS_DEADLINE = 30.0


class Interrupted(BaseException):
    """The first signal came; as KeyboardInterrupt, it is no Exception."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum

    @property
    def exit_status(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class Signals:
    """Handles SIGINT and SIGTERM while it is entered; only in the main thread.

    The first signal makes `check` raise Interrupted. The second ends the process on the spot, even
    if the main thread is deep inside of Ray. What it has started ends with it, as when it is
    killed: a local Ray by its guard, agents with Ray's job, workers with their agent.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._last_words: Callable[[Interrupted], None] | None = None
        self._speaking = threading.Lock()
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)

    def __enter__(self) -> Self:
        self._before = {signum: signal.getsignal(signum) for signum in HANDLED}
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._install()
        threading.Thread(target=self._watch, name="holdfast-signals", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._wakeup_before)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._write.close()

    @property
    def came(self) -> bool:
        """Whether the first signal has come."""
        return self._first is not None

    def check(self) -> None:
        """Raise Interrupted if the first signal has come."""
        if self._first is not None:
            raise Interrupted(self._first)

    @contextlib.contextmanager
    def at_once(self, last_words: Callable[[Interrupted], None]) -> Iterator[None]:
        """While entered, have the first signal end the process, after a call of `last_words`.

        For what cannot be left half done nor waited for, as the start of Ray; `last_words` is
        called in another thread. Also undoes the handlers that Ray sets of its own.
        """
        self._last_words = last_words
        try:
            yield
        except SystemExit:  # which is what Ray's own handler makes of SIGTERM
            threading.Event().wait(_LAST_WORDS_DEADLINE)
            raise
        finally:
            with self._speaking:  # not while the last words are spoken: after them is nothing
                self._last_words = None
            self._install()
        self.check()

    def _install(self) -> None:
        for signum in HANDLED:
            signal.signal(signum, self._handle)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = signum

    def _watch(self) -> None:
        """Look at each signal as it comes, whatever the main thread does."""
        first: int | None = None
        with self._read:
            while received := self._read.recv(1):
                [signum] = received
                if signum not in HANDLED:
                    continue
                if first is not None:
                    _end_process(first)
                first = signum
                with self._speaking:
                    if self._last_words is not None:
                        self._last_words(Interrupted(signum))
                        _end_process(signum)


def _end_process(signum: int) -> None:
    if sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")  # a bar may have hidden the cursor
    os._exit(128 + signum)
