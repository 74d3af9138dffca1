"""The life of an NCCL communicator as a state machine: answers and the time in, instructions out.

```
opening ── success ─▶ ready ── leave ─▶ closing ── success, failure, late ─▶ closed
   │                  │   │                                                    ▲
   │ failure, late    │   └── separate ─▶ separating ── success, then leave ───┤
   ▼                  ▼                        │ failure, late                 │
 broken ◀─────────────┴────────────────────────┘ ─────────── leave ────────────┘
```

Nothing here touches the library, a GPU or a clock; `nccl/engine.py` carries the instructions out.
The rules are NCCL's for non-blocking communicators: after every call the library is asked until it
is no longer in progress, and only then may the stream be used; after an error only an abort is of
use (NCCL user guide, "Fault Tolerance", "Group Calls").
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias

from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost

CLOSE_SECONDS = 5.0
"""How long a close may take to let peers have what was sent to them; then it is an abort."""
SHORTEST_PAUSE = 10e-6
LONGEST_PAUSE = 5e-3


class Result(IntEnum):
    """What NCCL's calls return (`ncclResult_t`)."""

    SUCCESS = 0
    UNHANDLED_CUDA_ERROR = 1
    SYSTEM_ERROR = 2
    INTERNAL_ERROR = 3
    INVALID_ARGUMENT = 4
    INVALID_USAGE = 5
    REMOTE_ERROR = 6
    IN_PROGRESS = 7
    TIMEOUT = 8

    @classmethod
    def _missing_(cls, value: object) -> "Result":
        return cls.INTERNAL_ERROR  # a code newer than this list is an error all the same


class Phase(Enum):
    """Where a communicator is in its life."""

    OPENING = "opening"
    READY = "ready"
    SEPARATING = "separating"
    BROKEN = "broken"
    CLOSING = "closing"
    CLOSED = "closed"


@dataclass(frozen=True)
class Ask:
    """A collective, called `name`, is wanted."""

    name: str


@dataclass(frozen=True)
class Answer:
    """The library says how the communicator is; `detail` is its text where that is an error."""

    result: Result
    detail: str = ""


@dataclass(frozen=True)
class Interrupted:
    """The collective that was asked for was not handed over whole; `why` says what happened."""

    why: str


@dataclass(frozen=True)
class Ended:
    """The `count` oldest collectives in flight have ended on the GPU."""

    count: int


@dataclass(frozen=True)
class Separate:
    """The ranks that are left want a communicator of their own."""


@dataclass(frozen=True)
class Leave:
    """The owner wants it closed."""


@dataclass(frozen=True)
class Post:
    """Hand the collective that was asked for to the library, then tell its answer."""


@dataclass(frozen=True)
class Mark:
    """The collective is on the stream: let an event follow it."""


@dataclass(frozen=True)
class LookAgain:
    """Ask for the library's answer after so many seconds."""

    after: float


@dataclass(frozen=True)
class Shrink:
    """Begin the smaller communicator, then tell the library's answer."""


@dataclass(frozen=True)
class Finalize:
    """Let everything in flight end, then tell the library's answer."""


@dataclass(frozen=True)
class Destroy:
    """Release the communicator, in which nothing is left to do."""


@dataclass(frozen=True)
class Abort:
    """Break off what is in flight and release the communicator."""


@dataclass(frozen=True)
class Fail:
    """Raise this to whoever waits."""

    kind: type[CommunicationError]
    message: str

    def error(self) -> CommunicationError:
        """Return the exception, a fresh one for each who waits."""
        return self.kind(self.message)


Event: TypeAlias = Ask | Answer | Interrupted | Ended | Separate | Leave
Instruction: TypeAlias = Post | Mark | LookAgain | Shrink | Finalize | Destroy | Abort | Fail

_KINDS: dict[Result, type[CommunicationError]] = {
    Result.REMOTE_ERROR: PeerLost,
    Result.TIMEOUT: DeadlineExceeded,
}


