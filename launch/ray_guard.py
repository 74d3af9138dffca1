"""End a local Ray with its launcher: `python -S -E ray_guard.py FOLDER LAUNCHER_PID`.

Ray ends most of its processes when the launcher is killed, but two per node wait another minute for
the dead control store. They hide their command line and environment, so they are known by what they
have open: a file in the folder of this launch. At the end of the input, which comes when the
launcher ends in whatever way, this process kills them and removes the folder. Standard library
only: it is started by its path.
"""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator

DEADLINE = 30.0
PAUSE = 0.02


def holders(folder: str, spared: set[int]) -> Iterator[int]:
    """Yield the processes of this account that have a file below `folder` open."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        # Others' processes cannot be read, and one may end while it is looked at.
        with contextlib.suppress(OSError):
            if pid not in spared and any(
                os.readlink(f"/proc/{pid}/fd/{each}").startswith(f"{folder}/")
                for each in os.listdir(f"/proc/{pid}/fd")
            ):
                yield pid


def main(folder: str, launcher: int) -> None:
    """Wait for the end of the input, then end and remove what is left of the launch's Ray."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    sys.stdin.read()
    deadline = time.monotonic() + DEADLINE
    while (left := list(holders(folder, {os.getpid(), launcher}))) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(PAUSE)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
