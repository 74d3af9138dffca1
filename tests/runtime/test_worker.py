"""A worker reads its place from whatever started it."""

import time
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.runtime.worker import WorkerSpec, default_run_dir

TOKEN = "ab" * 32


def spec(**environ):
    return WorkerSpec.from_environ(environ)


def test_alone():
    found = spec()
    assert (found.rank, found.world_size, found.transport) == (0, 1, "auto")
    assert found.run_dir is not None
    assert found.run_dir.parent == Path("runs")


def test_under_the_launcher():
    found = spec(
        RANK="3",
        WORLD_SIZE="8",
        LOCAL_RANK="1",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="10.0.0.7",
        MASTER_PORT="1234",
        HOLDFAST_TOKEN=TOKEN,
        HOLDFAST_TRANSPORT="tcp",
        HOLDFAST_SEED="5",
        HOLDFAST_RUN_DIR="/somewhere/run",
        HOLDFAST_RESUME="never",
        HOLDFAST_RESTART_COUNT="2",
        HOLDFAST_EVENTS_FD="7",
        HOLDFAST_DEVICE="cpu",
    )
    assert found == WorkerSpec(
        rank=3,
        world_size=8,
        local_rank=1,
        master_addr="10.0.0.7",
        master_port=1234,
        token=bytes.fromhex(TOKEN),
        transport="tcp",
        device="cpu",
        seed=5,
        run_dir=Path("/somewhere/run"),
        resume="never",
        restart_count=2,
        events_fd=7,
    )


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2",
          "OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, (1, 2, 1)),
        ({"PMI_RANK": "1", "PMI_SIZE": "3", "MPI_LOCALRANKID": "1",
          "MPI_LOCALNRANKS": "3"}, (1, 3, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "0",
          "MASTER_ADDR": "node1"}, (2, 4, 0)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1, 0)),  # a batch script, not srun
        ({"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "MASTER_ADDR": "a"}, (1, 2, 0)),
        ({"RANK": "0", "WORLD_SIZE": "1", "PMI_RANK": "5", "PMI_SIZE": "9"}, (0, 1, 0)),
    ],
    ids=["openmpi", "mpich", "srun", "sbatch", "skypilot", "ours first"],
)  # fmt: skip
def test_other_launchers(environ, place):
    found = spec(**environ, HOLDFAST_TOKEN=TOKEN)
    assert (found.rank, found.world_size, found.local_rank) == place


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK must be a whole number, found 'one'"),
        ({"RANK": "0"}, "RANK and WORLD_SIZE go together"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK=2 and WORLD_SIZE=2 do not fit"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "set MASTER_ADDR"),
        ({"HOLDFAST_TOKEN": "secret"}, "must be hexadecimal"),
        ({"HOLDFAST_SEED": "x"}, "HOLDFAST_SEED must be a whole number"),
    ],
)
def test_what_cannot_be_is_named(environ, message):
    with pytest.raises(UsageError, match=message):
        spec(**environ)


def test_the_token_is_not_shown():
    assert TOKEN not in repr(spec(HOLDFAST_TOKEN=TOKEN))


def test_the_default_run_directory_names_script_and_time():
    now = time.strptime("2026-03-04 05:06:07", "%Y-%m-%d %H:%M:%S")
    assert default_run_dir("/a/b/train.py", now) == Path("runs/train-20260304-050607")
