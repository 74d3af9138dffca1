"""The relay's event loop: one thread that gives tasks their turn when a socket or a time calls.

Rule: everything that tasks share is touched by the loop's thread alone; other threads `call`.
"""

import heapq
import logging
import math
import os
import select
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

from holdfast.errors import FabricError

PATIENCE = 30.0
"""Seconds within which the loop must answer a call from another thread."""
_HIGHEST = 1024  # what select() can watch
_EVERYTHING = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET

log = logging.getLogger("holdfast.relay")

T = TypeVar("T")


class Task(ABC):
    """What the loop turns; it owns the sockets that the loop watches for it."""

    wake = math.inf
    """When the loop is to turn it; only the loop sets this and `queued`."""
    queued = False

    @abstractmethod
    def told(self, fd: int, event: int) -> None:
        """Take note of what epoll says about one of its sockets; a turn follows."""

    @abstractmethod
    def turn(self) -> float:
        """Do a bounded piece of work; return when to go on, on the monotonic clock.

        A time that has passed is at once, infinity when a socket calls.
        """

    @abstractmethod
    def abort(self) -> None:
        """Give up, because a turn raised; may be called when it has ended already."""


class Loop:
    """Turns tasks in a thread of its own, until `close`.

    Sockets are watched edge-triggered: a task is told once that it can read or write, and may go on
    until the socket would block. Times are kept to a fraction of a millisecond.
    """

    def __init__(self, name: str) -> None:
        self._poll = select.epoll()
        if self._poll.fileno() >= _HIGHEST:
            self._poll.close()
            raise FabricError(
                f"a relay needs a descriptor below {_HIGHEST}, which this process has all in use; "
                "build the network before so much is open"
            )
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._tasks: dict[int, Task] = {}
        self._ready: deque[Task] = deque()
        self._times: list[tuple[float, int, Task]] = []
        self._numbers = count()
        self._lock = threading.Lock()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # For other threads

    @property
    def closed(self) -> bool:
        """Whether nothing can be asked of it any more."""
        return self._closed

    def call(self, what: Callable[[], T]) -> T:
        """Call `what` in the loop's thread and return what it returns, or raise what it raises."""
        answer: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise FabricError("the relay has been closed: nothing can be asked of it any more")
            self._calls.append((what, answer))
            os.eventfd_write(self._wake, 1)
        try:
            return answer.result(PATIENCE)
        except TimeoutError:
            raise FabricError(f"the relay's thread did not answer within {PATIENCE:g} s") from None

    def close(self, last: Callable[[], None]) -> None:
        """End the thread, then call `last` to close what is left; may be called again."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.eventfd_write(self._wake, 1)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            raise FabricError(f"the relay's thread did not end within {PATIENCE:g} s")
        last()
        self._poll.close()
        os.close(self._wake)

    # For tasks, in the loop's thread

    def watch(self, sock: socket.socket, task: Task) -> None:
        """Tell `task` of everything that happens to `sock`, until `forget`."""
        self._poll.register(sock.fileno(), _EVERYTHING)
        self._tasks[sock.fileno()] = task

    def forget(self, fd: int) -> None:
        """Stop watching a socket that is about to be closed."""
        self._tasks.pop(fd, None)
        with suppress(FileNotFoundError):
            self._poll.unregister(fd)

    def stir(self, task: Task) -> None:
        """Give `task` a turn soon."""
        if not task.queued:
            task.queued = True
            self._ready.append(task)

    def _run(self) -> None:
        while not self._closed:
            for fd, event in self._wait():
                if fd == self._wake:
                    os.eventfd_read(fd)
                    continue
                task = self._tasks[fd]
                task.told(fd, event)
                self.stir(task)
            self._answer()
            self._stir_due()
            for _ in range(len(self._ready)):
                self._turn(self._ready.popleft())
        self._answer()

    def _wait(self) -> list[tuple[int, int]]:
        """Wait for events or the next time."""
        if not self._ready:
            left = self._times[0][0] - time.monotonic() if self._times else None
            # epoll's own timeout is in whole milliseconds.
            select.select([self._poll.fileno()], [], [], None if left is None else max(left, 0.0))
        return self._poll.poll(0)

    def _answer(self) -> None:
        """Do what other threads ask for."""
        while self._calls:
            what, answer = self._calls.popleft()
            try:
                answer.set_result(what())
            except Exception as error:  # noqa: BLE001 - it is the caller's
                answer.set_exception(error)

    def _stir_due(self) -> None:
        now = time.monotonic()
        while self._times and self._times[0][0] <= now:
            wake, _, task = heapq.heappop(self._times)
            if task.wake == wake:  # it has not been told another time since
                task.wake = math.inf
                self.stir(task)

    def _turn(self, task: Task) -> None:
        task.queued = False
        try:
            wake = task.turn()
        except Exception:  # one connection's trouble is not the others'
            log.exception("%s failed", task)
            wake = self._abort(task)
        if wake <= time.monotonic():
            self.stir(task)
            wake = math.inf
        elif wake != task.wake and wake < math.inf:
            heapq.heappush(self._times, (wake, next(self._numbers), task))
        task.wake = wake

    def _abort(self, task: Task) -> float:
        try:
            task.abort()
        except Exception:
            log.exception("%s could not even be given up", task)
        return math.inf
