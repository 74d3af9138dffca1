"""Hosts that run real processes, and what relays and the kernel have in common about them.

A host has addresses, starts processes, and can be paused and killed. What is written here does not
know how packets are broken: that is a subclass's part.
"""

import contextlib
import heapq
import os
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import IO, Any

from holdfast import exec
from holdfast.errors import FabricError
from holdfast.fabric.condition import Condition, Place
from holdfast.fabric.leftovers import Traces, start_time
from holdfast.fabric.network import Network
from holdfast.fabric.script import When
from holdfast.fabric.stage import Stage
from holdfast.fabric.topology import NetworkName, Nic, Topology

MEETING_PORT = 29500
"""Where rank 0 listens for the others."""
LINK_PORT = 29600
"""Where a host's first worker listens for links; its second one at the next port, and so on."""

ToldBy = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class _Group:
    """A process group, known by its leader's number and start time: nobody else's is signalled."""

    number: int
    began: int | None
    rank: int | None

    def lives(self) -> bool:
        """Return whether its leader, or a member that is left without it, may still run."""
        if start_time(self.number) not in (None, self.began):
            return False  # the number is another process's by now
        try:
            os.killpg(self.number, 0)
        except ProcessLookupError:
            return False
        return True

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to its members."""
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.number, signum)


class Host(ABC):
    """One host; made by its engine, which closes it. Thread-safe."""

    def __init__(self, name: str, traces: Traces) -> None:
        self.name = name
        self._traces = traces
        self._groups: dict[int, _Group] = {}
        self._paused = 0
        self._lock = threading.Lock()

    @abstractmethod
    def address(self, network: NetworkName = "data") -> str:
        """Return the address that this host's processes bind to, as servers and as clients.

        A process that binds to another one is not on the network.
        """

    @abstractmethod
    def public(self, port: int, network: NetworkName = "data") -> tuple[str, int]:
        """Return where the other hosts reach what listens here on `address(network)` and `port`."""

    @abstractmethod
    def wrap(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv`, whose first is an absolute path, on this host."""

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        rank: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a process here, in a session of its own; it ends with the thread that starts it."""
        process = subprocess.Popen(
            [sys.executable, "-S", "-E", exec.__file__, str(os.getpid()), "--", *self.wrap(argv)],
            env=env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self.adopt(process.pid, rank)
        return process

    def adopt(self, group: int, rank: int | None = None) -> None:
        """Take a process group, known by its leader, as this host's: the worker of `rank`, say."""
        self._traces.started(group)
        with self._lock:
            self._groups = {number: each for number, each in self._groups.items() if each.lives()}
            self._groups[group] = _Group(group, start_time(group), rank)
            if self._paused:
                self._groups[group].signal(signal.SIGSTOP)

    def forget(self, group: int) -> None:
        """Take note that a process group's leader is about to be reaped."""
        with self._lock:
            self._groups.pop(group, None)

    def pause(self) -> None:
        """Stop its processes; as often as it is paused it must `resume`."""
        with self._lock:
            self._paused += 1
            self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let its processes go on."""
        with self._lock:
            self._paused -= 1
            if not self._paused:
                self._signal_all(signal.SIGCONT)

    def kill(self, rank: int | None = None) -> None:
        """End its processes, or only the worker of `rank`."""
        with self._lock:
            for group in self._groups.values():
                if rank in (None, group.rank):
                    group.signal(signal.SIGKILL)

    def _signal_all(self, signum: signal.Signals) -> None:
        for group in self._groups.values():
            group.signal(signum)


class HostsEngine(ABC):
    """An engine whose hosts run processes: time, the stage, hosts' faults. A subclass adds packets.

    `told(rank, event)` is called with what workers tell, from other threads.
    """

    name: str
    kinds: frozenset[str]

    def __init__(self, topology: Topology, told: ToldBy | None = None) -> None:
        self.topology = topology
        self.traces = Traces()
        self.hosts: dict[str, Host] = {}
        self.network: Network[Any] | None = None
        """Whose `reached` is called when a worker comes to a moment; its maker sets it."""
        self._told = told
        self._closed = False
        self._errors: list[Exception] = []
        self._timer = Timer(self._errors)
        try:
            self.stage = Stage(self.traces.folder, self._reached, self._tell)
        except OSError as error:
            self._timer.close()
            self.traces.remove()
            raise FabricError(
                f"no socket can be made in {self.traces.folder}: {error}; set TMPDIR to a folder "
                "with a short path"
            ) from None

    @abstractmethod
    def impose(self, total: Mapping[Place, Condition]) -> None:
        """Let these conditions hold from now on, and no others."""

    @abstractmethod
    def reset(self, where: frozenset[Place], one_end: str | None) -> None:
        """Break the connections that pass there; tell both ends, or only host `one_end`."""

    @abstractmethod
    def remove(self) -> None:
        """Remove what the subclass made; called once, when all processes have ended."""

    def now(self) -> float:
        """Return the monotonic clock's time, which is every process's."""
        return time.monotonic()

    def call_later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called in `delay` seconds; return what cancels it."""
        return self._timer.call_later(delay, call)

    def pause(self, host: str) -> Callable[[], None]:
        """Stop a host's processes; return what has them go on."""
        self.hosts[host].pause()
        return self.hosts[host].resume

    def kill(self, host: str) -> None:
        """End a host's processes at once."""
        self.hosts[host].kill()

    def kill_worker(self, rank: int) -> None:
        """End one worker at once, if it runs."""
        for host in self.hosts.values():
            host.kill(rank)

    def trouble_disk(self, host: str, rate: float | None) -> Callable[[], None]:
        """Make a host's disk full (None) or slow for its workers; return what heals it."""
        return self.stage.trouble_disk(host, rate)

    def await_moments(self, moments: tuple[When, ...]) -> None:
        """Have workers that come to one of these moments say so and wait."""
        self.stage.await_moments(moments)

    def close(self) -> None:
        """End every process and remove everything; may be called again.

        Raises what went wrong with a fault that happened on its own, at a time or a step.
        """
        if self._closed:
            return
        self._closed = True
        self._timer.close()
        for host in self.hosts.values():
            host.kill()
        self.stage.close()
        try:
            self.remove()
        finally:
            self.traces.remove()
        if self._errors:
            raise self._errors[0]

    def environment(self, host: str, rank: int, local_rank: int = 0) -> dict[str, str]:
        """Return the variables that put a worker on `host`; rank 0 is on the first host."""
        here, first = self.hosts[host], self.hosts[self.topology.hosts[0]]
        port = LINK_PORT + local_rank
        public, public_port = here.public(port)
        if rank == 0:
            meeting, meeting_port = first.address("control"), MEETING_PORT
        else:
            meeting, meeting_port = first.public(MEETING_PORT, "control")
        return {
            "MASTER_ADDR": meeting,
            "MASTER_PORT": str(meeting_port),
            "HOLDFAST_ADDRESS": here.address(),
            "HOLDFAST_CONTROL_ADDRESS": here.address("control"),
            "HOLDFAST_PORT": str(port),
            "HOLDFAST_PUBLIC_ADDRESS": f"{public}:{public_port}",
            "HOLDFAST_HOST": host,
            "HOLDFAST_STAGE": str(self.stage.path),
        }

    def nic_of(self, host: str, network: NetworkName) -> Nic:
        """Return the NIC that a host's `address(network)` belongs to."""
        return self.topology.nic(host, network)

    def _reached(self, rank: int, step: int, phase: str) -> None:
        if self.network is not None:
            try:
                self.network.reached(rank, step, phase)
            except Exception as error:  # noqa: BLE001 - whoever closes the network is told
                self._errors.append(error)

    def _tell(self, rank: int, event: Mapping[str, Any]) -> None:
        if self._told is not None:
            self._told(rank, event)


class Timer:
    """Calls things later, one at a time, in a thread of its own; `errors` gets what they raise."""

    def __init__(self, errors: list[Exception]) -> None:
        self._wake = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._cancelled: set[int] = set()
        self._errors = errors
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="holdfast-timer", daemon=True)
        self._thread.start()

    def call_later(self, delay: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have `call` called in `delay` seconds; return what cancels it."""
        with self._wake:
            number = next(self._numbers)
            heapq.heappush(self._due, (time.monotonic() + delay, number, call))
            self._wake.notify()
        return lambda: self._cancel(number)

    def _cancel(self, number: int) -> None:
        with self._wake:
            if any(number == each for _, each, _ in self._due):
                self._cancelled.add(number)

    def close(self) -> None:
        """Forget what was to come; may be called again."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and (not self._due or self._due[0][0] > time.monotonic()):
                    self._wake.wait(self._due[0][0] - time.monotonic() if self._due else None)
                if self._closed:
                    return
                _, number, call = heapq.heappop(self._due)
            if number in self._cancelled:
                self._cancelled.discard(number)
            else:
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - whoever closes the network is told
                    self._errors.append(error)
