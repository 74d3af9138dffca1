"""One run of a job on a network: plain workers on its hosts, restarted as `holdfast launch` does.

There is no Ray here: a drill is about workers and links, and its hosts are made for the occasion.
"""

import math
import os
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from holdfast.fabric.build import build
from holdfast.fabric.hosts import MEETING_PORT, HostsEngine
from holdfast.fabric.network import Network
from holdfast.fabric.script import Script
from holdfast.launch.attempt import Attempt, Phase
from holdfast.launch.console import Console
from holdfast.launch.drill.record import (
    Ended,
    FaultSpan,
    LinkEvent,
    RunRecord,
    StepEnd,
    Traffic,
)
from holdfast.launch.drill.spec import DrillSpec
from holdfast.launch.environment import (
    EVENTS_FD,
    RENDEZVOUS_FD,
    AttemptFacts,
    worker_environment,
)
from holdfast.launch.failure import choose_cause, decide, describe_failures
from holdfast.launch.logs import AttemptLogs, LineSplitter, next_attempt, parse_event
from holdfast.launch.run_folder import RunFolder
from holdfast.launch.signals import Signals
from holdfast.launch.spec import LaunchSpec, Node, Place, rank_table
from holdfast.launch.workers import GRACE, Exited, Output, Stream, WorkerCommand, WorkerGroup
from holdfast.runtime.metrics import read_metrics
from holdfast.runtime.worker import CONVENTIONS

POLL = 0.1
MEETING = 30.0
"""Seconds that the ranks have to find each other, at least."""

NOT_OURS = frozenset(
    {
        EVENTS_FD,
        RENDEZVOUS_FD,
        *(names for convention in CONVENTIONS for names in convention),
        "MASTER_ADDR",
        "MASTER_PORT",
    }
)
"""What a drill's workers don't take over from a job that whoever starts it may be part of."""


@dataclass
class _Seen:
    """What workers told so far; times are the monotonic clock's. Filled from several threads."""

    attempt: int = 0
    steps: list[StepEnd] = field(default_factory=list)
    links: list[LinkEvent] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)


