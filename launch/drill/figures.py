"""What a drill says of a job: were its promises kept, how fast was a fault seen and got over. Pure.

- *Detection*: from a fault's beginning to the first link lost or worker ended that is put down to
  it (`causes.py` has the rule). A fault that was ridden out without any rank giving up a connection
  has none.
- *Recovery*: from the moment when getting over the fault was possible to the end of the first step
  that any rank ends after every link lost to it is restored and every worker that it ended is
  started again. It was possible from the fault's end on; from its detection on, if it was detected
  later, if it has no end or no duration, or if the job got over it while it was still in force. A
  fault that nobody detected has one only if it cuts (not only slows) and held the job up: if no
  rank ended a step for longer than in all of the quiet run. Else there was nothing to get over.
- *p50, p99*: of n values, the smallest that half, or 99 %, of them do not exceed (nearest rank).
- *Steps lost*: those of the quiet run's result that the other result lacks.
- *Steps repeated*: how often a step was ended again that the same rank had ended before.
- *Samples committed*: those that the result says it was trained on.
- *Goodput*: steps a second, each counted once, from the end of the first to the end of the last,
  over the quiet run's. For two runs of the same steps that is the quiet run's time over the other;
  for a run that left no result it is 0.

A promise is broken if the job did not finish, if its weights or its number of samples are not those
of the quiet run, or if a step is lost. Where only the network or a disk was at fault, it is also
broken by a restart or a repeated step. A killed worker or a paused host may mean a restart from the
checkpoint: what is repeated then is reported, and breaks no promise.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from holdfast.launch.drill.causes import SLOWING, Layout, Outage, causes
from holdfast.launch.drill.record import FaultSpan, RunRecord

MAY_RESTART = frozenset({"kill", "pause"})
"""The kinds of faults after which a restart breaks no promise."""


class StepTime(NamedTuple):
    """A step that took `seconds` and was ended at `time`."""

    time: float
    seconds: float
    step: int
    attempt: int


@dataclass(frozen=True)
class Percentiles:
    """In seconds; None where there are no values."""

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Percentiles":
        """Return those of the values that are there."""
        there = sorted(value for value in values if value is not None)
        if not there:
            return cls(None, None)
        return cls(*(there[-(-percent * len(there) // 100) - 1] for percent in (50, 99)))


@dataclass(frozen=True)
class FaultFigures:
    """One fault: when it was in force, in which step it began, and what became of it.

    `began` and `ended` are seconds since the run's start; `ended` is None for a fault that lasted
    to the run's end. `step` counts from 0. `outages` is how many links were lost and workers ended
    because of it.
    """

    number: int
    kind: str
    text: str
    step: int
    began: float
    ended: float | None
    outages: int
    detection_seconds: float | None
    recovery_seconds: float | None


@dataclass(frozen=True)
class Figures:
    """All of a drill's figures; see the module for their definitions.

    `broken_promises` are sentences for people. `faults_never_began` are entries of the script whose
    moment did not come, if it was written and not drawn. `goodput` is None where a run ended fewer
    than two steps.
    """

    broken_promises: tuple[str, ...]
    weights_identical: bool
    weights_sha256: str | None
    steps_expected: int
    steps_lost: int
    steps_repeated: int
    samples_expected: int
    samples_committed: int
    restarts: int
    links_lost: int
    workers_ended: int
    faults: tuple[FaultFigures, ...]
    faults_never_began: tuple[str, ...]
    detection_seconds: Percentiles
    recovery_seconds: Percentiles
    goodput: float | None
    seconds_quiet: float
    seconds_faulty: float
    step_seconds_quiet: Percentiles
    step_seconds_faulty: Percentiles
    longest_step_seconds: float | None

    @property
    def promise_kept(self) -> bool:
        """Whether nothing was broken that is promised."""
        return not self.broken_promises

    def to_json(self) -> dict[str, Any]:
        """Return what `drill.json` holds of them."""
        return {"promise_kept": self.promise_kept} | asdict(self)


def figures(
    quiet: RunRecord, faulty: RunRecord, samples_expected: int, layout: Layout | None = None
) -> Figures:
    """Return the figures of a drill.

    `samples_expected` is what the job had to count. With `layout`, an event is put down only to a
    fault that can touch its link; without, to any.
    """
    identical = quiet.weights_sha256 is not None and quiet.weights_sha256 == faulty.weights_sha256
    each = tuple(_fault_figures(quiet, faulty, layout))
    quiet_steps = [step.seconds for step in step_times(quiet)]
    faulty_steps = [step.seconds for step in step_times(faulty)]
    broken = tuple(_broken(quiet, faulty, samples_expected))
    return Figures(
        broken_promises=broken or (() if faulty.faults else (NO_FAULT,)),
        weights_identical=identical,
        weights_sha256=faulty.weights_sha256,
        steps_expected=quiet.steps,
        steps_lost=max(0, quiet.steps - faulty.steps),
        steps_repeated=steps_repeated(faulty),
        samples_expected=samples_expected,
        samples_committed=faulty.samples,
        restarts=restarts(faulty),
        links_lost=sum(event.lost for event in faulty.links),
        workers_ended=sum(end.returncode != 0 and not end.stopped for end in faulty.ends),
        faults=each,
        faults_never_began=faulty.never_began,
        detection_seconds=Percentiles.of(fault.detection_seconds for fault in each),
        recovery_seconds=Percentiles.of(fault.recovery_seconds for fault in each),
        goodput=_goodput(quiet, faulty),
        seconds_quiet=quiet.seconds,
        seconds_faulty=faulty.seconds,
        step_seconds_quiet=Percentiles.of(quiet_steps),
        step_seconds_faulty=Percentiles.of(faulty_steps),
        longest_step_seconds=max(faulty_steps, default=None),
    )


def restarts(record: RunRecord) -> int:
    """Return how often the job was started again."""
    return max(0, len(record.starts) - 1)


def steps_repeated(record: RunRecord) -> int:
    """Return how many steps too many were ended: for each step, by the rank with the most ends."""
    ends = Counter((end.step, end.rank) for end in record.step_ends)
    most: dict[int, int] = {}
    for (step, _), count in ends.items():
        most[step] = max(most.get(step, 0), count)
    return sum(most.values()) - len(most)


def step_times(record: RunRecord) -> list[StepTime]:
    """Return how long the lowest rank's steps took, in order; not the first one of an attempt.

    Of that one's beginning nothing is known.
    """
    rank = min((end.rank for end in record.step_ends), default=None)
    ends = sorted(
        (end for end in record.step_ends if end.rank == rank),
        key=lambda end: (end.attempt, end.time),
    )
    return [
        StepTime(end.time, end.time - before.time, end.step, end.attempt)
        for before, end in pairwise(ends)
        if end.attempt == before.attempt
    ]


def _goodput(quiet: RunRecord, faulty: RunRecord) -> float | None:
    if faulty.weights_sha256 is None:
        return 0.0  # nothing of it counts
    rates = _steps_per_second(quiet), _steps_per_second(faulty)
    if rates[0] is None or rates[1] is None:
        return None
    return rates[1] / rates[0]


def _steps_per_second(record: RunRecord) -> float | None:
    times = [end.time for end in record.step_ends]
    steps = len({end.step for end in record.step_ends}) - 1
    if steps < 1 or max(times) <= min(times):
        return None
    return steps / (max(times) - min(times))


# Faults


def _fault_figures(
    quiet: RunRecord, faulty: RunRecord, layout: Layout | None
) -> Iterable[FaultFigures]:
    caused = causes(faulty, layout)
    in_order = sorted(faulty.step_ends, key=lambda end: end.time)
    ends = [end.time for end in in_order]
    latest = accumulate(((end.attempt, end.step + 1) for end in in_order), max, initial=(0, 0))
    steps = [step for _, step in latest]
    usual = _longest_gap(sorted(end.time for end in quiet.step_ends))
    for span in faulty.faults:
        outages = caused[span.number]
        yield FaultFigures(
            number=span.number,
            kind=span.fault.kind,
            text=str(span.fault),
            step=steps[bisect_right(ends, span.began)],
            began=span.began,
            ended=span.ended,
            outages=len(outages),
            detection_seconds=outages[0].event.time - span.began if outages else None,
            recovery_seconds=_recovery(span, outages, ends, usual)
            if outages or layout is None or layout.touches_any(span.fault)
            else None,
        )


def _recovery(
    span: FaultSpan, outages: Sequence[Outage], ends: Sequence[float], usual: float
) -> float | None:
    """`ends` are the sorted times of all steps' ends, `usual` is the longest gap in quiet."""
    over = span.began if span.ended is None else span.ended
    if not outages and span.fault.kind in SLOWING:
        return None
    if not outages:
        before, after = bisect_right(ends, span.began) - 1, bisect_left(ends, over)
        if after == len(ends) or _longest_gap(ends[max(0, before) : after + 1]) <= usual:
            return None
        return ends[after] - over
    mended = [outage.mended for outage in outages if outage.mended is not None]
    if len(mended) < len(outages):
        return None
    detected, clear = outages[0].event.time, max(mended)
    possible = detected if clear <= over else max(over, detected)
    after = bisect_left(ends, max(clear, possible))
    return None if after == len(ends) else ends[after] - possible


