"""Collectives in the order in which they were asked for, carried out by whoever waits.

A queue holds calls that were made asynchronously. A thread carries them out while the caller
computes; a caller that waits takes over what the thread has not begun, which spares a switch of
threads. One lock, the engine's, is held while a call is carried out, so one at a time is.

A `Staged` call may be begun while those before it wait for their peers: what it sends does not
depend on them, and the wire need not be idle until they have ended. Whoever asks for it begins it,
without a switch of threads, if nobody uses the wire just then.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from itertools import chain
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar, cast

from holdfast.errors import CommunicationError, DeadlineExceeded

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

IDLE_SECONDS = 0.05
"""How often an idle queue looks after its links."""

LEAVE_SECONDS = 10.0
"""How long a queue that closes waits for another thread to come out of the call it is in."""


class Staged(ABC, Generic[T]):
    """A call whose beginning waits for nobody: a callable that does the rest, and what goes before.

    The wire is the caller's alone while one of its methods runs, but for where it waits.
    """

    issued = False
    """Whether all that it sends and awaits is on its way: then the next call may begin."""

    @abstractmethod
    def begin(self) -> None:
        """Do what does not wait; nothing if that is done, or cannot be done yet."""

    @abstractmethod
    def __call__(self) -> T:
        """Do all that is not done yet; return the call's result."""


class Work(Protocol[T_co]):
    """A collective that was begun with `async_op=True`."""

    def done(self) -> bool:
        """Return whether it has ended, well or not."""

    def wait(self, timeout: float | None = None) -> T_co:
        """Return the collective's result when it has ended; raise its error if it failed.

        Raises DeadlineExceeded after `timeout` seconds (None: the group's own deadline decides);
        the collective goes on, and `wait` may be called again.
        """


class QueuedWork(Generic[T]):
    """A `Work` that a queue carries out."""

    def __init__(self, queue: "WorkQueue", call: Callable[[], T]) -> None:
        self._queue = queue
        self._call: Callable[[], T] | None = call
        self._result: T | None = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether it has ended, well or not."""
        return self._call is None

    def wait(self, timeout: float | None = None) -> T:
        """See `Work`; a call that this thread has taken over is finished first."""
        self._queue._carry_out(self, timeout)
        if self._error is not None:
            raise self._error
        return cast(T, self._result)

    def _run(self) -> None:
        call = self._call
        assert call is not None
        try:
            self._queue._check()
            self._result = self._queue._guard(call)
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise  # an interrupt is this thread's; whoever waits later is told of it, too
        finally:
            self._call = None


class Rest:
    """What a transport is in while it sleeps: this one, where nobody else uses it, does nothing."""

    hurried = True
    """Whether somebody waits for what it does: then it looks again and again before it sleeps."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class Asleep(Rest):
    """The engine waits and leaves the wire alone: others may begin their calls meanwhile."""

    def __init__(self, queue: "WorkQueue") -> None:
        self._queue = queue

    def __enter__(self) -> None:
        self._queue._leave_wire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._queue._wire.acquire()