class NcclState:
    """One communicator's state; events of all threads come one at a time."""

    def __init__(self, name: str, *, timeout: float, now: float) -> None:
        """`name` opens every message; `timeout` is how long, in seconds, nothing may end."""
        self.phase = Phase.OPENING
        self.failure: Fail | None = None
        """What broke the communicator; None while nothing has."""
        self._name = name
        self._timeout = timeout
        self._since = now  # when the present wait began
        self._asked: str | None = None
        self._separated = False
        self._flight: deque[tuple[str, float]] = deque()  # collectives posted: name, time
        self._moved = now  # when a collective last ended

    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take note of `event`; return what is to be done, in order. `now` is in seconds."""
        match event:
            case Ask(name):
                return self._ask(name, now)
            case Answer():
                return self._answered(event, now)
            case Interrupted(why):
                return self._interrupted(why)
            case Ended(count):
                for _ in range(count):
                    self._flight.popleft()
                    self._moved = now
                return []
            case Separate():
                return self._separate(now)
            case Leave():
                return self._leave(now)

    def _ask(self, name: str, now: float) -> list[Instruction]:
        assert self._asked is None, "collectives are handed over one at a time"
        if self.phase is not Phase.READY:
            return [self._refusal(name)]
        self._asked, self._since = name, now
        return [Post()]

    def _interrupted(self, why: str) -> list[Instruction]:
        if self.phase is not Phase.READY or self._asked is None:
            return []
        message = f"{self._asked} was interrupted while it was handed to NCCL ({why})"
        return self._break(CommunicationError, f"{message}: the ranks are out of step")

    def _refusal(self, name: str) -> Fail:
        if self.failure is not None:
            return Fail(
                self.failure.kind,
                f"{name}: the communicator broke before this call: {self.failure.message}",
            )
        why = "gave way to a smaller one" if self.phase is Phase.SEPARATING else "is closed"
        return Fail(CommunicationError, f"{self._name}: {name}: the communicator {why}")

    def _separate(self, now: float) -> list[Instruction]:
        if self.phase is not Phase.READY:
            return [self._refusal("shrink")]
        self.phase, self._since = Phase.SEPARATING, now
        self._flight.clear()
        return [Shrink()]

    def _leave(self, now: float) -> list[Instruction]:
        before, asked = self.phase, self._asked
        if before is Phase.CLOSING:
            return []
        self._asked, self._since = None, now
        if before is Phase.READY and asked is None:
            self.phase = Phase.CLOSING
            return [Finalize()]
        self.phase = Phase.CLOSED
        if before is Phase.READY:
            message = f"{self._name} was closed while {asked} was handed to NCCL"
            return [Abort(), Fail(CommunicationError, message)]
        if before is Phase.OPENING or (before is Phase.SEPARATING and not self._separated):
            return [Abort(), Fail(CommunicationError, f"{self._name} was closed while it opened")]
        return [Abort()] if before is Phase.SEPARATING else []

    def _answered(self, answer: Answer, now: float) -> list[Instruction]:
        match self.phase:
            case Phase.OPENING:
                return self._progress(answer, now, "the ranks' communicator", self._opened)
            case Phase.READY:
                return self._ready(answer, now)
            case Phase.SEPARATING:
                return self._progress(answer, now, "shrink", self._parted)
            case Phase.CLOSING:
                return self._closing(answer, now)
            case Phase.BROKEN | Phase.CLOSED:
                return []

    def _ready(self, answer: Answer, now: float) -> list[Instruction]:
        if self._asked is not None:
            return self._progress(answer, now, self._asked, self._posted)
        if answer.result not in (Result.SUCCESS, Result.IN_PROGRESS):
            return self._reject(answer, self._flight[0][0] if self._flight else "the network")
        if self._flight:
            name, posted = self._flight[0]
            if now - max(posted, self._moved) > self._timeout:
                return self._late(name, now - max(posted, self._moved))
        return []

    def _closing(self, answer: Answer, now: float) -> list[Instruction]:
        if answer.result is Result.IN_PROGRESS and now - self._since <= CLOSE_SECONDS:
            return [self._pause(now)]
        self.phase = Phase.CLOSED
        return [Destroy() if answer.result is Result.SUCCESS else Abort()]

    def _progress(
        self,
        answer: Answer,
        now: float,
        what: str,
        then: Callable[[float], list[Instruction]],
    ) -> list[Instruction]:
        """Go on with `then` if `what` is through, look again while there is time for it."""
        if answer.result is Result.SUCCESS:
            return then(now)
        if answer.result is not Result.IN_PROGRESS:
            return self._reject(answer, what)
        if now - self._since > self._timeout:
            return self._late(what, now - self._since)
        return [self._pause(now)]

    def _opened(self, now: float) -> list[Instruction]:
        self.phase = Phase.READY
        return []

    def _parted(self, now: float) -> list[Instruction]:
        self._separated = True
        return []

    def _posted(self, now: float) -> list[Instruction]:
        assert self._asked is not None
        self._flight.append((self._asked, now))
        self._asked = None
        return [Mark()]

    def _pause(self, now: float) -> LookAgain:
        """Look again after an eighth of the time waited so far: soon at first, then seldom."""
        return LookAgain(min(max(SHORTEST_PAUSE, (now - self._since) / 8), LONGEST_PAUSE))

    def _reject(self, answer: Answer, what: str) -> list[Instruction]:
        text = answer.result.name.lower().replace("_", " ")
        detail = f": {answer.detail}" if answer.detail else ""
        return self._break(
            _KINDS.get(answer.result, CommunicationError),
            f"{what} failed with NCCL's {text}{detail}; NCCL_DEBUG=WARN prints what led to it",
        )

    def _late(self, what: str, seconds: float) -> list[Instruction]:
        return self._break(
            DeadlineExceeded,
            f"{what} has not ended after {seconds:.3g} s, of {self._timeout:.3g} s allowed; a peer "
            "that is dead, stuck or in another collective makes NCCL wait so",
        )

    def _break(self, kind: type[CommunicationError], message: str) -> list[Instruction]:
        self.phase = Phase.BROKEN
        self.failure = Fail(kind, f"{self._name}: {message}")
        self._flight.clear()
        self._asked = None
        return [Abort(), self.failure]
