"""The workers of one node: child processes that are started, listened to and ended together.

One thread per group does it all: it starts the processes (the kernel ends them when *it* ends, see
`holdfast/exec.py`), reads their pipes, waits for their ends and stops them. It knows no Ray.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from holdfast import exec
from holdfast.errors import LaunchError
from holdfast.launch.environment import EVENTS_FD, RENDEZVOUS_FD
from holdfast.launch.mpiexec import Mpiexec, find_mpiexec
from holdfast.launch.spec import MPI_TRANSPORTS

Stream = Literal["events", "stdout", "stderr"]
STREAMS: tuple[Stream, ...] = ("events", "stdout", "stderr")

GRACE = 5.0
"""Seconds from SIGTERM to SIGKILL."""

BUFFER_LIMIT = 8 * 2**20
"""Bytes of output kept for a listener that is slow; then the pipes are left to fill."""

_READ_SIZE = 64 * 1024
_LAST_READS = 64  # of a pipe whose worker has ended; a child that left its group may still write
_UNKILLABLE = 10.0  # seconds after SIGKILL when a process must be gone
_EXEC = exec.__file__
_SWEEPER = str(Path(__file__).with_name("sweeper.py"))


@dataclass(frozen=True)
class WorkerCommand:
    """A worker to start: `environment` is the whole of it, but for the descriptors' variables."""

    rank: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str


@dataclass(frozen=True)
class Output:
    """Bytes as a worker wrote them; a line may come in pieces."""

    rank: int
    stream: Stream
    data: bytes


@dataclass(frozen=True)
class Exited:
    """A worker has ended and all it wrote has been told before.

    `returncode` is negative for a signal; `stopped` says that it was told to end.
    """

    rank: int
    returncode: int
    stopped: bool


WorkerEvent = Output | Exited


class _Sweeper:
    """The agent's side of `sweeper.py`. Raises OSError if it cannot be started."""

    def __init__(self) -> None:
        # With no file of Ray's open, so that Ray's own end isn't this process's.
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", _SWEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._pipe = _detached(process.stdin)
        process.wait()  # it lives on as nobody's child

    def add(self, group: int) -> None:
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        self._tell(f"-{group}\n")

    def close(self) -> None:
        os.close(self._pipe)

    def _tell(self, line: str) -> None:
        # Without its sweeper a node still ends its workers; only their own children could be left.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._pipe, line.encode())


@dataclass
class _Worker:
    """A running process and the read ends of its pipes that are still open."""

    rank: int
    process: subprocess.Popen[bytes]
    pidfd: int
    pipes: dict[Stream, int] = field(default_factory=dict)