class WorkQueue:
    """The calls of one communicator, first come, first served.

    `asleep` is a context for those calls: entered while one waits for its peers, and touches
    nothing that others need.
    """

    def __init__(
        self,
        name: str,
        *,
        idle: Callable[[], None] | None = None,
        abort: Callable[[], None] | None = None,
    ) -> None:
        """`idle` is called every `IDLE_SECONDS` while there is nothing to carry out.

        `abort` is called from another thread by `close`, and makes the call that is being carried
        out fail soon.
        """
        self.asleep = Asleep(self)
        self._name = name
        self._idle = idle
        self._abort = abort
        self._pending: deque[QueuedWork[Any]] = deque()
        self._running: Callable[[], Any] | None = None
        self._engine = threading.Lock()  # held by whoever carries out calls
        self._wire = threading.Lock()  # held, too, by whoever moves anything
        self._asked = False  # somebody found the wire taken
        self._wake = threading.Condition()
        self._closed = False
        self._broken: BaseException | None = None
        self._thread: threading.Thread | None = None
        if idle is not None:
            self._start()

    def submit(self, call: Callable[[], T]) -> QueuedWork[T]:
        """Queue `call` for the thread and return its handle at once; begin it, if that can be."""
        work = QueuedWork(self, call)
        with self._wake:
            self._check()
            self._pending.append(work)
            if self._thread is None:
                self._start()
            self._wake.notify()
        self._begin_some()
        return work

    def run(self, call: Callable[[], T]) -> T:
        """Carry out `call` in this thread, after all that was queued before it."""
        if self._engine.acquire(blocking=False):
            try:
                if not self._pending:
                    self._check()
                    with self._wire:
                        return self._guard(call)
            finally:
                self._engine.release()
        work = QueuedWork(self, call)
        with self._wake:
            self._check()
            self._pending.append(work)
        self._begin_some()
        return work.wait()

    @property
    def broken(self) -> bool:
        """Whether a call failed or was dropped, so that the ranks are out of step."""
        return self._broken is not None

    def close(self) -> None:
        """Drop what is queued, break off what is being carried out; may be called again."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            if self._engine.locked() and self._abort is not None:
                self._abort()  # whichever thread carries it out
            if self._thread is not None:
                self._thread.join()
        # What the call uses may go when this returns. It has been told to end, if that can be.
        if self._engine.acquire(timeout=LEAVE_SECONDS):
            try:
                while self._pending:
                    work = self._pending.popleft()
                    work._run()  # whoever waits for it is told that the queue is closed
                    self._broken = self._broken or work._error
            finally:
                self._engine.release()

    def _check(self) -> None:
        if self._closed:
            raise CommunicationError(f"{self._name} is closed")
        if self._broken is not None:
            kind = type(self._broken)
            if not issubclass(kind, CommunicationError):
                kind = CommunicationError
            raise kind(f"{self._name} broke before this call: {self._broken}") from self._broken

    def _guard(self, call: Callable[[], T]) -> T:
        """Call it; if it fails in any way, the ranks are out of step for good."""
        self._running = call
        try:
            return call()
        except BaseException as error:
            self._broken = error
            raise
        finally:
            self._running = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
        self._thread.start()

    # Beginning calls while others wait

    def _begin_some(self) -> None:
        """Begin the calls whose turn it is to begin; if the wire is taken, its user does it."""
        self._asked = True
        if self._wire.acquire(blocking=False):
            self._leave_wire()

    def _leave_wire(self) -> None:
        """Begin what may begin, and release the wire, so that no call is overlooked."""
        while True:
            self._asked = False
            try:
                self._look_ahead()
            finally:
                self._wire.release()
            if not self._asked or not self._wire.acquire(blocking=False):
                return

    def _look_ahead(self) -> None:
        if self._closed or self._broken is not None:
            return
        pending = (work._call for work in tuple(self._pending))
        for call in chain((self._running,), pending):  # seldom beyond the first few of many
            if call is None:
                continue
            if not isinstance(call, Staged):
                return
            if not call.issued and call is not self._running:
                try:
                    call.begin()
                except BaseException as error:  # what waits for it is told
                    self._broken = error
                    if not isinstance(error, Exception):
                        raise
                    return
            if not call.issued:
                return

    # Carrying them out

    def _run_next(self) -> None:
        with self._wire:
            self._pending.popleft()._run()

    def _carry_out(self, work: QueuedWork[Any], timeout: float | None) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        self.asleep.hurried = True
        while not work.done():
            left = -1.0 if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._engine.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                raise DeadlineExceeded(f"{self._name}: not done after {timeout:.3g} s")
            try:
                if self._pending and not work.done():
                    self._run_next()
            finally:
                self._engine.release()

    def _loop(self) -> None:
        while True:
            with self._wake:
                if not self._pending and not self._closed:
                    self._wake.wait(IDLE_SECONDS if self._idle else None)
                if self._closed:
                    return
            if self._pending:
                with self._engine:
                    if self._pending and not self._closed:
                        # Its looks would take the processor from whoever computes meanwhile.
                        self.asleep.hurried = False
                        try:
                            self._run_next()
                        finally:
                            self.asleep.hurried = True
            elif self._idle is not None and self._engine.acquire(blocking=False):
                try:
                    if self._broken is None:
                        with self._wire:
                            self._guard(self._idle)
                except Exception:  # noqa: BLE001 - kept by _guard: the next call raises it
                    pass
                finally:
                    self._engine.release()
