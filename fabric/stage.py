"""Where a script meets the workers: a fault is put in place while the worker waits for it.

The network listens at a Unix socket, whose path the workers find in HOLDFAST_STAGE. Messages are
JSON lines. A worker says who it is and is told for which steps and phases something is planned
(`moments`); coming to one of them it says so and waits for `go`. It also tells, without waiting,
what it notices: links lost and restored, steps ended.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from holdfast.fabric.script import When

PATIENCE = 30.0
"""Seconds after which a worker goes on although nobody said `go`: the network may be gone."""

Moment = tuple[int, str, int | None]
"""A step, a phase of it, and the rank that is meant, or None for whichever comes first."""


class _Outbox:
    """What one worker is yet to be told: the newest word of each kind, sent by a thread.

    Nobody waits for a worker that does not read, because it is stopped, say.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._changed = threading.Condition()
        self._waiting: dict[str, Any] = {}
        self._closed = False

    def put(self, message: Mapping[str, Any]) -> None:
        """Have a message sent, in the place of one of its kind that still waits."""
        with self._changed:
            self._waiting.update(message)
            self._changed.notify()

    def run(self) -> None:
        """Send until closed, or until the worker is gone."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                message, self._waiting = self._waiting, {}
            if not _say(self._sock, message):
                return

    def close(self) -> None:
        """Stop; may be called again."""
        with self._changed:
            self._closed = True
            self._changed.notify()


class Stage:
    """The network's side: two threads per worker. Close it.

    `reached(rank, step, phase)` is called when a worker comes to one of the moments, `told(rank,
    event)` with what it tells.
    """

    def __init__(
        self,
        folder: Path,
        reached: Callable[[int, int, str], None],
        told: Callable[[int, Mapping[str, Any]], None],
    ) -> None:
        self.path = folder / "stage"
        self._reached = reached
        self._told = told
        self._lock = threading.Lock()
        self._workers: dict[socket.socket, tuple[str, _Outbox]] = {}
        self._moments: list[Moment] = []
        self._troubles: dict[str, dict[int, float | None]] = {}  # host -> rates; None: full
        self._count = 0
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(self.path))
        except OSError:
            self._listener.close()
            raise
        self._listener.listen(1024)
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def await_moments(self, moments: tuple[When, ...]) -> None:
        """Have workers that come to one of these stop and say so."""
        with self._lock:
            self._moments = [
                (when.step, when.phase, when.rank) for when in moments if when.step is not None
            ]
            for _, outbox in self._workers.values():
                outbox.put({"moments": self._moments})

    def trouble_disk(self, host: str, rate: float | None) -> Callable[[], None]:
        """Have the workers of `host` find their disk full (None) or slow; return what heals it.

        Of several troubles at a time the worst one counts.
        """
        with self._lock:
            self._count += 1
            number = self._count
            self._troubles.setdefault(host, {})[number] = rate
            self._tell_disk(host)

        def heal() -> None:
            with self._lock:
                del self._troubles[host][number]
                self._tell_disk(host)

        return heal

    def close(self) -> None:
        """Let every worker go on without a stage; may be called again."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for sock, (_, outbox) in self._workers.items():
                outbox.close()
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _tell_disk(self, host: str) -> None:
        for of, outbox in self._workers.values():
            if of == host:
                outbox.put({"disk": self._disk(host)})

    def _disk(self, host: str) -> tuple[str, float]:
        """Return how the disk of `host` is, and its rate."""
        rates = self._troubles.get(host, {}).values()
        if not rates:
            return "whole", 0.0
        slowest = min(0.0 if rate is None else rate for rate in rates)
        return ("slow", slowest) if slowest else ("full", 0.0)

    def _begin(self, run: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=run, args=args, name="holdfast-stage", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._begin(self._listen, sock)

    def _listen(self, sock: socket.socket) -> None:
        rank, outbox = -1, _Outbox(sock)
        # A worker that is killed may leave half a line.
        with sock, contextlib.suppress(OSError, ValueError), sock.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "hello" in message:
                    rank, host = message["hello"]
                    with self._lock:
                        if self._closed:
                            break
                        self._workers[sock] = (host, outbox)
                        outbox.put({"moments": self._moments, "disk": self._disk(host)})
                    self._begin(outbox.run)
                elif "at" in message:
                    step, phase = message["at"]
                    self._reached(rank, step, phase)
                    outbox.put({"go": True})
                else:
                    self._told(rank, message["tell"])
        with self._lock:
            self._workers.pop(sock, None)
            outbox.close()


class Player:
    """A worker's side. Methods may be called from any thread.

    `rank` and `host` are this worker's. Without a stage any more, nobody is waited for.
    """

    def __init__(self, path: str, rank: int, host: str) -> None:
        self._rank = rank
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(path)
        self._lock = threading.Lock()
        self._moments: frozenset[Moment] = frozenset()
        self._known = threading.Event()
        self._go = threading.Event()
        self.disk: Literal["whole", "full", "slow"] = "whole"
        self.disk_rate = 0.0
        """In bit/s, while the disk is slow."""
        threading.Thread(target=self._listen, name="holdfast-player", daemon=True).start()
        self._say({"hello": [rank, host]})
        self._known.wait(PATIENCE)

    def reach(self, step: int, phase: str) -> None:
        """Say that this worker is there, if that is waited for; return when it may go on."""
        moments = self._moments
        if not moments or (
            (step, phase, self._rank) not in moments and (step, phase, None) not in moments
        ):
            return
        with self._lock:
            self._go.clear()
            self._say({"at": [step, phase]})
            self._go.wait(PATIENCE)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Tell what has happened, without waiting."""
        self._say({"tell": event})

    def close(self) -> None:
        """Leave the stage; may be called again."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _say(self, message: Mapping[str, Any]) -> None:
        _say(self._sock, message)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._sock.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "disk" in message:
                    self.disk, self.disk_rate = message["disk"]
                if "moments" in message:
                    self._moments = frozenset((s, p, r) for s, p, r in message["moments"])
                    self._known.set()
                if "go" in message:
                    self._go.set()
        self._moments = frozenset()
        self.disk = "whole"
        self._known.set()
        self._go.set()


def _say(sock: socket.socket, message: Mapping[str, Any]) -> bool:
    """Send a message; return whether the other side is still there."""
    try:
        sock.sendall((json.dumps(message) + "\n").encode())
    except OSError:
        return False
    return True
