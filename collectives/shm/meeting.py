"""Where the ranks of one host wait for each other: counters in shared memory.

Rules:
- Each rank has a counter that it alone writes, and waits for the others' to reach its own. What was
  written before a rank came to a meeting is seen by all after it (`memory.Fence`).
- A waiting rank spins briefly, offering its processor to others, then sleeps (futex) on the bell.
  It says so before it looks for the last time, and who comes last looks for sleepers after it has
  counted itself in: one of the two sees the other, so nobody sleeps through the bell.
- Whoever is awaited is known to be alive (pidfd) and not to have left, or the wait ends.
"""

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from holdfast.collectives.shm import memory
from holdfast.collectives.shm.memory import Segment
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost

Exchange = Callable[[dict[str, Any]], list[dict[str, Any]]]
"""Gives this rank's table to the group and returns all of the group's, by rank."""

SPINS = 5000
"""Looks at the others' counters before sleeping: about 200 microseconds."""
YIELD = 32
"""Looks between two offers of the processor to others."""
CROWDED_SPINS, CROWDED_YIELD = 100, 1
"""The same where there are more ranks than processors: the peer may be waiting for this one."""
LOOK_AFTER = 0.1
"""Seconds between two looks at whether the peers are alive."""

LINE: Final = 64
"""Bytes of a cache line, which ranks share for nothing but reading; also what a rank shows."""
_WORDS = LINE // 8
# The board, in lines: the bell, two for those who sleep (meetings of odd and even numbers; the last
# meeting's sleepers may still be about to say so), a counter for each rank, and twice in turn what
# each rank shows.
_BELL, _ASLEEP, _COUNTERS = 0, 1, 3
_LEFT = 1  # the word beside a rank's counter that says that it has left


class Counter(NamedTuple):
    """A word in shared memory that one rank counts up and one other waits for."""

    words: "memoryview[int]"
    at: int
    asleep: int
    """Where in `words` the waiting one says that it sleeps."""
    address: int
    """Of the counter, for the futex."""


