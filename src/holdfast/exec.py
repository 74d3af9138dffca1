"""Become a program that dies with its parent: `python -S -E exec.py PARENT_PID -- ARGV…`.

It runs between the parent and the program, in place of a `preexec_fn`, which is not safe in a
process with threads. Standard library only: it is started by its path, without Holdfast.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask the kernel for SIGKILL when the parent ends, then replace this process by the program.

    The kernel means the *thread* that started this process: start it from one that lives as long
    as the program should.
    """
    parent, dashes, *argv = arguments
    if dashes != "--" or not argv:
        raise SystemExit(f"usage: exec.py PARENT_PID -- ARGV…, got {arguments}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl(PR_SET_PDEATHSIG): {os.strerror(code)}")
    if os.getppid() != int(parent):
        raise SystemExit(f"the parent (process {parent}) has ended before its program began")
    # Ray starts its processes with SIGINT blocked, and a mask outlives exec.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execve(argv[0], argv, os.environ)


if __name__ == "__main__":
    main(sys.argv[1:])
