"""One attempt on Ray's nodes: tell the agents to start, pass on what they tell, have them stop.

The loop only passes on: where the attempt stands is `Attempt`'s to say.
"""

import os
import re
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError

from holdfast.errors import HoldfastError, LaunchError
from holdfast.launch.agent import NodeFacts
from holdfast.launch.attempt import Attempt, Phase
from holdfast.launch.console import Console
from holdfast.launch.environment import (
    AttemptFacts,
    base_environment,
    takes_gpus,
    worker_environment,
)
from holdfast.launch.logs import AttemptLogs, EventLog, LineSplitter, parse_event
from holdfast.launch.ray_cluster import Placement
from holdfast.launch.signals import Interrupted, Signals
from holdfast.launch.spec import LaunchSpec, Node, rank_table
from holdfast.launch.workers import GRACE, Exited, Output, Stream, WorkerCommand

POLL = 2.0
"""Seconds that an agent waits for events before it answers that there are none."""

STOP_DEADLINE = GRACE + 5.0
"""Seconds after which a node that was told to stop and doesn't answer counts as lost."""

_TICK = 0.1
_PAUSE = 0.5  # before an agent that Ray calls unavailable is asked again


class NodeLost(Exception):
    """An agent is gone, and perhaps its node with it."""

    def __init__(self, group_rank: int, reason: str) -> None:
        super().__init__(reason)
        self.group_rank = group_rank
        self.reason = reason


@dataclass(frozen=True)
class Outlets:
    """Where an attempt's output and events go."""

    console: Console
    logs: AttemptLogs
    events: EventLog


