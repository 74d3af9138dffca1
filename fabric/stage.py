"""Where a script meets the workers: a fault is put in place while the worker waits for it.

The network listens at a Unix socket, whose path the workers find in HOLDFAST_STAGE. Messages are
JSON lines. A worker says who it is and is told for which steps and phases something is planned
(`moments`); coming to one of them it says so and waits for `go`. It also tells, without waiting,
what it notices: links lost and restored, steps ended.
"""

import contextlib
import json
import os
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


class Stage:
    """The network's side: one thread per worker. Close it, or use `with`.

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
        self._workers: dict[socket.socket, tuple[int, str]] = {}
        self._moments: list[Moment] = []
        self._disks: dict[str, Mapping[str, Any]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
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
            for sock in list(self._workers):
                _say(sock, {"moments": self._moments})

    def trouble_disk(self, host: str, rate: float | None) -> Callable[[], None]:
        """Have the workers of `host` find their disk full (None) or slow; return what heals it."""
        self._set_disk(host, {"disk": "full"} if rate is None else {"disk": "slow", "rate": rate})
        return lambda: self._set_disk(host, {"disk": "whole"})

    def close(self) -> None:
        """Let every worker go on without a stage; may be called again."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for sock in self._workers:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _set_disk(self, host: str, message: Mapping[str, Any]) -> None:
        with self._lock:
            self._disks[host] = message
            for sock, (_, of) in list(self._workers.items()):
                if of == host:
                    _say(sock, message)

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
        with sock, contextlib.suppress(OSError), sock.makefile("rb") as lines:
            rank = -1
            for line in lines:
                message = json.loads(line)
                if "hello" in message:
                    rank, host = message["hello"]
                    with self._lock:
                        if self._closed:
                            break
                        self._workers[sock] = (rank, host)
                        _say(sock, {"moments": self._moments})
                        if host in self._disks:
                            _say(sock, self._disks[host])
                elif "at" in message:
                    step, phase = message["at"]
                    self._reached(rank, step, phase)
                    with self._lock:
                        _say(sock, {"go": True})
                else:
                    self._told(rank, message["tell"])
        with self._lock:
            self._workers.pop(sock, None)


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
                if "moments" in message:
                    self._moments = frozenset((s, p, r) for s, p, r in message["moments"])
                    self._known.set()
                elif "disk" in message:
                    self.disk, self.disk_rate = message["disk"], message.get("rate", 0.0)
                else:
                    self._go.set()
        self._moments = frozenset()
        self.disk = "whole"
        self._known.set()
        self._go.set()


def _say(sock: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the other side has left: that is its business
        sock.sendall((json.dumps(message) + os.linesep).encode())
