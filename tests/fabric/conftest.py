"""All-reduces on the hosts of a network, whose results must not depend on what befalls it."""

import hashlib
import json
import os
import runpy
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from holdfast.collectives.schedule import chunk_bounds, ring_reduction_order
from holdfast.fabric.build import build
from holdfast.fabric.network import Network
from holdfast.fabric.simulated import SimulatedEngine, simulate_all_reduce

WORKER = Path(__file__).with_name("ring_worker.py")
START_SECONDS = 40.0
_worker = runpy.run_path(str(WORKER))
contribution, QUICK = _worker["contribution"], _worker["QUICK"]


@dataclass(frozen=True)
class RankEnd:
    """How one rank ended: `digests` of its results, `error` (name, message, seconds) or None."""

    digests: list[str]
    error: tuple[str, str, float] | None
    killed: bool = False
    seconds: tuple[float, ...] = ()
    lost: int = 0


def expected(size, seed, calls, count):
    """Return the digests of the results, added up in the ring's order."""
    digests = []
    bounds = chunk_bounds(count, size)
    for call in range(calls):
        parts = [contribution(seed, call, rank, count) for rank in range(size)]
        total = parts[0].copy()
        for chunk in range(size):
            part = slice(bounds[chunk], bounds[chunk + 1])
            first, *rest = ring_reduction_order(size, chunk)
            total[part] = parts[first][part]
            for rank in rest:
                total[part] = total[part] + parts[rank][part]
        digests.append(hashlib.sha256(total.tobytes()).hexdigest())
    return digests


class Ring:
    """All-reduces that run on every host of a network; started at once, awaited by `ends`."""

    def __new__(cls, network, **_):
        return object.__new__(SimulatedRing if network.name == "simulated" else cls)

    def __init__(self, network, *, seed=0, calls=4, count=60_000, timeout=20, quick=True):
        self.network = network
        self.size = len(network.topology.hosts)
        self.expected = expected(self.size, seed, calls, count)
        self._timeout = timeout
        self._files = []
        self._processes = []
        token = secrets.token_hex(32)
        base = {k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")}
        for rank, host in enumerate(network.topology.hosts):
            env = {
                **base,
                **network.engine.environment(host, rank),
                "RANK": str(rank),
                "WORLD_SIZE": str(self.size),
                "HOLDFAST_TOKEN": token,
                "HOLDFAST_TIMEOUT_SECONDS": str(timeout),
                "OMP_NUM_THREADS": "1",
            }
            out, err = (tempfile.TemporaryFile() for _ in range(2))  # noqa: SIM115 - closed by close
            self._files.append((out, err))
            argv = [sys.executable, str(WORKER), *map(str, (seed, calls, count, int(quick)))]
            where = network.engine.hosts[host]
            self._processes.append(where.popen(argv, env=env, stdout=out, stderr=err, rank=rank))

    def ends(self, longest=None):
        """Return how each rank ended; fail if one hangs."""
        deadline = time.monotonic() + START_SECONDS + (longest or 3 * self._timeout)
        ends = []
        for rank, process in enumerate(self._processes):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"rank {rank} hangs") from None
            host = self.network.engine.hosts[self.network.topology.hosts[rank]]
            host.forget(process.pid)
            out, err = (self._read(file) for file in self._files[rank])
            if process.returncode == -9:
                ends.append(RankEnd([], None, killed=True))
                continue
            assert process.returncode == 0, f"rank {rank}: {process.returncode}\n{err}"
            answer = json.loads(out)
            error = None if answer["error"] is None else tuple(answer["error"])
            ends.append(
                RankEnd(answer["digests"], error, False, tuple(answer["seconds"]), answer["lost"])
            )
        return ends

    def close(self):
        for process in self._processes:
            process.kill()
            process.wait(10)
        for files in self._files:
            for file in files:
                file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def check_whole(self, ends):
        """Fail unless every rank has every result, to the bit."""
        for rank, end in enumerate(ends):
            assert end.error is None, f"rank {rank}: {end.error}"
            assert end.digests == self.expected, f"rank {rank} has other bits"

    def check_clean(self, ends):
        """Fail if a result has other bits, or an error is not a named one within its deadline."""
        for rank, end in enumerate(ends):
            assert end.digests == self.expected[: len(end.digests)], f"rank {rank} has other bits"
            if end.killed:
                continue
            if end.error is None:
                assert len(end.digests) == len(self.expected)
            else:
                name, message, seconds = end.error
                assert name in ("DeadlineExceeded", "PeerLost"), f"rank {rank}: {name}: {message}"
                assert seconds < 3 * self._timeout + 5, f"rank {rank}: {seconds} s: {message}"

    @staticmethod
    def _read(file):
        file.seek(0)
        return file.read().decode()


class SimulatedRing(Ring):
    """The same all-reduces as state machines with a virtual clock."""

    def __init__(self, network, *, seed=0, calls=4, count=60_000, timeout=20):
        self.network = network
        self._timeout = timeout
        self._run = partial(
            simulate_all_reduce, calls=calls, count=count, timeout=timeout, inputs=seed
        )
        with self.build(network.topology) as quiet:
            self.expected = list(self._run(quiet).ranks[0].digests)

    @staticmethod
    def build(topology):
        return Network(SimulatedEngine(topology, config=QUICK))

    def ends(self):
        run = self._run(self.network)
        ends = []
        for rank in run.ranks:
            error = None
            if rank.error is not None:
                error = (type(rank.error).__name__, str(rank.error), 0.0)
            lost = sum(
                what == "connection lost" and who == rank.rank
                for _, what, who, *_ in [(*event, None) for event in run.events]
            )
            killed = rank.state == "killed"
            ends.append(RankEnd(list(rank.digests), error, killed, lost=lost))
        return ends

    def close(self):
        pass


@pytest.fixture
def ring():
    """The class of all-reduces on a network's hosts."""
    return Ring


@pytest.fixture
def make():
    """Return what builds a network of any kind."""

    def make(kind, topology):
        if kind == "simulated":
            return SimulatedRing.build(topology)
        return build(kind, topology)

    return make
