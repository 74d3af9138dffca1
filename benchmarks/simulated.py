"""The simulated network's time of an all-reduce beside the closed form and the kernel's network.

python benchmarks/simulated.py             the closed form 2(n - 1)(alpha + B / (n beta)) only
sudo python benchmarks/simulated.py --kernel     and real processes over shaped veth pairs (root)

A simulated cable carries the payload that Ethernet, IP and TCP leave of the real one's rate.
"""

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import time

import numpy as np

from holdfast.collectives import GroupConfig, connect
from holdfast.collectives.links.link import LinkConfig
from holdfast.fabric import build, star
from holdfast.fabric.network import Network
from holdfast.fabric.simulated import SimulatedEngine, simulate_all_reduce
from holdfast.runtime.worker import WorkerSpec

PAYLOAD = 1448 / 1514
"""Of a full Ethernet frame, as the token bucket counts it, what is TCP's payload."""
LATENCY = 20e-6
"""Seconds that a cable of the kernel's network is taken to add."""
CALLS = 5
WORKER_SECONDS = 120.0


def worker(count: int) -> None:
    """Be one rank on a host: print the seconds that each call took."""
    spec = WorkerSpec.from_environ(os.environ)
    group = connect(
        GroupConfig(
            spec.rank,
            spec.world_size,
            master_addr=spec.master_addr,
            master_port=spec.master_port,
            token=spec.token,
            transport="tcp",
            address=spec.address,
            port=spec.port,
            timeout=30.0,
        )
    )
    x = np.ones(count, np.float32)
    out = np.empty_like(x)
    group.all_reduce(x, out=out)
    for _ in range(CALLS):
        group.barrier()
        began = time.monotonic()
        group.all_reduce(x, out=out)
        print(time.monotonic() - began, flush=True)
    group.barrier()
    group.close()


def measured(n: int, rate: float, count: int) -> float:
    """Return the median seconds of an all-reduce over the kernel's network."""
    with build("kernel", star(n, rate=rate)) as network:
        token = secrets.token_hex(32)
        processes = []
        for rank, host in enumerate(network.topology.hosts):
            environment = {
                **os.environ,
                **network.engine.environment(host, rank),
                "RANK": str(rank),
                "WORLD_SIZE": str(n),
                "HOLDFAST_TOKEN": token,
                "OMP_NUM_THREADS": "1",
            }
            argv = [sys.executable, os.path.abspath(__file__), "--worker", str(count)]
            where = network.engine.hosts[host]
            processes.append(where.popen(argv, env=environment, stdout=subprocess.PIPE, rank=rank))
        outputs = [process.communicate(timeout=WORKER_SECONDS)[0] for process in processes]
    times = np.array([[float(line) for line in output.split()] for output in outputs])
    return float(statistics.median(times.max(axis=0)))


def simulated(n: int, rate: float, latency: float, count: int, segment: int) -> float:
    """Return the virtual seconds of an all-reduce."""
    with Network(SimulatedEngine(star(n, rate=rate, latency=latency))) as network:
        run = simulate_all_reduce(network, calls=2, count=count, segment=segment, together=True)
        return run.seconds(1)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernel", action="store_true")
    parser.add_argument("--worker", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker)
        return
    print(
        f"{'ranks':>5} {'MB':>6} {'Mbit/s':>7} {'alpha':>8} {'closed form':>12} {'simulated':>10}"
    )
    for n, size, rate, alpha in (
        (2, 64e6, 1e9, 1e-4),
        (4, 64e6, 1e9, 1e-4),
        (4, 128e6, 10e9, 1e-3),
        (8, 32e6, 1e9, 1e-2),
        (16, 32e6, 10e9, 1e-4),
    ):
        count = int(size / 4)
        closed = 2 * (n - 1) * (alpha + 8 * size / n / rate)
        found = simulated(n, rate, alpha / 2, count, int(size))
        print(
            f"{n:5} {size / 1e6:6.0f} {rate / 1e6:7.0f} {alpha * 1e6:6.0f}us {closed:10.5f} s "
            f"{found:8.5f} s  {100 * (found / closed - 1):+.3f} %"
        )
    if not args.kernel:
        return
    print(f"\n{'ranks':>5} {'MB':>6} {'Mbit/s':>7} {'kernel':>10} {'simulated':>10}")
    segment = LinkConfig().segment
    for n in (2, 4):
        for rate in (100e6, 300e6, 1e9):
            count = int(rate / 8 / 4 / 2)  # half a second's worth
            real = measured(n, rate, count)
            found = simulated(n, rate * PAYLOAD, LATENCY, count, segment)
            print(
                f"{n:5} {count * 4 / 1e6:6.1f} {rate / 1e6:7.0f} {real:8.3f} s {found:8.3f} s  "
                f"{100 * (found / real - 1):+.1f} %"
            )


if __name__ == "__main__":
    main()
