"""The controller: starts the ranks of the measured libraries, commands them, and ends them.

It listens on a socket in a folder of its own, which is there in every network namespace; each rank
connects, says the secret that it found in its environment, and then waits for commands
(`ranks/rank.py` has the other end). Everything waited for has a deadline; a rank that ends or keeps
silent is an error that quotes what it last printed; and whatever happens, leaving the controller's
`with` block ends every process that it started.
"""

import contextlib
import hmac
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from holdfast.errors import DeadlineExceeded, LaunchError, ProtocolError, WorkerFailed
from holdfast.launch.bandwidth.processes import (
    Host,
    Process,
    Program,
    quoted,
    signal_groups,
    spawn,
    wait_for_all,
    worker_failed,
)

LOOPBACK = "127.0.0.1"
MEETING_PORT = 29500
"""Ranks on hosts that are not this one meet at this port, or one of the next."""
LONGEST_MESSAGE = 1 << 20
Message = dict[str, Any]


@dataclass
class _Connection:
    """A rank that has said who it is."""

    stream: socket.socket
    pidfd: int
    unread: bytearray = field(default_factory=bytearray)


class RankGroup:
    """The ranks of one library: `run` gives all of them a command and returns their answers."""

    def __init__(self, name: str, world_size: int, version: str, deadline: float) -> None:
        self.name = name
        self.world_size = world_size
        self.version = version
        self._deadline = deadline
        self._processes: list[Process] = []
        self._connections: dict[int, _Connection] = {}

    def run(self, command: Mapping[str, object]) -> list[Message]:
        """Return every rank's answer, in order of rank; raise when one ends or keeps silent."""
        expires = time.monotonic() + self._deadline
        self._tell_all(command)
        answers: dict[int, Message] = {}
        waiting: set[int] = set()
        with selectors.DefaultSelector() as selector:
            for rank, connection in self._connections.items():
                selector.register(connection.stream, selectors.EVENT_READ, rank)
            while len(answers) < self.world_size:
                ready = selector.select(max(0.0, expires - time.monotonic()))
                if not ready:
                    silent = sorted(set(self._connections) - set(answers))
                    raise DeadlineExceeded(
                        f"{self.name}: rank {', '.join(map(str, silent))} of {self.world_size} did "
                        f"not answer {json.dumps(dict(command))} within {self._deadline:.0f} s."
                        f"{self._quoted(silent[0])}"
                    )
                for key, _ in ready:
                    rank = key.data
                    for message in self._messages(rank, command):
                        if message.get("waiting"):
                            waiting.add(rank)
                        else:
                            answers[rank] = message
                if len(waiting) == self.world_size:
                    waiting.clear()
                    self._tell_all({"start": True})
        return [answers[rank] for rank in sorted(answers)]

    def _tell_all(self, message: Mapping[str, object]) -> None:
        line = json.dumps(message).encode() + b"\n"
        for rank, connection in self._connections.items():
            try:
                connection.stream.sendall(line)
            except OSError:
                raise self._failure(rank, message) from None

    def _messages(self, rank: int, command: Mapping[str, object]) -> Iterator[Message]:
        connection = self._connections[rank]
        try:
            received = connection.stream.recv(1 << 16)
        except OSError:
            received = b""
        if not received:
            raise self._failure(rank, command)
        connection.unread += received
        while (end := connection.unread.find(b"\n")) >= 0:
            line = bytes(connection.unread[:end])
            del connection.unread[: end + 1]
            yield _message(line, f"{self.name} rank {rank}")
        if len(connection.unread) > LONGEST_MESSAGE:
            raise ProtocolError(
                f"{self.name} rank {rank}: a message of at most {LONGEST_MESSAGE} bytes was "
                f"expected, {len(connection.unread)} came without an end"
            )

    def _failure(self, rank: int, command: Mapping[str, object]) -> WorkerFailed:
        """Say that `rank` hung up; which process that is, and why, shows when it has ended."""
        expires = time.monotonic() + 2.0
        process = self._process_of(rank)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.child.wait(max(0.0, expires - time.monotonic()))
        return worker_failed(
            f"{self.name}: rank {rank} of {self.world_size} ended while it was to do "
            f"{json.dumps(dict(command))}",
            process,
            rank,
        )

    def _process_of(self, rank: int) -> Process:
        own = [process for process in self._processes if process.rank == rank]
        return own[0] if own else self._processes[0]

    def _quoted(self, rank: int) -> str:
        return quoted(self._process_of(rank).last_output())

    def hang_up(self) -> None:
        """Close the connections: a rank that waits for a command, or comes to, ends by itself."""
        for connection in self._connections.values():
            connection.stream.close()

    def close(self, *, grace: float) -> None:
        """End all processes: by hanging up, then by signals. May be called again."""
        self.hang_up()
        try:
            wait_for_all(self._processes, grace)
            # An mpiexec that is asked to end takes its ranks and its files with it.
            signal_groups(self._processes, signal.SIGTERM)
            wait_for_all(self._processes, 2.0)
        finally:
            signal_groups(self._processes, signal.SIGKILL)
            for connection in self._connections.values():
                # Ranks of an mpiexec may stand in process groups of their own.
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(connection.pidfd, signal.SIGKILL)
                os.close(connection.pidfd)
            for process in self._processes:
                process.child.wait()
                process.output.close()
            self._processes.clear()
            self._connections.clear()