def _longest_gap(times: Sequence[float]) -> float:
    return max((later - earlier for earlier, later in pairwise(times)), default=0.0)


# Promises

NO_FAULT = "No fault began while the job ran, so it shows only that two runs are alike."
"""Why a drill in which all went well is of no use."""

_ERROR = re.compile(r"[\w.]+(Error|Exceeded|Lost|Mismatch|Corrupt|Exception)\b")
"""How a traceback's last line begins."""


def _broken(quiet: RunRecord, faulty: RunRecord, samples_expected: int) -> Iterable[str]:
    if quiet.exit_status != 0:
        yield (
            f"The quiet run did not finish ({_status(quiet)}): there is nothing to compare the "
            "other with."
        )
    if faulty.exit_status != 0:
        yield f"Under faults the job did not finish: {_status(faulty)}."
    theirs, ours = quiet.weights_sha256, faulty.weights_sha256
    if theirs is not None and ours is not None and theirs != ours:
        yield f"The weights differ: {theirs[:12]} without faults, {ours[:12]} under them."
    elif None in (theirs, ours) and quiet.exit_status == faulty.exit_status == 0:
        where = "quiet run" if theirs is None else "run under faults"
        yield f"The {where} left no weights to compare."
    if faulty.steps < quiet.steps:
        yield f"The result has {faulty.steps:,} of {count(quiet.steps, 'step')}."
    if faulty.samples != samples_expected:
        yield f"{samples_expected:,} samples were expected, {faulty.samples:,} were committed."
    if not any(span.fault.kind in MAY_RESTART for span in faulty.faults):
        again = count(restarts(faulty), "restart"), count(steps_repeated(faulty), "repeated step")
        if restarts(faulty) or steps_repeated(faulty):
            yield f"{again[0]} and {again[1]}, although no process was killed or paused."


def _status(record: RunRecord) -> str:
    said = f"exit status {record.exit_status}"
    lines = (record.error or "").strip().splitlines()
    named = next((line for line in reversed(lines) if _ERROR.match(line)), None)
    return f"{said}, {(named or lines[0]).rstrip('.:')}" if lines else said


def count(number: int, what: str) -> str:
    """Return `1 step`, `2 steps`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
