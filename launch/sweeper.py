"""End what workers leave behind when their agent is killed: `python -S -E sweeper.py`.

The kernel ends a worker with its agent, but not the worker's own children. This process reads
`+GROUP` and `-GROUP` lines from the agent; at the end of the input, however the agent ended, it
kills the groups that are left. It is no child of the agent, because Ray kills an agent's children
before their own: it leaves as soon as it is started. Standard library only: it is started by its
path.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def main(lines: Iterable[str]) -> None:
    """Follow the lines, then kill the process groups that were added and not taken away."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in sorted(groups):
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    if os.fork() == 0:
        main(sys.stdin)
