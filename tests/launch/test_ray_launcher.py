"""`holdfast launch` on a real Ray: success, failures, restarts, and what is left afterwards."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.local,
    # Ray's own processes on its own pipes: `Cluster.shutdown` does not close what it opened.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

WAIT_FOR_THE_END = """
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
open(f"{run_dir}/ready{rank}", "w").close()
time.sleep(1000)
"""


def json_of(path: Path):
    return json.loads(path.read_text())


def events_of(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event for event in events if event["event"] == name]


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if "holdfast" in name or "plasma" in name}


def test_a_job_of_two_workers(launches):
    script = launches.script(
        'print("hello", *sys.argv[1:])\n'
        'print("careful", file=sys.stderr)\n'
        "keys = ('WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'HOLDFAST_SEED', 'MINE')\n"
        "seen = {key: os.environ[key] for key in keys}\n"
        "seen['ray'] = [key for key in os.environ if key.startswith('RAY_')]\n"
        "seen['blocked'] = [int(s) for s in signal.pthread_sigmask(signal.SIG_BLOCK, ())]\n"
        "open(f'{run_dir}/seen{rank}', 'w').write(json.dumps(seen))\n"
        "if rank == 0: [progress(step) for step in range(1, 5)]\n"
        "emit(event='checkpoint', step=4, path='p')\n"
        "os.write(int(os.environ['HOLDFAST_EVENTS_FD']), b'nonsense\\n')\n"
    )
    done = launches.run(
        *("--nproc-per-node", "2", "--seed", "7", script, "--epochs", "3"), MINE="kept"
    )
    assert done.returncode == 0, done.stderr
    run_dir = launches.run_dir
    assert {"[rank 0] hello --epochs 3", "[rank 1] hello --epochs 3"} <= set(
        done.stdout.splitlines()
    )
    assert sorted(done.stderr.splitlines()) == ["[rank 0] careful", "[rank 1] careful"]
    assert "step 4/4" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("holdfast: finished")
    for rank in range(2):
        logs = run_dir / "attempt_0" / f"rank_{rank}"
        assert (logs / "stdout.log").read_text() == "hello --epochs 3\n"
        assert (logs / "stderr.log").read_text() == "careful\n"
        assert json_of(run_dir / f"seen{rank}") == {
            "WORLD_SIZE": "2",
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "HOLDFAST_SEED": "7",
            "MINE": "kept",
            "ray": [],
            "blocked": [],
        }
    job = (run_dir / "job.json").read_text()
    assert json.loads(job)["world_size"] == 2
    assert "token" not in job.lower()
    events = events_of(run_dir)
    assert [event["event"] for event in events][:2] == ["launched", "started"]
    assert len(named(events, "worker exited")) == 2
    assert len(named(events, "checkpoint")) == 2
    assert len(named(events, "malformed event")) == 2
    assert not named(events, "progress")
    assert launches.left() == ({}, [])


def test_the_first_failing_ranks_traceback_and_status(launches):
    script = launches.script(
        "def broken(): raise ValueError('boom')\n"
        "if rank == 1:\n"
        "    sys.excepthook = lambda *error: (sys.__excepthook__(*error), os._exit(7))\n"
        "    broken()\n"
        "open(f'{run_dir}/port', 'w').write(os.environ['MASTER_PORT'])\n"
        "while not os.path.exists(f'{run_dir}/attempt_0/rank_1/stderr.log') or not os.path.getsize("
        "f'{run_dir}/attempt_0/rank_1/stderr.log'): time.sleep(0.01)\n"
        "emit(event='failed', error='PeerLost', message='rank 1', consequence=True)\n"
        "raise RuntimeError('rank 1 is gone')\n"
    )
    done = launches.run("--nproc-per-node", "2", script)
    assert done.returncode == 7
    error = done.stderr[done.stderr.index("holdfast: error: ") :].splitlines()
    assert error[0].startswith("holdfast: error: rank 1 on ")
    assert error[0].endswith("ended with exit status 7 (attempt 0)")
    assert error[1] == "Traceback (most recent call last):"
    assert error[-3] == "ValueError: boom"
    assert error[-2] == "1 other rank ended as a consequence"
    assert error[-1].endswith("attempt_0/rank_1/stderr.log")
    assert "rank 1 is gone" not in done.stderr
    assert "rank 1 is gone" in (launches.run_dir / "attempt_0/rank_0/stderr.log").read_text()
    result = json_of(launches.run_dir / "result.json")
    assert (result["status"], result["exit_status"], result["restarts"]) == ("failed", 7, 0)
    assert result["world_size"] == 2
    assert "ValueError: boom" in result["error"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int((launches.run_dir / "port").read_text())))
    assert launches.left() == ({}, [])


def test_more_gpus_than_there_are(launches):
    done = launches.run(
        *("--nproc-per-node", "2", "--device", "cuda", launches.script("")),
        CUDA_VISIBLE_DEVICES="",
    )
    assert done.returncode == 2
    assert "asked for a node with 2 CPUs and 2 GPUs (one per worker)" in done.stderr
    assert "2 CPUs, 0 GPUs" in done.stderr
    assert not list(launches.run_dir.glob("attempt_*"))
    assert launches.left() == ({}, [])


def test_ctrl_c_and_a_run_directory_in_use(launches, until):
    memory = shared_memory()
    script = launches.script(WAIT_FOR_THE_END)
    process = launches.start("--nproc-per-node", "2", script)
    until(lambda: launches.ready(0, 1))
    second = launches.run(script)
    assert second.returncode == 2
    assert "another job runs in" in second.stderr
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("holdfast: interrupted by SIGINT")
    result = json_of(launches.run_dir / "result.json")
    assert (result["status"], result["exit_status"]) == ("interrupted", 130)
    assert launches.left() == ({}, [])
    assert shared_memory() <= memory


def test_a_second_signal_is_immediate(launches, until):
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WAIT_FOR_THE_END
    process = launches.start("--nproc-per-node", "2", launches.script(stubborn))
    until(lambda: launches.ready(0, 1))
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    assert not (launches.run_dir / "result.json").exists()
    until(launches.nothing_left)


def test_a_signal_while_ray_starts(launches, until):
    process = launches.start(launches.script(WAIT_FOR_THE_END))
    until(lambda: any(launches.temporary.glob("holdfast-ray-*/session_*")))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert json_of(launches.run_dir / "result.json")["status"] == "interrupted"
    until(launches.nothing_left)


def test_a_killed_launcher_leaves_nothing(launches, until):
    memory = shared_memory()
    process = launches.start("--nproc-per-node", "2", launches.script(WAIT_FOR_THE_END))
    until(lambda: launches.ready(0, 1))
    process.kill()
    process.communicate(timeout=60)
    until(launches.nothing_left)
    assert shared_memory() <= memory


def test_no_cluster_at_the_address(launches):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    done = launches.run("--address", f"127.0.0.1:{port}", launches.script(""))
    assert done.returncode == 1
    assert f"no Ray cluster can be reached at 127.0.0.1:{port}" in done.stderr


def test_python_m_holdfast_is_the_command(launches):
    done = launches.run("--dry-run", launches.script(""))
    assert done.returncode == 0
    assert f"  {sys.executable} script.py" in done.stdout.splitlines()


# On a cluster that is there already


@pytest.fixture(scope="module")
def cluster():
    """A cluster of one node, which tests may add to; starting one takes seconds."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
    # Short, for the sake of the sockets in it.
    with (
        tempfile.TemporaryDirectory(prefix="hf-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        # A node that is killed is missed after seconds; one that is only slow has as long as ever.
        health = {"health_check_period_ms": 500, "health_check_initial_delay_ms": 500}
        head = {**node, "include_dashboard": False, "_system_config": health}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        cluster.node_args = node
        try:
            yield cluster
        finally:
            cluster.shutdown()
            gc.collect()


def test_two_nodes_of_a_cluster_one_of_which_is_lost(cluster, launches, until):
    lost = cluster.add_node(**cluster.node_args)
    script = launches.script(
        "print(*[os.environ[key] for key in ('RANK', 'LOCAL_RANK', 'GROUP_RANK', 'WORLD_SIZE',"
        " 'HOLDFAST_TRANSPORT')])\n"
        "if restart == 0:\n"
        "    open(f'{run_dir}/ready{rank}', 'w').close()\n"
        "    time.sleep(1000)\n"
    )
    process = launches.start(
        *("--nnodes", "2", "--nproc-per-node", "2", "--address", cluster.address, script)
    )
    until(lambda: launches.ready(0, 1, 2, 3))
    cluster.add_node(**cluster.node_args)
    cluster.remove_node(lost, allow_graceful=False)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "lost" in err
    for rank in range(4):
        log = launches.run_dir / f"attempt_1/rank_{rank}/stdout.log"
        assert log.read_text().split() == [str(rank), str(rank % 2), str(rank // 2), "4", "auto"]
        assert f"[rank {rank}] " in out
    assert launches.left() == ({}, [])

    # The same command with less patience, as there is nobody to join.
    impatient = (
        "import sys\n"
        "from holdfast.launch import cli, ray_launcher\n"
        "ray_launcher.PLACEMENT_DEADLINE = 1.0\n"
        "cli.main(['launch', *sys.argv[1:]])"
    )
    arguments = ["--nnodes", "2", "--nproc-per-node", "3", "--address", cluster.address, script]
    done = subprocess.run(
        [sys.executable, "-c", impatient, "--run-dir", "too-large", *arguments],
        cwd=launches.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "asked for 2 nodes with 3 CPUs each" in done.stderr
    assert "2 CPUs, 0 GPUs" in done.stderr


def test_a_killed_worker_is_started_again_with_a_new_token(cluster, launches):
    script = launches.script(
        "print('resume', os.environ['HOLDFAST_RESUME'])\n"
        "open(f'{run_dir}/token{restart}', 'w').write(os.environ['HOLDFAST_TOKEN'])\n"
        "if restart == 0:\n"
        "    if rank == 0: emit(event='checkpoint', step=1, path='p')\n"
        "    if rank == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    time.sleep(1000)\n"
        "elif restart == 1:\n"
        "    if rank == 0: progress(3)\n"
        "    if rank == 0: sys.exit(5)\n"
        "    time.sleep(1000)\n"
    )
    done = launches.run(
        *("--nproc-per-node", "2", "--resume", "never", "--max-restarts", "2"),
        *("--address", cluster.address, script),
    )
    assert done.returncode == 0, done.stderr
    assert "was ended by SIGKILL (attempt 0)" in done.stderr
    assert "rank 0 on" in done.stderr
    assert "ended with exit status 5 (attempt 1)" in done.stderr
    resumes = [
        (launches.run_dir / f"attempt_{number}/rank_0/stdout.log").read_text().strip()
        for number in range(3)
    ]
    assert resumes == ["resume never", "resume auto", "resume auto"]
    tokens = {(launches.run_dir / f"token{number}").read_text() for number in range(3)}
    assert len(tokens) == 3
    assert all(len(bytes.fromhex(token)) == 32 for token in tokens)
    assert [e["restart"] for e in named(events_of(launches.run_dir), "restart")] == [1, 2]
    assert launches.left() == ({}, [])


def test_a_cluster_ends_the_job_of_a_killed_launcher(cluster, launches, until):
    script = launches.script(WAIT_FOR_THE_END)
    process = launches.start("--nproc-per-node", "2", "--address", cluster.address, script)
    until(lambda: launches.ready(0, 1))
    process.kill()
    process.communicate(timeout=60)
    until(launches.nothing_left)
