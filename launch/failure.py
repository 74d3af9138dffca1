"""Which failure of an attempt is its cause, what to tell about it, and whether to try again.

Pure. When one worker dies its peers notice and end too, often before its own end is known here: so
the cause is the first failure that isn't marked as a consequence by the worker itself.
"""

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

USAGE_STATUS = 2
"""Exit status of a worker that was started wrongly; trying again would change nothing."""

TRACEBACK_LINES = 60
TAIL_LINES = 10

_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)


@dataclass(frozen=True)
class Failure:
    """A worker that did not end well.

    `returncode` is negative for a signal and None if the node was lost; `consequence` says that the
    worker itself called its end a consequence of a peer's; `stopped` that the launcher ended it;
    `reason` why a node was lost.
    """

    rank: int
    host: str
    returncode: int | None
    consequence: bool = False
    stopped: bool = False
    reason: str = ""

    @property
    def by_signal(self) -> bool:
        """Whether a signal ended it that the launcher didn't send."""
        return self.returncode is not None and self.returncode < 0 and not self.stopped

    @property
    def exit_status(self) -> int:
        """The status as a shell counts it: 128 + n for signal n, 1 for a lost node."""
        if self.returncode is None:
            return 1
        return self.returncode if self.returncode >= 0 else 128 - self.returncode

    def describe(self) -> str:
        """Say how it ended: `exit status 7`, `SIGKILL`, or that the node was lost."""
        if self.returncode is None:
            return "was lost with its node"
        if self.returncode < 0:
            return f"was ended by {signal_name(-self.returncode)}"
        return f"ended with exit status {self.returncode}"


def signal_name(number: int) -> str:
    """Return `SIGKILL` for 9; a real-time signal is named by its number."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def choose_cause(failures: Sequence[Failure]) -> Failure:
    """Return the cause among the failures, which come in the order in which they were seen."""
    own = [each for each in failures if not each.stopped]
    return next((each for each in own if not each.consequence), own[0])


Decision = Literal["restart", "usage", "no step completed", "no restarts left"]


def decide(
    failures: Sequence[Failure], *, stepped: bool, restarts: int, max_restarts: int
) -> Decision:
    """Say whether to repeat a failed attempt, or why not.

    It is repeated if the machine may be to blame (a signal, a lost node, or nothing but
    consequences), or if at least one step had been completed: then the script itself works.
    """
    cause = choose_cause(failures)
    if cause.returncode == USAGE_STATUS:
        return "usage"
    machine = cause.consequence or any(
        each.by_signal or each.returncode is None for each in failures
    )
    if not machine and not stepped:
        return "no step completed"
    return "restart" if restarts < max_restarts else "no restarts left"


def last_traceback(stderr: str) -> list[str]:
    """Return the lines of the last traceback in `stderr`, with those it is chained to.

    Where there is none, the last lines of what there is.
    """
    lines = stderr.rstrip().splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith(_TRACEBACK)]
    if not starts:
        return lines[-TAIL_LINES:]
    start = starts.pop()
    while starts and any(line in _CHAINED for line in lines[starts[-1] : start]):
        start = starts.pop()
    found = lines[start:]
    if len(found) > TRACEBACK_LINES:
        left_out = len(found) - TRACEBACK_LINES
        half = TRACEBACK_LINES // 2
        found = [*found[:half], f"  … {left_out} lines left out …", *found[-half:]]
    return found


def describe_failures(
    failures: Sequence[Failure], *, attempt: int, stderr: str, log: str, world_size: int
) -> str:
    """Return the one block that a person reads: the cause, its traceback, the rest as a number.

    `stderr` is the end of what the cause wrote there, `log` the file that has all of it.
    """
    cause = choose_cause(failures)
    lines = [f"rank {cause.rank} on {cause.host} {cause.describe()} (attempt {attempt})"]
    if cause.returncode is None and cause.reason:
        lines.append(cause.reason)
    lines += last_traceback(stderr)
    if cause.returncode == -signal.SIGKILL:
        lines.append(
            "if nobody sent it SIGKILL, its machine ran out of memory: see the kernel's log (dmesg)"
        )
    others = [each for each in failures if each.rank != cause.rank]
    caused = [each for each in others if each.consequence or each.stopped]
    own = [each for each in others if not (each.consequence or each.stopped)]
    if caused:
        lines.append(f"{_ranks(len(caused))} ended as a consequence")
    lines += [f"rank {each.rank} on {each.host} {each.describe()} too" for each in own[:4]]
    if len(own) > 4:
        lines.append(f"and {_ranks(len(own) - 4)} of {world_size} too")
    lines.append(f"its output: {log}")
    return "\n".join(lines)


def _ranks(count: int) -> str:
    return "1 other rank" if count == 1 else f"{count} other ranks"