class RayAttempt:
    """Runs one attempt on `placement`; `state` says how it went, `lost_node` whether one is gone.

    `environment` is the launcher's, `own_node_id` the node that it belongs to.
    """

    def __init__(
        self,
        spec: LaunchSpec,
        placement: Placement,
        outlets: Outlets,
        signals: Signals,
        *,
        environment: Mapping[str, str],
        own_node_id: str,
    ) -> None:
        self._spec = spec
        self._placement = placement
        self._outlets = outlets
        self._signals = signals
        self._environment = environment
        self._own_node_id = own_node_id
        nodes = [Node(machine.host, machine.address) for machine in placement.machines]
        self._places = rank_table(nodes, spec.nproc_per_node)
        self._splitters: defaultdict[tuple[int, Stream], LineSplitter] = defaultdict(LineSplitter)
        self.state = Attempt(self._places)
        self.lost_node = False

    def run(self, *, restart_count: int, resume: str, device: str) -> None:
        """Start the workers and return when all have ended.

        Raises Interrupted, after they have ended, if a signal came; LaunchError or UsageError, with
        nothing left running, if they cannot be started.
        """
        try:
            self._start(restart_count, resume, device)
            self._relay()
        except NodeLost as lost:
            # While they were being started. What runs already ends with the placement.
            self._lose(lost)
            self.state.abandon("the others were not all started", time.monotonic())
        except (HoldfastError, Interrupted):
            self._placement.remove()
            raise

    def _start(self, restart_count: int, resume: str, device: str) -> None:
        spec, agents = self._spec, self._placement.agents
        cwd = os.getcwd()
        facts: list[NodeFacts] = self._answers(
            [agent.facts.remote(str(spec.script), cwd) for agent in agents]
        )
        address = "127.0.0.1" if spec.nnodes == 1 else self._places[0].node.address
        [port] = self._answers([agents[0].open_rendezvous.remote(address)])
        attempt = AttemptFacts(
            master_addr=address,
            master_port=str(port),
            token=secrets.token_hex(32),
            restart_count=restart_count,
            resume=resume,
            device=device,
        )
        commands: list[list[WorkerCommand]] = [[] for _ in agents]
        for place in self._places:
            node = facts[place.group_rank]
            machine = self._placement.machines[place.group_rank]
            base = base_environment(
                self._environment,
                node.environment,
                same_node=machine.node_id == self._own_node_id,
                with_devices=takes_gpus(spec, device),
            )
            ours = worker_environment(spec, place, attempt, cores=node.cores, base=base)
            argv = (node.python, str(spec.script), *spec.args)
            commands[place.group_rank].append(WorkerCommand(place.rank, argv, base | ours, cwd))
        self._answers(
            [agent.start.remote(each) for agent, each in zip(agents, commands, strict=True)]
        )
        self._outlets.events.write(
            "started",
            restart=restart_count,
            device=device,
            transport=spec.resolved_transport,
            ranks=[{"rank": place.rank, "host": place.node.host} for place in self._places],
        )

    def _answers(self, refs: Sequence[Any]) -> list[Any]:
        """Return what each agent answers; `refs` are in the order of the nodes.

        Raises NodeLost, what the agent raised, or Interrupted.
        """
        waiting = list(refs)
        while waiting:
            self._signals.check()
            _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=_TICK)
        return [_answer(ref, group) for group, ref in enumerate(refs)]

    def _relay(self) -> None:
        """Pass on what the agents tell until every worker has ended."""
        agents = self._placement.agents
        received = [0] * len(agents)
        due = dict.fromkeys(range(len(agents)), 0.0)  # node -> when to ask it again
        asked: dict[Any, int] = {}
        stopped_at: float | None = None
        while True:
            now = time.monotonic()
            if self._signals.came:
                self.state.stop_asked()
            phase = self.state.phase(now)
            if phase is Phase.OVER:
                break
            if phase is Phase.STOPPING and stopped_at is None:
                stopped_at = now
                for agent in agents:
                    agent.stop.remote(GRACE)
            running = {self._places[rank].group_rank for rank in self.state.running}
            for group in [group for group in running & due.keys() if due[group] <= now]:
                del due[group]
                asked[agents[group].poll.remote(received[group], POLL)] = group
            ready, _ = ray.wait(list(asked), timeout=_TICK) if asked else ([], [])
            if not asked:
                time.sleep(_TICK)
            for ref in ready:
                group = asked.pop(ref)
                try:
                    received[group], events = _answer(ref, group)
                except ActorUnavailableError:
                    due[group] = now + _PAUSE
                    continue
                except NodeLost as lost:
                    self._lose(lost)
                    continue
                for event in events:
                    self._handle(event)
                due[group] = 0.0
            if stopped_at is not None and now - stopped_at >= STOP_DEADLINE:
                for group in running:
                    self._lose(NodeLost(group, f"no answer for {STOP_DEADLINE:.0f} s"))
        if stopped_at is not None:
            self._signals.check()

    def _lose(self, lost: NodeLost) -> None:
        self.lost_node = True
        host = self._placement.machines[lost.group_rank].host
        self._outlets.events.write("node lost", host=host, reason=lost.reason)
        self.state.node_lost(lost.group_rank, lost.reason, time.monotonic())

    def _handle(self, event: Output | Exited) -> None:
        match event:
            case Exited(rank, returncode, stopped):
                for (of, stream), splitter in self._splitters.items():
                    if of == rank:
                        self._lines(rank, stream, splitter.rest())
                self._outlets.events.write(
                    "worker exited", rank=rank, returncode=returncode, stopped=stopped
                )
                self.state.exited(rank, returncode, stopped=stopped, now=time.monotonic())
            case Output(rank, stream, data):
                if stream != "events":
                    self._outlets.logs.write(rank, stream, data)
                self._lines(rank, stream, self._splitters[rank, stream].feed(data))

    def _lines(self, rank: int, stream: Stream, lines: Sequence[str]) -> None:
        for line in lines:
            if stream == "events":
                self._worker_event(rank, line)
            elif not self.state.quiet(rank):
                self._outlets.console.worker_line(rank, stream, line)

    def _worker_event(self, rank: int, line: str) -> None:
        event = parse_event(line)
        if event is None:
            self._outlets.events.write("malformed event", rank=rank, line=line[:200])
            return
        self.state.worker_event(rank, event)
        if event["event"] != "progress":  # the run's metrics have those
            self._outlets.events.append({**event, "rank": rank})
        if rank == 0:
            self._outlets.console.event(event)
        elif event["event"] == "notice":
            self._outlets.console.worker_line(rank, "stdout", str(event.get("text", "")))


def _answer(ref: Any, group: int) -> Any:
    """Return what an agent answered. Raises what it raised, NodeLost if it is gone."""
    try:
        return ray.get(ref)
    except ActorUnavailableError:
        raise
    except RayActorError as error:
        raise NodeLost(group, _why(error)) from error
    except RayTaskError as error:
        if isinstance(error.cause, HoldfastError):
            raise error.cause from None
        raise LaunchError(f"the agent of node {group} failed: {error}") from error


def _why(error: RayActorError) -> str:
    """Return what Ray says about the end of an actor, without its numbers and advice."""
    text = " ".join(str(error).split())
    sentence = re.search(r"The actor (?:died|is dead) because [^.]*\.", text)
    return sentence[0] if sentence else text[:200]
