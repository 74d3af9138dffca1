"""A rank of a job that does nothing but all-reduce; `conftest.py` starts it on a network's host.

Prints one JSON line: the digests of its results, or the error that ended it and how long that took.
"""

import hashlib
import json
import os
import sys
import time

import numpy as np

from holdfast.collectives import GroupConfig, LinkConfig, connect
from holdfast.errors import CommunicationError
from holdfast.fabric.stage import Player
from holdfast.runtime.worker import WorkerSpec

QUICK = LinkConfig(
    segment=16 << 10,
    copy_limit=1 << 10,
    heartbeat=0.05,
    silence=0.25,
    handshake=0.5,
    last_retry=0.2,
    checksum="fold",  # a relay changes bytes behind TCP's back
)


def contribution(seed, call, rank, count):
    """Return what a rank adds in a call."""
    return np.random.default_rng([seed, call, rank]).normal(size=count).astype(np.float32)


class Witness:
    """Stops where a fault is to be put in place."""

    def __init__(self, spec):
        self.call = -1
        self.lost = 0
        self._player = Player(spec.stage, spec.rank, spec.host)

    def phase(self, name):
        self._player.reach(self.call, name)

    def link_lost(self, peer, why):
        self.lost += 1

    def link_restored(self, peer, seconds):
        pass

    def traffic(self, peer, sent, received):
        pass


def main(seed, calls, count, segment):
    spec = WorkerSpec.from_environ(os.environ)
    witness = Witness(spec)
    group = connect(
        GroupConfig(
            spec.rank,
            spec.world_size,
            master_addr=spec.master_addr,
            master_port=spec.master_port,
            token=spec.token,
            transport="tcp",
            timeout=spec.timeout_seconds,
            meeting=30.0,
            address=spec.address,
            port=spec.port,
            public=spec.public,
            control_address=spec.control_address,
            witness=witness,
            link=LinkConfig() if segment == 0 else QUICK,
        )
    )
    digests, seconds, error = [], [], None
    began = time.monotonic()
    try:
        group.barrier()
        for call in range(calls):
            witness.call = call
            x = contribution(seed, call, spec.rank, count)
            witness.phase("step")
            began = time.monotonic()
            out = group.all_reduce(x, out=np.empty_like(x))
            seconds.append(time.monotonic() - began)
            digests.append(hashlib.sha256(out.tobytes()).hexdigest())
        witness.call = -1
        group.barrier()
    except CommunicationError as problem:
        error = [type(problem).__name__, str(problem), time.monotonic() - began]
    group.close()
    answer = {"digests": digests, "seconds": seconds, "error": error, "lost": witness.lost}
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
