"""What was seen of a job's run on a network: the raw material of a drill's figures. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from holdfast.fabric.faults import Fault


@dataclass(frozen=True)
class StepEnd:
    """Rank `rank` ended step `step` (counted from 0) of attempt `attempt`."""

    time: float
    rank: int
    step: int
    attempt: int


@dataclass(frozen=True)
class LinkEvent:
    """Rank `rank` lost (`lost`) or regained its link to `peer`."""

    time: float
    rank: int
    peer: int
    lost: bool
    why: str = ""


@dataclass(frozen=True)
class Traffic:
    """Payload bytes that `rank` had sent to and received from `peer` by then, in its attempt."""

    time: float
    rank: int
    peer: int
    sent: int
    received: int


@dataclass(frozen=True)
class FaultSpan:
    """A fault that was in force from `began` to `ended` (None: to the end of the run)."""

    number: int
    fault: Fault
    began: float
    ended: float | None


@dataclass(frozen=True)
class Ended:
    """A worker ended, or was ended (`stopped`); `returncode` is negative for a signal."""

    time: float
    rank: int
    returncode: int
    attempt: int
    stopped: bool = False


@dataclass(frozen=True)
class RunRecord:
    """One run of a job. All times are seconds since it was started.

    `loss` is (step, loss) after that many steps; `starts` are the times at which its attempts were
    started, `never_began` the script's entries whose moment did not come. `weights_sha256`, `steps`
    and `samples` are those of its result, if it has one.
    """

    seconds: float
    exit_status: int
    weights_sha256: str | None = None
    steps: int = 0
    samples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    loss: tuple[tuple[int, float], ...] = ()
    starts: tuple[float, ...] = ()
    step_ends: tuple[StepEnd, ...] = ()
    links: tuple[LinkEvent, ...] = ()
    traffic: tuple[Traffic, ...] = ()
    faults: tuple[FaultSpan, ...] = ()
    ends: tuple[Ended, ...] = ()
    never_began: tuple[str, ...] = ()
    error: str | None = None