class Meetings:
    """One rank's side of all meetings of a group. One thread at a time."""

    def __init__(self, rank: int, world_size: int, exchange: Exchange, *, timeout: float) -> None:
        """Map the board, which rank 0 makes; raises PeerLost if a rank has ended meanwhile."""
        self.rank = rank
        self.pids: list[int] = []
        """The process of each rank."""
        self.fence = memory.Fence()
        self.spinning = True
        """Whether the caller has nothing better to do than to wait."""
        self._world_size = world_size
        self._timeout = timeout
        self._aborted = False
        self._held = 0
        self._looked = 0.0
        self._own = (_COUNTERS + rank) * _WORDS
        self._counters = {
            (_COUNTERS + peer) * _WORDS: peer for peer in range(world_size) if peer != rank
        }
        self._shown = [(_COUNTERS + world_size * turn) * LINE for turn in (1, 2)]
        self._turn = 0
        self._alive = select.poll()
        self._pidfds: dict[int, int] = {}
        self._board: Segment | None = None
        try:
            self._join(exchange)
        except BaseException:
            self.close()
            raise

    def _join(self, exchange: Exchange) -> None:
        nbytes = (_COUNTERS + 3 * self._world_size) * LINE
        board = Segment.create(nbytes) if self.rank == 0 else None
        self._board = board
        tables = exchange({"pid": os.getpid(), "fd": board.fd if board else -1})
        self.pids = [int(entry["pid"]) for entry in tables]
        if board is None:
            board = self._board = Segment.open(self.pids[0], int(tables[0]["fd"]), nbytes)
        exchange({})  # rank 0 keeps its descriptor until all have opened it
        for peer in self._counters.values():
            try:
                fd = os.pidfd_open(self.pids[peer])
            except ProcessLookupError:
                raise PeerLost(f"rank {peer} (process {self.pids[peer]}) has ended") from None
            self._pidfds[fd] = peer
            self._alive.register(fd, select.POLLIN)
        self._words = board.bytes.data.cast("B").cast("q")
        self._map = board.map
        self._bell = board.address + _BELL * LINE
        if len(set(self.pids)) < self._world_size:
            self._spins, self._yield = 0, 1  # ranks are threads: they would spin on each other
        elif self._world_size > len(os.sched_getaffinity(0)):
            self._spins, self._yield = CROWDED_SPINS, CROWDED_YIELD
        else:
            self._spins, self._yield = SPINS, YIELD

    def show(self, own: bytes, what: str) -> bytes:
        """Meet, and return the `LINE` bytes that each rank shows, by rank. `what` is for errors."""
        self._turn ^= 1  # what was shown last may still be read
        start = self._shown[self._turn]
        at = start + self.rank * LINE
        self._map[at : at + LINE] = own
        self.meet(what)
        return self._map[start : start + self._world_size * LINE]

    def meet(self, what: str) -> None:
        """Return when every rank has come to this meeting.

        Raises PeerLost if an awaited rank ends or leaves, DeadlineExceeded after the timeout.
        """
        self._held = meeting = self._held + 1
        words, fence = self._words, self.fence
        fence.light()
        words[self._own] = meeting
        fence.full()
        for at in self._counters:
            if words[at] < meeting:
                self._await(meeting, what)
                break
        else:
            if words[(_ASLEEP + (meeting & 1)) * _WORDS] == meeting:
                words[_BELL * _WORDS] = meeting
                memory.wake(self._bell)
        fence.light()

    def abort(self) -> None:
        """Make a wait in another thread end with an error soon."""
        self._aborted = True
        memory.wake(self._bell)

    def close(self) -> None:
        """Leave: peers that wait for this rank are told; may be called again."""
        for fd in self._pidfds:
            with contextlib.suppress(KeyError):
                self._alive.unregister(fd)
            os.close(fd)
        self._pidfds = {}
        if self._board is not None:
            if self._board.fd >= 0:
                self._board.bytes.data.cast("B").cast("q")[self._own + _LEFT] = 1
            self._board.close()

    def wait(self, counter: "Counter", least: int, peer: int, what: str) -> None:
        """Return when `counter`, which `peer` alone writes, is at `least`; raises as `meet` does.

        What was written before the counter is seen on return.
        """
        words, at = counter.words, counter.at
        if words[at] < least and not (self.spinning and self._spin(words, [at], least)):
            began = time.monotonic()
            words[counter.asleep] = 1
            self.fence.full()
            while (count := words[at]) < least:
                memory.sleep_while(counter.address, count, LOOK_AFTER)
                self._look_after({at: peer}, words, least, time.monotonic() - began, what)
            words[counter.asleep] = 0
        self.fence.light()

    def count(self, counter: "Counter", number: int) -> None:
        """Set `counter` to `number`, after all that was written or read, and wake who awaits it."""
        self.fence.light()
        counter.words[counter.at] = number
        self.fence.full()
        if counter.words[counter.asleep]:
            memory.wake(counter.address)

    def _await(self, meeting: int, what: str) -> None:
        words, absent = self._words, list(self._counters)
        if self.spinning and self._spin(words, absent, meeting):
            return
        began = time.monotonic()
        while True:
            bell = words[_BELL * _WORDS]
            words[(_ASLEEP + (meeting & 1)) * _WORDS] = meeting
            self.fence.full()
            absent = [at for at in absent if words[at] < meeting]
            if not absent:
                return
            memory.sleep_while(self._bell, bell, LOOK_AFTER)
            waited = time.monotonic() - began
            self._look_after(
                {at: self._counters[at] for at in absent}, words, meeting, waited, what
            )

    def _spin(self, words: "memoryview[int]", awaited: list[int], least: int) -> bool:
        """Look at the words at `awaited` for a while, return whether all have come to `least`."""
        offer = self._yield
        for spin in range(1, self._spins):
            while words[awaited[-1]] >= least:
                awaited.pop()
                if not awaited:
                    return True
            if spin % offer == 0:
                os.sched_yield()
        return False

    def _look_after(
        self,
        awaited: dict[int, int],
        words: "memoryview[int]",
        least: int,
        waited: float,
        what: str,
    ) -> None:
        """Raise if a peer that is awaited has gone, or has been awaited for too long.

        `awaited` has the place in `words` of each peer's counter, which is to come to `least`.
        """
        if self._aborted:
            peer = next(iter(awaited.values()))
            raise CommunicationError(f"closed while rank {peer} was awaited in {what}")
        now = time.monotonic()
        if now - self._looked < LOOK_AFTER / 2:
            return
        self._looked = now
        gone = {self._pidfds[fd]: "ended" for fd, _ in self._alive.poll(0)}
        for at, peer in self._counters.items():
            if self._words[at + _LEFT]:
                gone.setdefault(peer, "closed its communicator")
        self.fence.light()  # it counted before it went
        for at, peer in awaited.items():
            if peer in gone and words[at] < least:
                raise PeerLost(
                    f"rank {peer} (process {self.pids[peer]}) has {gone[peer]}; rank {self.rank} "
                    f"waited {waited:.1f} s for it in {what}"
                )
        if waited > self._timeout:
            peer = next(iter(awaited.values()))
            raise DeadlineExceeded(
                f"rank {self.rank} waited {waited:.0f} s for rank {peer} (process "
                f"{self.pids[peer]}, which is alive) in {what}; look at what that rank does, or "
                "raise the timeout"
            )
