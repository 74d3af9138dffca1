"""The command line: errors as one line and a status, the dry run, the help."""

import subprocess
import sys

import pytest

from holdfast.launch import cli
from holdfast.launch.ray_folder import RayFolder


def status_of(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture(autouse=True)
def _in_a_folder_with_a_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "train.py").write_text("")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.py"], "script absent.py isn't there"),
        (["--nproc-per-node", "0", "train.py"], "--nproc-per-node must be at least 1"),
        (["--nproc-per-node", "two", "train.py"], "valid integer"),
        (["--transport", "pigeon", "train.py"], "pigeon"),
        (["--transport", "shm", "--nnodes", "2", "--address", "a:1", "train.py"], "--nnodes is 2"),
        (["--nnodes", "2", "train.py"], "needs a Ray cluster"),
        (["--resume", "nowhere", "train.py"], "nowhere isn't there"),
        (["--no-such-option", "train.py"], "no-such-option"),
        (["--run-dir", "train.py", "train.py"], "must be a folder"),
        (["--dry-run"], "SCRIPT"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, said, capsys, tmp_path):
    assert status_of("launch", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("holdfast: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_unknown_command_is_bad_usage(capsys):
    assert status_of("lunch") == 2
    assert "lunch" in capsys.readouterr().err


def test_a_dry_run_shows_ranks_environment_and_commands_and_starts_nothing(capsys, tmp_path):
    arguments = ["--nproc-per-node", "2", "--seed", "3", "--dry-run", "train.py", "--seed", "4"]
    assert status_of("launch", *arguments) == 0
    out = capsys.readouterr().out
    for line in (
        "  RANK=0",
        "  RANK=1",
        "  WORLD_SIZE=2",
        "  HOLDFAST_TOKEN=<secret>",
        "  HOLDFAST_SEED=3",
        f"  {sys.executable} train.py --seed 4",
    ):
        assert line in out.splitlines()
    assert [each.name for each in tmp_path.iterdir()] == ["train.py"]


def test_a_dry_run_on_a_cluster_names_its_nodes_by_number(capsys):
    arguments = ["--nnodes", "2", "--address", "head:6379", "--dry-run", "train.py"]
    assert status_of("launch", *arguments) == 0
    out = capsys.readouterr().out
    assert "  MASTER_ADDR=<node 0>" in out.splitlines()
    assert "2 ranks on the Ray cluster at head:6379, transport tcp" in out


@pytest.mark.parametrize("command", [[], ["launch"], ["data"], ["data", "fetch"], ["bench"]])
def test_every_command_has_help(command, capsys):
    assert status_of(*command, "--help") == 0
    assert "Usage: holdfast" in capsys.readouterr().out


def test_the_help_waits_for_nothing_heavy():
    heavy = {"ray", "numpy", "matplotlib"}
    code = (
        "import sys\n"
        "from holdfast.launch import cli\n"
        "try: cli.main(['--help'])\n"
        f"except SystemExit: print(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"


def test_an_unknown_data_set_is_bad_usage(capsys):
    assert status_of("data", "fetch", "imagenet") == 2
    assert "imagenet" in capsys.readouterr().err


def test_a_folder_for_ray_goes_with_its_launch_and_abandoned_ones_with_the_next(tmp_path):
    with RayFolder(tmp_path) as used:
        abandoned = tmp_path / "holdfast-ray-abandoned"
        abandoned.mkdir()
        (abandoned / "lock").touch()
        with RayFolder(tmp_path) as other:
            assert used.path.is_dir()
            assert other.path.is_dir()
            assert other.path != used.path
            assert not abandoned.exists()
    assert [each.name for each in tmp_path.iterdir()] == ["train.py"]
