"""One attempt to run the job, as a state machine: what has happened goes in, what to do comes out.

Pure: the time is an argument.

```
RUNNING ──all ended with 0──────────────────────────────▶ OVER
   └──first failure──▶ SETTLING ──all ended──────────────▶ OVER
                           └──SETTLE seconds──▶ STOPPING ──all ended──▶ OVER
```
In SETTLING the others may end by themselves, so that they can say whose fault it was.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from holdfast.launch.failure import Failure
from holdfast.launch.spec import Place

SETTLE = 2.0
"""Seconds that the others have to end by themselves after the first failure."""


class Phase(Enum):
    """Where an attempt stands."""

    RUNNING = "running"
    SETTLING = "settling"
    STOPPING = "stopping"
    OVER = "over"


class Attempt:
    """Follows one attempt of the ranks at `places`. Not thread safe."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = {place.rank: place for place in places}
        self._running = set(self._places)
        self._marked: dict[int, Mapping[str, Any]] = {}
        self._failed_at: float | None = None
        self._stop_asked = False
        self.failures: list[Failure] = []
        self.stepped = False
        self.last_step = 0
        self.checkpointed = False

    def worker_event(self, rank: int, event: Mapping[str, Any]) -> None:
        """Take what the worker of `rank` said about itself."""
        match event.get("event"):
            case "progress":
                self.stepped = True
                step = event.get("step")
                self.last_step = step if isinstance(step, int) else self.last_step
            case "checkpoint":
                self.checkpointed = True
            case "failed":
                self._marked[rank] = event

    def exited(self, rank: int, returncode: int, *, stopped: bool, now: float) -> None:
        """Take the end of a worker; `stopped` says that it was told to end."""
        if rank not in self._running:
            return
        self._running.discard(rank)
        if returncode == 0:
            return
        self._fail(
            Failure(
                rank=rank,
                host=self._places[rank].node.host,
                returncode=returncode,
                consequence=self._is_consequence(rank),
                stopped=stopped,
            ),
            now,
        )

    def node_lost(self, group_rank: int, reason: str, now: float) -> None:
        """Take the loss of a node: of the workers on it that had not ended."""
        for rank in sorted(self._running):
            place = self._places[rank]
            if place.group_rank == group_rank:
                self._running.discard(rank)
                self._fail(Failure(rank, place.node.host, None, reason=reason), now)

    def abandon(self, reason: str, now: float) -> None:
        """Take that none of the others was started, or that all that were are ended unseen."""
        for rank in sorted(self._running):
            host = self._places[rank].node.host
            self._fail(Failure(rank, host, None, stopped=True, reason=reason), now)
        self._running.clear()

    def stop_asked(self) -> None:
        """Take that the launcher tells all workers to end, for whatever reason."""
        self._stop_asked = True

    def phase(self, now: float) -> Phase:
        """Return where the attempt stands; on STOPPING the launcher stops what still runs."""
        if not self._running:
            return Phase.OVER
        if self._stop_asked:
            return Phase.STOPPING
        if self._failed_at is None:
            return Phase.RUNNING
        return Phase.STOPPING if now - self._failed_at >= SETTLE else Phase.SETTLING

    @property
    def running(self) -> frozenset[int]:
        """The ranks that have not ended."""
        return frozenset(self._running)

    def quiet(self, rank: int) -> bool:
        """Whether a person should be spared the rank's output: the cause is to be read first."""
        return self._failed_at is not None or self._is_consequence(rank)

    def _is_consequence(self, rank: int) -> bool:
        return bool(self._marked.get(rank, {}).get("consequence"))

    def _fail(self, failure: Failure, now: float) -> None:
        self.failures.append(failure)
        if self._failed_at is None:
            self._failed_at = now
