"""A simulated rank: its all-reduces, one after the other, on real arrays. Pure.

The sum's instructions are those of `collectives/execution.py`, which a transport carries out. A
rank computes in no time; all that takes time is the network's doing.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal, Protocol

import numpy as np

from holdfast.collectives.communicator import Array, Op
from holdfast.collectives.execution import Outgoing, Place, Scratch, call_tag, execute
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.plan import Await, plan
from holdfast.collectives.schedule import chunk_bounds
from holdfast.collectives.schedules.ring import ring_all_reduce
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost
from holdfast.fabric.simulated.clock import Clock
from holdfast.fabric.simulated.links import EPOCH, Dial, LinkFactory, Links
from holdfast.fabric.simulated.tcp import Report

State = Literal["running", "done", "failed", "killed"]


class Reached(Protocol):
    """Told that a rank comes to a phase of a step; a fault planned for it is then in force."""

    def __call__(self, rank: int, step: int, phase: str) -> None:
        """Return when the rank may go on."""


@dataclass(frozen=True)
class Job:
    """What every rank does: `calls` all-reduces of `count` elements each.

    `contribution(call, rank)` is a rank's array for a call, of `count` elements of `dtype`. A call
    whose links don't get any further for `timeout` seconds fails. `may_begin(call)` says whether
    one may begin, `ended()` is called when a rank has ended one.
    """

    calls: int
    count: int
    dtype: np.dtype[Any]
    op: Op
    segment: int
    timeout: float
    world_size: int
    contribution: Callable[[int, int], Array]
    may_begin: Callable[[int], bool]
    ended: Callable[[], None]


@dataclass(frozen=True)
class Call:
    """An all-reduce of one rank; times in virtual seconds."""

    began: float
    whole: float
    """When its result was whole."""
    ended: float
    """When its peers had all that it gave them, so that its arrays were the caller's again."""
    digest: str
    """SHA-256 of the result's bytes."""


@dataclass(frozen=True)
class _Wait:
    """What a rank waits for, and of which peer; None: for the other ranks' sake."""

    peer: int | None
    what: str
    over: Callable[[], bool]


class SimulatedRank:
    """One rank and its links; everything happens when the clock calls."""

    def __init__(
        self,
        number: int,
        host: str,
        job: Job,
        clock: Clock,
        config: LinkConfig,
        *,
        dial: Dial,
        reached: Reached,
        report: Report,
        link: LinkFactory,
    ) -> None:
        self.number = number
        self.host = host
        self.calls: list[Call] = []
        self.state: State = "running"
        self.error: CommunicationError | None = None
        self.paused_since = math.inf
        """When it was paused, in virtual seconds; infinity: it is not."""
        self._pauses = 0
        self._job = job
        self._clock = clock
        self._reached = reached
        self._report = report
        self._woken = False
        self.links = Links(
            number, job.world_size, config, clock, dial, self.wake, self._report, link
        )
        self._program = self._all_calls()
        self._wait: _Wait | None = None
        self._progress = 0
        self._since = 0.0

    @property
    def alive(self) -> bool:
        """Whether its process runs: one that is done still serves its peers."""
        return self.state in ("running", "done")

    def wake(self) -> None:
        """Have it look at what has happened, soon."""
        if not self._woken and not self._pauses and self.alive:
            self._woken = True
            self._clock.later(0.0, self._turn)

    def pause(self) -> None:
        """Stop it as it stands; its host's kernel goes on. As often it must `resume`."""
        if not self._pauses:
            self.paused_since = self._clock.now
        self._pauses += 1

    def resume(self) -> None:
        """Let it go on."""
        self._pauses -= 1
        if not self._pauses:
            self.paused_since = math.inf
            self.wake()

    def kill(self) -> None:
        """End it at once; its host's kernel closes its connections."""
        if self.alive:
            self._end("killed")

    def _end(self, state: State) -> None:
        self.state = state
        self._report(
            "rank ended", self.number, state, "" if self.error is None else f"{self.error}"
        )
        if not self.alive:
            self.links.close(killed=state == "killed")

    def _turn(self) -> None:
        self._woken = False
        if self._pauses or not self.alive:
            return
        try:
            self.links.turn()
            self._go_on()
            self.links.dial()
        except CommunicationError as error:
            self.error = error
            self._end("failed")

    def _go_on(self) -> None:
        """Go through the program until something is not there yet."""
        while self.state == "running" and not self._pauses:
            wait = self._wait
            if wait is not None:
                if not wait.over():
                    self._look_for_an_end(wait)
                    return
                if wait.peer is not None:
                    self.links.write(wait.peer)
            try:
                self._wait = next(self._program)
            except StopIteration:
                self._end("done")
                return
            self._progress, self._since = self.links.progress, self._clock.now

    def _look_for_an_end(self, wait: _Wait) -> None:
        """Give up when the peer has left, or no byte has moved on any link for the timeout."""
        if wait.peer is not None and self.links.left(wait.peer):
            raise PeerLost(
                f"rank {self.number} awaited {wait.what} rank {wait.peer}, which has left the "
                f"group (epoch {EPOCH}): its own output says why"
            )
        if (progress := self.links.progress) != self._progress:
            self._progress, self._since = progress, self._clock.now
        elif self._clock.now - self._since > self._job.timeout:
            waited = f"rank {self.number} waited {self._job.timeout:.1f} s for {wait.what}"
            if wait.peer is None:
                raise DeadlineExceeded(f"{waited} and nothing moved on any link")
            raise DeadlineExceeded(
                f"{waited} rank {wait.peer} (epoch {EPOCH}) and nothing moved on any link; the "
                f"link {self.links.state(wait.peer)}. Is that rank alive, and can the two hosts "
                "reach each other?"
            )

    def _all_calls(self) -> Iterator[_Wait | None]:
        """Yield what is to be waited for; None: just see whether the rank may go on."""
        job = self._job
        bounds = chunk_bounds(job.count, job.world_size)
        ring = plan(
            ring_all_reduce(job.world_size),
            self.number,
            list(pairwise(bounds)),
            itemsize=job.dtype.itemsize,
            segment=job.segment,
        )
        scratch = Scratch(ring, job.dtype)
        for call in range(job.calls):
            x, out = job.contribution(call, self.number), np.empty(job.count, job.dtype)
            tag = call_tag("all_reduce", job.op, x)
            if not job.may_begin(call):
                yield _Wait(None, f"all ranks to end call {call - 1}", partial(job.may_begin, call))
            self._reached(self.number, call, "step")
            yield None
            began = self._clock.now
            for each in execute(ring, x, out, scratch, job.op):
                if isinstance(each, Outgoing):
                    self.links.send(each.peer, each.data, tag)
                elif isinstance(each, Place):
                    self.links.post(each.peer, each.into, tag)
                elif isinstance(each, Await):
                    filled = partial(self.links.filled, each.peer)
                    if not filled():
                        yield _Wait(each.peer, "a message of", filled)
                    self.links.taken(each.peer)
                else:
                    self._reached(self.number, call, each.phase)
                    yield None
            whole = self._clock.now
            for peer in self.links.unflushed():
                yield _Wait(peer, "an acknowledgement of", partial(self.links.flushed, peer))
            digest = hashlib.sha256(out.data).hexdigest()
            self.calls.append(Call(began, whole, self._clock.now, digest))
            self._report("call ended", self.number, call)
            job.ended()
