"""The job's spec: what it refuses, what it fills in, where the ranks go."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import UsageError
from holdfast.launch.spec import (
    LaunchSpec,
    Node,
    absolute_resume,
    check_cluster,
    check_files,
    default_run_dir,
    new_run_id,
    rank_table,
)


def spec(**changes: Any) -> LaunchSpec:
    return replace(LaunchSpec(Path("train.py"), Path("/runs/one"), "one"), **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nproc_per_node": 0}, "--nproc-per-node must be at least 1, got 0"),
        ({"nnodes": -1}, "--nnodes must be at least 1, got -1"),
        ({"max_restarts": -1}, "--max-restarts must be at least 0"),
        ({"seed": -3}, "--seed must be from 0"),
        ({"nnodes": 2, "address": "a:1", "transport": "shm"}, "use --transport tcp or auto"),
        ({"address": "ray://a:1"}, "Ray Client"),
    ],
)
def test_what_cannot_be_is_refused_with_the_option_named(changes, said):
    with pytest.raises(UsageError, match=said):
        spec(**changes)


def test_nodes_need_a_cluster():
    with pytest.raises(UsageError, match="needs a Ray cluster"):
        check_cluster(spec(nnodes=2))
    check_cluster(spec(nnodes=2, address="a:1"))


def test_auto_transport_is_shared_memory_on_one_node_and_tcp_beyond():
    assert spec(nproc_per_node=4).resolved_transport == "shm"
    assert spec(nnodes=2, address="a:1").resolved_transport == "tcp"
    assert spec(transport="tcp").resolved_transport == "tcp"


def test_ranks_count_node_by_node():
    table = rank_table([Node("a", "10.0.0.1"), Node("b", "10.0.0.2")], 2)
    assert [(p.rank, p.local_rank, p.group_rank, p.node.host) for p in table] == [
        (0, 0, 0, "a"),
        (1, 1, 0, "a"),
        (2, 0, 1, "b"),
        (3, 1, 1, "b"),
    ]


def test_the_default_run_directory_has_the_scripts_name_and_the_time():
    now = datetime(2026, 3, 4, 5, 6, 7)
    assert default_run_dir(Path("examples/train.py"), now) == Path("runs/train-20260304-050607")


def test_a_run_id_is_fit_for_file_names():
    assert new_run_id(Path("/runs/my run (2)"), "ab12") == "my-run-2-ab12"


def test_a_path_to_resume_from_becomes_absolute():
    assert absolute_resume("auto", Path("/here")) == "auto"
    assert absolute_resume("old/step_1", Path("/here")) == "/here/old/step_1"


def test_files_that_are_not_there_are_refused(tmp_path):
    script = tmp_path / "train.py"
    with pytest.raises(UsageError, match=r"train\.py isn't there"):
        check_files(spec(script=script))
    with pytest.raises(UsageError, match="it is not a file"):
        check_files(spec(script=tmp_path))
    script.write_text("")
    check_files(spec(script=script))
    with pytest.raises(UsageError, match=r"--resume .* isn't there"):
        check_files(spec(script=script, resume=str(tmp_path / "step_1")))
    with pytest.raises(UsageError, match="must be a folder"):
        check_files(spec(script=script, run_dir=script))


def test_job_json_can_be_written():
    plain = json.loads(json.dumps(spec(args=("--epochs", "3"), nproc_per_node=2).to_json()))
    assert plain["args"] == ["--epochs", "3"]
    assert plain["world_size"] == 2