class JobRun:
    """Runs the job once on a network of its own, under `script`.

    A script's times count from the end of the first step. `run` raises Interrupted, with everything
    ended and removed, if a signal came.
    """

    def __init__(
        self, spec: DrillSpec, name: str, script: Script, console: Console, signals: Signals
    ) -> None:
        self._spec = spec
        self._job: LaunchSpec = spec.job(name)
        self._script = script
        self._console = console
        self._signals = signals
        self._seen = _Seen()
        self._training = threading.Event()
        self._network: Network[HostsEngine] | None = None
        self._splitters: defaultdict[tuple[int, Stream], LineSplitter] = defaultdict(LineSplitter)

    def run(self) -> RunRecord:
        """Run it to its end."""
        began = time.monotonic()
        error: str | None = None
        status = 0
        with (
            RunFolder(self._job) as folder,
            build(self._spec.fabric, self._spec.topology, self._told) as network,
        ):
            self._network = network
            made = network.engine.now()
            steps = [each for each in self._script.entries if each.when.time is None]
            network.play(Script(tuple(steps)))
            stop = self._play_later(network)
            try:
                status, error = self._attempts(network, folder)
            finally:
                stop()
                never = tuple(str(each) for each in network.planned)
                ended = time.monotonic()
                network.heal()
            spans = _spans(network, made - began, ended - began)
            result = folder.result()
        metrics = read_metrics(self._job.run_dir)
        finished = result is not None and result.status == "finished"
        return RunRecord(
            seconds=ended - began,
            exit_status=status,
            weights_sha256=result.weights_sha256 if result is not None and finished else None,
            steps=result.steps if result is not None else 0,
            samples=result.samples if result is not None and finished else 0,
            metrics=result.metrics if result is not None else {},
            loss=tuple((each["step"], each["loss"]) for each in metrics if "loss" in each),
            starts=tuple(time - began for time in self._seen.starts),
            step_ends=tuple(_since(began, self._seen.steps)),
            links=tuple(_since(began, self._seen.links)),
            traffic=tuple(_since(began, self._seen.traffic)),
            ends=tuple(_since(began, self._seen.ends)),
            faults=spans,
            never_began=never if self._script.seed is None else (),
            error=error,
        )

    def _play_later(self, network: Network[HostsEngine]) -> Callable[[], None]:
        """Play what happens at times once the first step has ended; return what gives that up."""
        timed = Script(tuple(each for each in self._script.entries if each.when.time is not None))
        over = threading.Event()

        def play() -> None:
            self._training.wait()
            if not over.is_set():
                network.play(timed)

        def stop() -> None:
            over.set()
            self._training.set()
            thread.join()

        thread = threading.Thread(target=play, name="holdfast-script", daemon=True)
        thread.start()
        return stop

    def _attempts(self, network: Network[HostsEngine], folder: RunFolder) -> tuple[int, str | None]:
        """Repeat the attempt until one succeeds; return the exit status and what went wrong."""
        restarts = 0
        while True:
            number = next_attempt(self._job.run_dir)
            path = self._job.run_dir / f"attempt_{number}"
            with AttemptLogs(path, self._job.world_size) as logs:
                state = self._attempt(network, logs, folder, restarts)
                if not state.failures:
                    return 0, None
                cause = choose_cause(state.failures)
                report = describe_failures(
                    state.failures,
                    attempt=number,
                    stderr=logs.stderr_tail(cause.rank),
                    log=str(logs.path(cause.rank, "stderr")),
                    world_size=self._job.world_size,
                )
            decision = decide(
                state.failures,
                stepped=state.stepped,
                restarts=restarts,
                max_restarts=self._job.max_restarts,
            )
            if decision != "restart":
                return cause.exit_status, report
            restarts += 1
            folder.events.write("restart", restart=restarts, cause=cause.rank)
            self._console.problem(
                f"rank {cause.rank} on {cause.host} {cause.describe()}: restart {restarts} of "
                f"{self._job.max_restarts}"
            )

    def _attempt(
        self, network: Network[HostsEngine], logs: AttemptLogs, folder: RunFolder, restarts: int
    ) -> Attempt:
        """Start the workers and follow them to their ends."""
        self._seen.attempt = restarts
        self._splitters.clear()
        places = self._places()
        hosts = {place.rank: network.engine.hosts[place.node.host] for place in places}
        state = Attempt(places)
        self._seen.starts.append(time.monotonic())
        with WorkerGroup(self._commands(network, restarts)) as group:
            running = group.processes()
            for rank, pid in running.items():
                hosts[rank].adopt(pid, rank)
            stopped = False
            while (phase := state.phase(time.monotonic())) is not Phase.OVER:
                if self._signals.came:
                    state.stop_asked()
                if phase is Phase.STOPPING and not stopped:
                    stopped = True
                    group.begin_stop(GRACE)
                for event in group.poll(POLL):
                    if isinstance(event, Exited) and event.rank in running:
                        hosts[event.rank].forget(running.pop(event.rank))
                        self._last_lines(event.rank, state)
                    self._handle(event, state, logs, folder)
        self._signals.check()
        return state

    def _places(self) -> tuple[Place, ...]:
        nodes = [Node(host, host) for host in self._spec.topology.hosts]
        return rank_table(nodes, self._job.nproc_per_node)

    def _commands(self, network: Network[HostsEngine], restarts: int) -> list[WorkerCommand]:
        job = self._job
        base = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        facts = AttemptFacts(
            master_addr="",  # each host's own way to rank 0 is laid over it
            master_port=str(MEETING_PORT),
            token=secrets.token_hex(32),
            restart_count=restarts,
            resume="auto",
            device=job.device,
        )
        cores = max(1, len(os.sched_getaffinity(0)) // len(network.topology.hosts))
        commands = []
        for place in self._places():
            host = network.engine.hosts[place.node.host]
            environment = (
                base
                | worker_environment(job, place, facts, cores=cores, base=base)
                | network.engine.environment(place.node.host, place.rank, place.local_rank)
                | {
                    "HOLDFAST_CHECKSUM": base.get("HOLDFAST_CHECKSUM") or "fold",
                    "HOLDFAST_TIMEOUT_SECONDS": str(int(self._spec.timeout)),
                    "HOLDFAST_RENDEZVOUS_SECONDS": str(int(max(MEETING, self._spec.timeout))),
                }
            )
            argv = host.wrap([sys.executable, str(job.script), *job.args])
            commands.append(WorkerCommand(place.rank, tuple(argv), environment, os.getcwd()))
        return commands

    def _handle(
        self, event: Output | Exited, state: Attempt, logs: AttemptLogs, folder: RunFolder
    ) -> None:
        now = time.monotonic()
        match event:
            case Exited(rank, returncode, stopped):
                folder.events.write("worker exited", rank=rank, returncode=returncode)
                ended = Ended(now, rank, returncode, self._seen.attempt, stopped)
                self._seen.ends.append(ended)
                state.exited(rank, returncode, stopped=stopped, now=now)
            case Output(rank, "events", data):
                for line in self._splitters[rank, "events"].feed(data):
                    told = parse_event(line)
                    if told is None:
                        folder.events.write("malformed event", rank=rank, line=line[:200])
                        continue
                    state.worker_event(rank, told)
                    if told["event"] != "progress":
                        folder.events.append({**told, "rank": rank})
                    if rank == 0 and told["event"] in ("progress", "evaluated"):
                        self._console.event(told)
            case Output(rank, stream, data):
                logs.write(rank, stream, data)
                if not state.quiet(rank):
                    for line in self._splitters[rank, stream].feed(data):
                        self._console.worker_line(rank, stream, line)

    def _last_lines(self, rank: int, state: Attempt) -> None:
        """Show lines whose end never came."""
        for (of, stream), splitter in self._splitters.items():
            if of == rank and stream != "events" and not state.quiet(rank):
                for line in splitter.rest():
                    self._console.worker_line(rank, stream, line)

    def _told(self, rank: int, event: Mapping[str, Any]) -> None:
        """Take what a worker tells of itself while it runs, from a thread of its own."""
        seen, at = self._seen, event["time"]
        match event["event"]:
            case "step":
                seen.steps.append(StepEnd(at, rank, event["step"], seen.attempt))
                self._training.set()
            case "link lost":
                seen.links.append(LinkEvent(at, rank, event["peer"], True, event["why"]))
            case "link restored":
                seen.links.append(LinkEvent(at, rank, event["peer"], False))
            case "traffic":
                seen.traffic.append(
                    Traffic(at, rank, event["peer"], event["sent"], event["received"])
                )


def _spans(network: Network[HostsEngine], offset: float, seconds: float) -> tuple[FaultSpan, ...]:
    """Return each fault with its beginning and end."""
    happened = [replace(each, time=each.time + offset) for each in network.happened]
    ends = {each.number: each.time for each in happened if each.what == "ended"}
    return tuple(
        FaultSpan(each.number, each.fault, each.time, ended if ended <= seconds else None)
        for each in happened
        if each.what == "began" and each.time <= seconds
        for ended in [ends.get(each.number, math.inf)]
    )


def _since(began: float, seen: Sequence[Any]) -> list[Any]:
    """Return what was seen with its times counted from `began`, in their order."""
    moved = [replace(each, time=each.time - began) for each in list(seen)]
    return sorted(moved, key=lambda each: float(each.time))
