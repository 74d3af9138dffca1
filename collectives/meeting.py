"""Where the ranks of one host wait for each other: counters in shared memory.

Rules:
- Each rank has a counter that it alone writes, and waits for the others' to reach its own. What was
  written before a rank came to a meeting is seen by all after it (`memory.fence`).
- A waiting rank spins briefly, offering its processor to others, then sleeps (futex) until the rank
  that it awaits wakes it; should a wake-up be missed, it looks by itself after a nap.
- Whoever is awaited is known to be alive (pidfd), or the wait ends.
"""

import contextlib
import os
import select
import time
from collections.abc import Sequence
from typing import Final

from holdfast.collectives import memory
from holdfast.collectives.memory import Segment
from holdfast.collectives.rendezvous import Rendezvous
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost

SPINS = 5000
"""Looks at a peer's counter before sleeping: about 200 microseconds."""
YIELD = 256
"""Looks between two offers of the processor to others."""
CROWDED_SPINS, CROWDED_YIELD = 1000, 10
"""The same where there are more ranks than processors: the peer may be waiting for this one."""
NAP = 0.002
"""Seconds after which a sleeper looks by itself."""
LOOK_AFTER = 0.1
"""Seconds between two looks at whether the peers are alive."""

WORDS: Final = 8
"""How many words of 8 bytes a rank can show at a meeting."""
_LINE = 64  # bytes; what is written by different ranks lies on different cache lines
_RANK_LINES = 4  # counter, sleeping, and what is shown, twice in turn


class Meetings:
    """One rank's side of all meetings of a group. One thread at a time."""

    def __init__(self, rank: int, world_size: int, table: Rendezvous, *, timeout: float) -> None:
        """Map the counters, which rank 0 makes; raises PeerLost if a rank has ended meanwhile."""
        self.rank = rank
        self.pids: list[int] = []
        """The process of each rank."""
        self.spinning = False
        """Whether the caller has nothing better to do than to wait."""
        self._others = [peer for peer in range(world_size) if peer != rank]
        self._timeout = timeout
        self._aborted = False
        self._held = 0
        self._shown = 0
        crowded = world_size > len(os.sched_getaffinity(0))
        self._spins = CROWDED_SPINS if crowded else SPINS
        self._yield = CROWDED_YIELD if crowded else YIELD
        self._alive = select.poll()
        self._pidfds: dict[int, int] = {}
        self._board: Segment | None = None
        try:
            self._join(world_size, table)
        except BaseException:
            self.close()
            raise

    def _join(self, world_size: int, table: Rendezvous) -> None:
        nbytes = world_size * _RANK_LINES * _LINE
        board = Segment.create(nbytes) if self.rank == 0 else None
        self._board = board
        tables = table.exchange({"pid": os.getpid(), "fd": board.fd if board else -1})
        self.pids = [int(entry["pid"]) for entry in tables]
        if board is None:
            board = self._board = Segment.open(self.pids[0], int(tables[0]["fd"]), nbytes)
        table.exchange({})  # rank 0 keeps its descriptor until all have opened it
        for peer in self._others:
            try:
                fd = os.pidfd_open(self.pids[peer])
            except ProcessLookupError:
                raise PeerLost(f"rank {peer} (process {self.pids[peer]}) has ended") from None
            self._pidfds[fd] = peer
            self._alive.register(fd, select.POLLIN)
        self._words = board.bytes.data.cast("B").cast("q")
        self._addresses = [board.address + r * _RANK_LINES * _LINE for r in range(world_size)]

    def show(self, own: Sequence[int], what: str) -> list[tuple[int, ...]]:
        """Meet, and return the `WORDS` integers that each rank shows. `what` is for errors."""
        self._shown += 1
        line = 2 + (self._shown & 1)  # what was shown last may still be read
        at = (self.rank * _RANK_LINES + line) * WORDS
        for place, word in enumerate(own):
            self._words[at + place] = word
        self.meet(what)
        starts = ((r * _RANK_LINES + line) * WORDS for r in range(len(self.pids)))
        return [tuple(self._words[start : start + WORDS]) for start in starts]

    def meet(self, what: str) -> None:
        """Return when every rank has come to this meeting.

        Raises PeerLost if an awaited rank's process ends, DeadlineExceeded after the timeout.
        """
        self._held += 1
        words, meeting = self._words, self._held
        memory.fence()
        words[self.rank * _RANK_LINES * WORDS] = meeting
        for peer in self._others:
            if words[(peer * _RANK_LINES + 1) * WORDS]:
                memory.wake(self._addresses[self.rank])
                break
        for peer in self._others:
            if words[peer * _RANK_LINES * WORDS] < meeting:
                self._await(peer, meeting, what)
        memory.fence()

    def abort(self) -> None:
        """Make a wait in another thread end with an error."""
        self._aborted = True

    def close(self) -> None:
        """Give back the descriptors; may be called again."""
        for fd in self._pidfds:
            with contextlib.suppress(KeyError):
                self._alive.unregister(fd)
            os.close(fd)
        self._pidfds = {}
        if self._board is not None:
            self._board.close()

    def _await(self, peer: int, meeting: int, what: str) -> None:
        words, at = self._words, peer * _RANK_LINES * WORDS
        if self.spinning:
            for spin in range(self._spins):
                if words[at] >= meeting:
                    return
                if spin % self._yield == 0:
                    os.sched_yield()
        sleeping = (self.rank * _RANK_LINES + 1) * WORDS
        began = looked = time.monotonic()
        words[sleeping] = 1
        try:
            while (count := words[at]) < meeting:
                if self._aborted:
                    raise CommunicationError(f"closed while rank {peer} was awaited in {what}")
                memory.sleep_while(self._addresses[peer], count, NAP)
                now = time.monotonic()
                if now - looked > LOOK_AFTER:
                    looked = now
                    self._look_after(peer, meeting, what, now - began)
        finally:
            words[sleeping] = 0

    def _look_after(self, peer: int, meeting: int, what: str, waited: float) -> None:
        """Raise if a peer that is awaited has ended, or has been awaited for too long."""
        for fd, _ in self._alive.poll(0):
            gone = self._pidfds[fd]
            if self._words[gone * _RANK_LINES * WORDS] < meeting:
                raise PeerLost(
                    f"rank {gone} (process {self.pids[gone]}) has ended; rank {self.rank} waited "
                    f"{waited:.1f} s for it in {what}"
                )
        if waited > self._timeout:
            raise DeadlineExceeded(
                f"rank {self.rank} waited {waited:.0f} s for rank {peer} (process "
                f"{self.pids[peer]}, which is alive) in {what}; look at what that rank does, or "
                "raise the timeout"
            )
