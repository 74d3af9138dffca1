"""A worker's environment: torchrun's variables, ours, and what it keeps of the launcher's."""

from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.errors import UsageError
from holdfast.launch.environment import (
    AttemptFacts,
    base_environment,
    own_gpu,
    resume_of_attempt,
    worker_environment,
)
from holdfast.launch.plan import describe_plan
from holdfast.launch.spec import LaunchSpec, Node, rank_table

SPEC = LaunchSpec(
    script=Path("train.py"),
    run_dir=Path("/runs/one"),
    run_id="one-1",
    nproc_per_node=2,
    nnodes=2,
    address="a:1",
    max_restarts=5,
)
PLACES = rank_table([Node("a", "10.0.0.1"), Node("b", "10.0.0.2")], 2)
FACTS = AttemptFacts("10.0.0.1", "4711", "ab" * 32, 1, "auto", "cpu")


def test_every_variable_of_a_rank():
    assert worker_environment(SPEC, PLACES[3], FACTS, cores=7, base={}) == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_RANK": "3",
        "ROLE_WORLD_SIZE": "4",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "4711",
        "TORCHELASTIC_RUN_ID": "one-1",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_MAX_RESTARTS": "5",
        "OMP_NUM_THREADS": "3",
        "HOLDFAST_TOKEN": "ab" * 32,
        "HOLDFAST_RUN_ID": "one-1",
        "HOLDFAST_RUN_DIR": "/runs/one",
        "HOLDFAST_TRANSPORT": "auto",
        "HOLDFAST_DEVICE": "cpu",
        "HOLDFAST_RESUME": "auto",
        "HOLDFAST_RESTART_COUNT": "1",
        "PYTHONUNBUFFERED": "1",
    }


def test_threads_are_at_least_one_and_the_users_if_he_says_so():
    assert worker_environment(SPEC, PLACES[0], FACTS, cores=1, base={})["OMP_NUM_THREADS"] == "1"
    chosen = worker_environment(SPEC, PLACES[0], FACTS, cores=8, base={"OMP_NUM_THREADS": "2"})
    assert "OMP_NUM_THREADS" not in chosen


def test_a_seed_is_only_set_if_it_is_given():
    seeded = LaunchSpec(Path("train.py"), Path("/runs/one"), "one", seed=0)
    assert worker_environment(seeded, PLACES[0], FACTS, cores=1, base={})["HOLDFAST_SEED"] == "0"


def test_a_worker_beside_the_launcher_has_the_launchers_environment():
    launcher = {"PATH": "/mine", "HOLDFAST_DATA": "/data", "HOLDFAST_RENDEZVOUS_FD": "7"}
    agent = {"PATH": "/rays", "RAY_JOB_ID": "1", "CUDA_VISIBLE_DEVICES": "1"}
    base = base_environment(launcher, agent, same_node=True, with_devices=False)
    assert base == {"PATH": "/mine", "HOLDFAST_DATA": "/data"}


def test_on_another_node_what_belongs_to_a_machine_is_that_nodes():
    launcher = {"PATH": "/mine", "HOSTNAME": "a", "HOLDFAST_DATA": "/data"}
    agent = {"PATH": "/its", "RAY_JOB_ID": "1"}
    base = base_environment(launcher, agent, same_node=False, with_devices=False)
    assert base == {"PATH": "/its", "HOLDFAST_DATA": "/data"}


def test_with_gpus_the_agents_share_is_the_workers():
    launcher = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    agent = {"CUDA_VISIBLE_DEVICES": "2,3"}
    base = base_environment(launcher, agent, same_node=True, with_devices=True)
    assert base == {"CUDA_VISIBLE_DEVICES": "2,3"}


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, ["0", "1"]),
        ("2,3", ["2", "3"]),
        (" 5 , GPU-8932f937,1", ["5", "GPU-8932f937"]),
        ("0,1,-1,2", ["0", "1"]),
    ],
)
def test_each_worker_sees_a_gpu_of_its_own(visible, expected):
    base = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    on_gpus = replace(FACTS, device="cuda")
    for jobs, facts in ((SPEC, on_gpus), (replace(SPEC, transport="nccl"), FACTS)):
        environments = [
            worker_environment(jobs, place, facts, cores=2, base=base) for place in PLACES
        ]
        assert [each["CUDA_VISIBLE_DEVICES"] for each in environments] == expected * 2


def test_without_gpus_nothing_is_said_of_them():
    base = {"CUDA_VISIBLE_DEVICES": "0"}
    found = worker_environment(SPEC, PLACES[1], FACTS, cores=2, base=base)
    assert "CUDA_VISIBLE_DEVICES" not in found


@pytest.mark.parametrize(("visible", "count"), [("", 0), ("-1", 0), ("3", 1), ("3,-1,4", 1)])
def test_fewer_gpus_than_workers_are_told(visible, count):
    with pytest.raises(UsageError, match=rf"2 workers of b .* shows {count}: .*nproc-per-node 1"):
        own_gpu(visible, PLACES[3], 2)


def test_a_dry_run_leaves_the_gpus_to_the_nodes():
    plan = describe_plan(replace(SPEC, device="cuda"), {"CUDA_VISIBLE_DEVICES": "0"}, cores=2)
    assert plan.count("CUDA_VISIBLE_DEVICES=<a GPU of its own>") == 4


def test_a_restart_goes_on_from_the_jobs_own_checkpoint_once_there_is_one():
    assert resume_of_attempt("never", restart_count=0, checkpointed=False) == "never"
    assert resume_of_attempt("never", restart_count=1, checkpointed=False) == "never"
    assert resume_of_attempt("/old/step_1", restart_count=1, checkpointed=True) == "auto"
