"""One of two ranks, each on a GPU of its own, for test_nccl_gpu.py: `nccl_rank.py WHAT FILE`.

WHAT is `sums` or `death`; what was found is written to FILE, with the rank put behind its name.
"""

import contextlib
import json
import math
import os
import signal
import sys
import time

import cupy

from holdfast.collectives import GroupConfig
from holdfast.collectives.nccl.communicator import open_nccl
from holdfast.collectives.rendezvous import Rendezvous
from holdfast.errors import CommunicationError


def sums(communicator):
    """Return the mean of sums of ones and twos, whether chunks are right, and a message's sum."""
    found = []
    for count in (1, 31, 1000, 1 << 20):
        x = cupy.full(count, communicator.rank + 1, "float32")
        found.append(float(communicator.all_reduce(x, out=cupy.empty_like(x)).mean()))
        part = communicator.reduce_scatter(x)
        found.append(bool((part == 3.0).all()))
    x = cupy.full(3, communicator.rank)
    communicator.send(x, 1) if communicator.rank == 0 else communicator.recv(x, 0)
    return [*found, int(x.sum())]


def death(communicator):
    """Let rank 1 end without a word; return after how many seconds rank 0 had the error."""
    communicator.barrier()
    if communicator.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    began = time.monotonic()
    try:
        communicator.all_reduce(cupy.ones(1 << 20), async_op=True).wait(math.inf)
    except CommunicationError as error:
        return [time.monotonic() - began, str(error)]
    return None


def main(what, file):
    """Open the communicator, do `what`, and write what was found."""
    rank = int(os.environ["RANK"])
    token = bytes.fromhex(os.environ["HOLDFAST_TOKEN"])
    port, fd = int(os.environ["MASTER_PORT"]), os.environ.get("HOLDFAST_RENDEZVOUS_FD")
    cupy.cuda.Device(rank).use()
    config = GroupConfig(rank, 2, master_port=port, token=token, timeout=10.0)
    fd = None if fd is None else int(fd)
    with Rendezvous(rank, 2, "127.0.0.1", port, token, listen_fd=fd, timeout=60.0) as table:
        communicator = open_nccl(config, table)
    with contextlib.closing(communicator):
        found = {"sums": sums, "death": death}[what](communicator)
    with open(f"{file}.{rank}", "w", encoding="utf-8") as output:
        json.dump(found, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