class Controller:
    """Starts groups of ranks and owns them: use it in a `with` block.

    `deadline` is how many seconds a group may take for one command, `start_deadline` for its start
    (importing a large library takes seconds on a busy machine).
    """

    def __init__(self, *, deadline: float = 120.0, start_deadline: float = 120.0) -> None:
        self._deadline = deadline
        self._start_deadline = start_deadline
        self._groups: list[RankGroup] = []
        self._secret = secrets.token_hex(32)
        self._folder = tempfile.TemporaryDirectory(prefix="hf-bench-")
        self._path = Path(self._folder.name) / "controller"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(self._path))
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            self._folder.cleanup()
            raise LaunchError(
                f"no socket can be made at {self._path}: {error}; set TMPDIR to a folder with a "
                "short path"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Even after an error the groups that are whole get time: MPICH, killed, leaves its file in
        # /dev/shm behind.
        self.close(grace=10.0 if kind is None else 2.0)

    def close(self, *, grace: float = 10.0) -> None:
        """End all groups; a process that is there `grace` seconds after the hang-up is killed."""
        self._listener.close()
        self._folder.cleanup()
        for group in self._groups:
            group.hang_up()
        expires = time.monotonic() + grace
        with contextlib.ExitStack() as stack:
            for group in self._groups:
                stack.callback(_close_by, group, expires)
            self._groups = []

    def start(
        self, program: Program, world_size: int, hosts: Sequence[Host] | None = None
    ) -> RankGroup:
        """Start the ranks of `program` and return when all of them are connected to each other.

        With `hosts` rank r runs on the r-th; else all run here and meet on the loopback interface.
        An mpiexec knows by itself where its ranks run.
        """
        group = RankGroup(program.name, world_size, "", self._deadline)
        self._groups.append(group)
        try:
            if program.mpiexec:
                self._spawn_by_mpiexec(program, world_size, group._processes)
            elif hosts is None:
                self._spawn_here(program, world_size, group._processes)
            else:
                port = MEETING_PORT + len(self._groups)  # some libraries go on listening there
                self._spawn_on(hosts, port, program, group._processes)
        except OSError as error:
            raise LaunchError(f"{program.name} cannot be started: {error}") from error
        self._await_ranks(group)
        return group

    def _spawn_by_mpiexec(
        self, program: Program, world_size: int, processes: list[Process]
    ) -> None:
        command = [*program.mpiexec, "-n", str(world_size), *_command(program)]
        processes.append(self._process(program, command, {}, None))

    def _spawn_here(self, program: Program, world_size: int, processes: list[Process]) -> None:
        token = secrets.token_hex(32)
        with socket.create_server((LOOPBACK, 0), backlog=world_size) as rendezvous:
            for rank in range(world_size):
                # Rank 0 inherits the socket: nobody can take the port in between.
                inherited = [rendezvous.fileno()] if rank == 0 else []
                place = {
                    "rank": rank,
                    "world_size": world_size,
                    "address": LOOPBACK,
                    "master_addr": LOOPBACK,
                    "master_port": rendezvous.getsockname()[1],
                    "listen_fd": rendezvous.fileno() if rank == 0 else None,
                    "token": token,
                }
                command = _command(program)
                processes.append(self._process(program, command, place, rank, inherited))

    def _spawn_on(
        self, hosts: Sequence[Host], port: int, program: Program, processes: list[Process]
    ) -> None:
        token = secrets.token_hex(32)
        for rank, host in enumerate(hosts):
            place = {
                "rank": rank,
                "world_size": len(hosts),
                "address": host.address(),
                "master_addr": hosts[0].address(),
                "master_port": port,
                "listen_fd": None,
                "token": token,
            }
            command = host.wrap(_command(program))
            processes.append(self._process(program, command, place, rank))

    def _process(
        self,
        program: Program,
        command: Sequence[str],
        place: Mapping[str, object],
        rank: int | None,
        inherited: Sequence[int] = (),
    ) -> Process:
        settings = {**program.settings, **place, "timeout": self._deadline}
        environment = {
            **os.environ,
            "HOLDFAST_BENCH_CONTROLLER": str(self._path),
            "HOLDFAST_BENCH_SECRET": self._secret,
            "HOLDFAST_BENCH_SETTINGS": json.dumps(settings),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "1",
            **program.environment,
        }
        return spawn(command, environment, rank, inherited)

    def _await_ranks(self, group: RankGroup) -> None:
        expires = time.monotonic() + self._start_deadline
        watched: list[int] = []
        with selectors.DefaultSelector() as selector:
            try:
                selector.register(self._listener, selectors.EVENT_READ, None)
                for process in group._processes:
                    watched.append(os.pidfd_open(process.child.pid))
                    selector.register(watched[-1], selectors.EVENT_READ, process)
                while len(group._connections) < group.world_size:
                    ready = selector.select(max(0.0, expires - time.monotonic()))
                    if not ready:
                        raise DeadlineExceeded(
                            f"{group.name}: {group.world_size} ranks were to connect within "
                            f"{self._start_deadline:.0f} s, {len(group._connections)} did."
                            f"{group._quoted(0)}"
                        )
                    for key, _ in ready:
                        if key.data is None:
                            self._admit(group)
                        else:
                            ended: Process = key.data
                            ended.child.wait()
                            raise worker_failed(
                                f"{group.name}: {ended.who} ended before all ranks were there",
                                ended,
                                ended.rank or 0,
                            )
            finally:
                for pidfd in watched:
                    os.close(pidfd)

    def _admit(self, group: RankGroup) -> None:
        """Take one connection; hang up on whoever does not say the secret."""
        stream, _ = self._listener.accept()
        stream.settimeout(5.0)
        try:
            hello = _message(_first_line(stream), "a connecting process")
            if not hmac.compare_digest(str(hello["secret"]), self._secret):
                raise ProtocolError("a connecting process does not know the secret")
            rank, world_size, pid = int(hello["rank"]), int(hello["world_size"]), int(hello["pid"])
        except (OSError, ProtocolError, KeyError, ValueError):
            # Any process of this machine may knock; ranks that are missing are reported in time.
            stream.close()
            return
        if world_size != group.world_size or rank in group._connections:
            stream.close()
            raise LaunchError(
                f"{group.name}: ranks of one group of {group.world_size} were expected, a process "
                f"came that is rank {rank} of {world_size}: its mpiexec and mpi4py belong to two "
                f"different MPI libraries. Install both in one environment."
            )
        try:
            group._connections[rank] = _Connection(stream, os.pidfd_open(pid))
        except ProcessLookupError:
            stream.close()  # it has ended meanwhile, which its starter reports
            return
        group.version = str(hello["version"])


def _command(program: Program) -> list[str]:
    rank_program = Path(__file__).with_name("ranks") / "rank.py"
    # -P: the programs' folder must not hide modules that the library imports.
    return [str(program.python), "-P", str(rank_program), program.task, str(program.path)]


def _close_by(group: RankGroup, expires: float) -> None:
    group.close(grace=max(0.0, expires - time.monotonic()))


def _first_line(stream: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        received = stream.recv(1 << 16)
        if not received or len(line) > LONGEST_MESSAGE:
            raise ProtocolError("a connecting process did not send a line")
        line += received
    return line


def _message(line: bytes, sender: str) -> Message:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"{sender}: a line of JSON was expected: {error}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"{sender}: a JSON object was expected, {type(message).__name__} came")
    return message
