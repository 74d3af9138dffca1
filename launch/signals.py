"""Ctrl-C and SIGTERM: the first stops the job in good order, the second at once."""

import os
import signal
import socket
import sys
import threading
from types import FrameType, TracebackType
from typing import Any, Self

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The first signal came; as KeyboardInterrupt, it is no Exception.

    If it is `abrupt`, this process is in no state to go on: it should say so and end.
    """

    def __init__(self, signum: int, *, abrupt: bool = False) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum
        self.abrupt = abrupt

    @property
    def exit_status(self) -> int:
        """130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.signum


class Signals:
    """Handles SIGINT and SIGTERM while it is entered; only in the main thread.

    The first signal raises Interrupted: where it comes, or, once `deferred`, at the next `check`.
    The second ends the process on the spot. What it has started ends with it, as when it is
    killed: a local Ray by its guard, agents with Ray's job, workers with their agent.
    """

    def __init__(self) -> None:
        self.deferred = False
        self._first: int | None = None
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)

    def __enter__(self) -> Self:
        self._before = {signum: signal.getsignal(signum) for signum in HANDLED}
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self.install()
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

    def install(self) -> None:
        """Set the handlers; again after `ray.init`, which sets one of its own."""
        for signum in HANDLED:
            signal.signal(signum, self._handle)

    @property
    def came(self) -> bool:
        """Whether the first signal has come."""
        return self._first is not None

    def check(self) -> None:
        """Raise Interrupted if the first signal has come."""
        if self._first is not None:
            raise Interrupted(self._first)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self._first is None:
            self._first = signum
            if not self.deferred:
                raise Interrupted(signum)

    def _watch(self) -> None:
        """End the process at the second signal, even if the main thread is deep inside of Ray."""
        first: int | None = None
        with self._read:
            while received := self._read.recv(1):
                [signum] = received
                if signum not in HANDLED:
                    continue
                if first is not None:
                    if sys.stdout.isatty():
                        os.write(sys.stdout.fileno(), b"\x1b[?25h\n")  # the bar hid the cursor
                    os._exit(128 + first)
                first = signum
