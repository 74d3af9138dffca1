"""What mpiexec starts in a worker's place: `python -S -E stand_in.py SOCKET`.

It hands what mpiexec has given it (its environment, and the descriptor by which MPICH's processes
meet) to the agent, which starts the worker, and ends as the worker ends, so that mpiexec hears of
it. Standard library only: it is started by its path.
"""

import json
import os
import resource
import signal
import socket
import sys

MEETING_FD = "PMI_FD"


def main(path: str) -> None:
    """Hand over what mpiexec has given, wait for the worker's end and end likewise."""
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(path)
    meeting = [int(os.environ[MEETING_FD])] if MEETING_FD in os.environ else []
    data = json.dumps(dict(os.environ)).encode()
    socket.send_fds(agent, [len(data).to_bytes(8, "little")], meeting)
    agent.sendall(data)
    for descriptor in meeting:
        os.close(descriptor)  # else the worker's end would not be the descriptor's
    told = agent.recv(16)
    returncode = int(told) if told else 1  # the agent is gone, and its workers with it
    if returncode >= 0:
        sys.exit(returncode)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if -returncode not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-returncode, signal.SIG_DFL)
    os.kill(os.getpid(), -returncode)


if __name__ == "__main__":
    main(sys.argv[1])