class WorkerGroup:
    """Starts workers at once and owns them until `stop`; use `with`.

    `rendezvous`, a listening socket, goes to the worker of rank 0 and is closed here. Workers whose
    HOLDFAST_TRANSPORT is MPI's, which must be all ranks of the job, are made known to an mpiexec.
    Raises LaunchError, with nothing left running, if a process cannot be started;
    MissingDependency without mpiexec. Thread safe.
    """

    def __init__(
        self, commands: Sequence[WorkerCommand], rendezvous: socket.socket | None = None
    ) -> None:
        self._commands = tuple(commands)
        self._mpiexec: Mpiexec | None = None
        first = self._commands[0]
        self._mpiexec_program = (
            find_mpiexec(first.argv[0], first.environment.get("PATH", ""))
            if first.environment.get("HOLDFAST_TRANSPORT") in MPI_TRANSPORTS
            else None
        )
        self._rendezvous = rendezvous
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._workers: dict[int, _Worker] = {}
        self._changed = threading.Condition()
        # Guarded by the condition:
        self._events: deque[WorkerEvent] = deque()
        self._buffered = 0
        self._over = False
        self._kill_at: float | None = None  # when SIGKILL follows; None while nobody stops us
        started: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="holdfast-workers", daemon=True
        )
        self._thread.start()
        started.result()

    def __enter__(self) -> "WorkerGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def processes(self) -> dict[int, int]:
        """Return the process number of every worker that has not ended, by rank."""
        return {rank: worker.process.pid for rank, worker in self._workers.copy().items()}

    def poll(self, timeout: float, *, gather: float = 0.0) -> list[WorkerEvent]:
        """Return what has happened since the last call, waiting up to `timeout` seconds for it.

        Output is gathered for another `gather` seconds, a worker's end is told at once. An empty
        list means that nothing has happened, or that every worker's end has been told.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._events or self._over, timeout)
            self._changed.wait_for(
                lambda: (
                    self._over
                    or self._buffered >= BUFFER_LIMIT
                    or any(isinstance(event, Exited) for event in self._events)
                ),
                gather if self._events else 0.0,
            )
            events = list(self._events)
            self._events.clear()
            was_full, self._buffered = self._buffered >= BUFFER_LIMIT, 0
        if was_full:
            self._wake()
        return events

    def stop(self, grace: float = GRACE) -> None:
        """End every worker: SIGTERM to its process group, after `grace` seconds SIGKILL.

        Returns when all have ended. May be called again, also with less grace. Raises LaunchError
        if the kernel doesn't end one.
        """
        self.begin_stop(grace)
        self._thread.join(grace + _UNKILLABLE)
        if self._thread.is_alive():
            left = {rank: worker.process.pid for rank, worker in self._workers.copy().items()}
            raise LaunchError(
                f"workers (rank: process) {left} got SIGKILL and did not end within "
                f"{_UNKILLABLE:.0f} s: they are stuck in the kernel, on a dead disk or device"
            )

    def begin_stop(self, grace: float = GRACE) -> None:
        """Do as `stop` does, without waiting: the ends come from `poll`."""
        with self._changed:
            kill_at = time.monotonic() + grace
            self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)
        self._wake()

    def _wake(self) -> None:
        # After its end the thread has closed the pipe; a full one has a wake-up in it already.
        with self._changed, contextlib.suppress(BlockingIOError):
            if not self._over:
                os.write(self._wake_write, b"!")

    # Below: the group's thread.

    def _run(self, started: "Future[None]") -> None:
        sweeper = None
        try:
            sweeper = _Sweeper()
            if self._mpiexec_program is not None:
                first = self._commands[0]
                self._mpiexec = Mpiexec(
                    self._mpiexec_program, len(self._commands), first.environment, first.cwd
                )
                sweeper.add(self._mpiexec.pid)
            for command in self._commands:
                self._start(command, sweeper)
        except (OSError, ValueError, LaunchError) as error:
            self._kill_all()
            failure = LaunchError(f"a worker could not be started: {error}")
            failure.__cause__ = error
            self._finish(sweeper)
            started.set_exception(failure)
            return
        if self._rendezvous is not None:
            self._rendezvous.close()
        started.set_result(None)
        terminated = killed = False
        while self._workers:
            with self._changed:
                kill_at, full = self._kill_at, self._buffered >= BUFFER_LIMIT
            if kill_at is not None and not terminated:
                self._read(self._selector.select(0), sweeper, stopped=False)
                terminated = True
                self._signal_all(signal.SIGTERM)
                self._signal_all(signal.SIGCONT)  # a stopped process would not see SIGTERM
            if kill_at is not None and not killed and time.monotonic() >= kill_at:
                killed = True
                self._signal_all(signal.SIGKILL)
            self._listen(full)
            timeout = None
            if kill_at is not None and not killed:
                timeout = max(0.0, kill_at - time.monotonic())
            self._read(self._selector.select(timeout), sweeper, stopped=terminated)
        self._finish(sweeper)

    def _start(self, command: WorkerCommand, sweeper: _Sweeper) -> None:
        events_read, events_write = os.pipe2(os.O_CLOEXEC)
        environment = {**command.environment, EVENTS_FD: str(events_write)}
        passed = [events_write]
        if command.rank == 0 and self._rendezvous is not None:
            environment[RENDEZVOUS_FD] = str(self._rendezvous.fileno())
            passed.append(self._rendezvous.fileno())
        meeting = self._mpiexec.hand_over(command.rank, environment) if self._mpiexec else []
        try:
            process = subprocess.Popen(
                [sys.executable, "-S", "-E", _EXEC, str(os.getpid()), "--", *command.argv],
                env=environment,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[*passed, *meeting],
                start_new_session=True,  # its own process group, to be ended as one
            )
        except BaseException:
            os.close(events_read)
            raise
        finally:
            for descriptor in (events_write, *meeting):
                os.close(descriptor)
        sweeper.add(process.pid)
        worker = _Worker(command.rank, process, os.pidfd_open(process.pid))
        worker.pipes = {
            "events": events_read,
            "stdout": _detached(process.stdout),
            "stderr": _detached(process.stderr),
        }
        for pipe in worker.pipes.values():
            os.set_blocking(pipe, False)
        self._workers[command.rank] = worker
        self._selector.register(worker.pidfd, selectors.EVENT_READ, (worker, None))

    def _listen(self, full: bool) -> None:
        """Have the selector watch the pipes, or not if what they gave hasn't been fetched."""
        watched = self._selector.get_map()
        for worker in self._workers.values():
            for stream, pipe in worker.pipes.items():
                if not full and pipe not in watched:
                    self._selector.register(pipe, selectors.EVENT_READ, (worker, stream))
                elif full and pipe in watched:
                    self._selector.unregister(pipe)

    def _read(
        self,
        ready: list[tuple[selectors.SelectorKey, int]],
        sweeper: _Sweeper,
        *,
        stopped: bool,
    ) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, _READ_SIZE)
        ends: list[_Worker] = []
        told = []
        for key, _ in ready:
            if key.data is None:
                continue
            worker, stream = key.data
            if stream is None:
                ends.append(worker)
            else:
                told.append((STREAMS.index(stream), worker, stream))
        # A worker that tells why it fails does so before it prints its traceback: keep that order.
        for _, worker, stream in sorted(told, key=lambda each: each[0]):
            self._read_pipe(worker, stream)
        for worker in ends:
            self._end(worker, sweeper, stopped=stopped)

    def _read_pipe(self, worker: _Worker, stream: Stream) -> bool:
        """Read once; return whether there may be more."""
        pipe = worker.pipes[stream]
        try:
            data = os.read(pipe, _READ_SIZE)
        except BlockingIOError:
            return False
        if not data:
            self._close_pipe(worker, stream)
            return False
        self._put(Output(worker.rank, stream, data), len(data))
        return True

    def _close_pipe(self, worker: _Worker, stream: Stream) -> None:
        pipe = worker.pipes.pop(stream)
        if pipe in self._selector.get_map():
            self._selector.unregister(pipe)
        os.close(pipe)

    def _end(self, worker: _Worker, sweeper: _Sweeper, *, stopped: bool) -> None:
        # Its number is ours until it is reaped, so the group can only be its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.process.pid, signal.SIGKILL)
        for stream in STREAMS:
            for _ in range(_LAST_READS):
                if stream not in worker.pipes or not self._read_pipe(worker, stream):
                    break
            if stream in worker.pipes:
                self._close_pipe(worker, stream)
        self._selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        returncode = worker.process.wait()
        sweeper.remove(worker.process.pid)
        del self._workers[worker.rank]
        if self._mpiexec is not None:
            self._mpiexec.ended(worker.rank, returncode)
            if not self._workers:  # the agent may be ended as soon as all ends are told
                self._mpiexec.close()
        self._put(Exited(worker.rank, returncode, stopped), 0)

    def _put(self, event: WorkerEvent, size: int) -> None:
        with self._changed:
            self._events.append(event)
            self._buffered += size
            self._changed.notify_all()

    def _signal_all(self, signum: signal.Signals) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.process.pid, signum)

    def _kill_all(self) -> None:
        self._signal_all(signal.SIGKILL)
        for worker in self._workers.values():
            worker.process.wait()
            self._selector.unregister(worker.pidfd)
            os.close(worker.pidfd)
            for stream in STREAMS:
                self._close_pipe(worker, stream)
        self._workers.clear()

    def _finish(self, sweeper: _Sweeper | None) -> None:
        if self._mpiexec is not None:
            self._mpiexec.close()
            if sweeper is not None:
                sweeper.remove(self._mpiexec.pid)
        if sweeper is not None:
            sweeper.close()
        if self._rendezvous is not None:
            self._rendezvous.close()
        with self._changed:
            self._over = True
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._changed.notify_all()


def _detached(stream: IO[bytes] | None) -> int:
    """Take the descriptor out of the file that Popen made around it."""
    if stream is None:
        raise ValueError("not a pipe")
    descriptor = os.dup(stream.fileno())
    stream.close()
    return descriptor
