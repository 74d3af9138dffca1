"""What a fault did to a stream of collectives, from the times at which they ended. Pure.

The stall is what whoever waits for the collectives sees: the longest time in which none ended.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

WINDOW = 0.25
"""Seconds over which throughput is taken, to see when it is whole again."""
LAST = 1.0
"""Seconds at the end over which it is taken, to see to what it has returned."""
WHOLE = 0.99
"""Which part of the throughput before counts as whole."""


@dataclass(frozen=True)
class Trial:
    """One fault; times in seconds.

    `stall` is the longest time in which no collective ended while the fault lasted, `after` since
    then; `back` is how long after its end throughput was whole again (None: never), `returned`
    which part of the throughput `before` (collectives per second) it has come to in the end.
    """

    fault: str
    before: float
    stall: float
    after: float
    back: float | None
    returned: float
    wrong: int


def judged(fault: str, ended: Sequence[float], began: float, healed: float, wrong: int) -> Trial:
    """Return what a trial came to.

    `ended` are the times at which collectives had ended, from before the fault until `reaches`; the
    fault lasted from `began` to `healed`.
    """
    before = throughput(ended, ended[0], began)
    ends = (end for end in ended if end >= healed + WINDOW)
    whole = (end for end in ends if throughput(ended, end - WINDOW, end) >= WHOLE * before)
    back = next(whole, None)
    return Trial(
        fault,
        before=before,
        stall=longest_gap(ended, began, healed),
        after=longest_gap(ended, healed, ended[-1]),
        back=None if back is None else back - healed,
        returned=throughput(ended, ended[-1] - LAST, ended[-1]) / before,
        wrong=wrong,
    )


def reaches(ended: Sequence[float], healed: float) -> bool:
    """Return whether collectives went on for long enough after a fault to judge it."""
    return ended[-1] >= healed + LAST


def throughput(ended: Sequence[float], begin: float, end: float) -> float:
    """Return the collectives per second between the first and the last that ended in that time."""
    of = [each for each in ended if begin <= each <= end]
    return (len(of) - 1) / (of[-1] - of[0]) if len(of) > 1 else 0.0


def longest_gap(ended: Sequence[float], begin: float, end: float) -> float:
    """Return the longest time without a collective that ended, of those that touch this time."""
    gaps = (late - early for early, late in pairwise(ended) if late > begin and early < end)
    return max(gaps, default=0.0)


def percentile(values: Sequence[float], part: float) -> float:
    """Return the smallest of sorted `values` that `part` percent of them do not exceed."""
    return values[max(0, math.ceil(len(values) * part / 100) - 1)] if values else math.nan
