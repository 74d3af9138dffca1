"""`holdfast bench` as a user runs it, and the peers that are not installed."""

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from holdfast.errors import HoldfastError, MissingDependency, UsageError
from holdfast.launch.bandwidth.figures import Result, Series
from holdfast.launch.bandwidth.libraries import _PEERS, ours, peer
from holdfast.launch.bandwidth.ranks.collectives import COLLECTIVES
from holdfast.launch.bandwidth.spec import PEERS, TRANSPORTS, CollectiveSpec
from holdfast.launch.commands import bench


@pytest.fixture
def nothing_here(monkeypatch):
    """No peer can be imported by this Python."""
    monkeypatch.setattr("holdfast.launch.bandwidth.libraries._imports", lambda python, known: False)


def pretend(folder, name, *commands):
    """Make what looks like a peer's environment."""
    programs = folder / name / "bin"
    programs.mkdir(parents=True)
    for command in ("python", *commands):
        (programs / command).touch()
    return programs


def test_every_peer_that_can_be_named_is_known():
    assert tuple(_PEERS) == PEERS


@pytest.mark.parametrize("name", PEERS)
def test_a_missing_peer_says_how_to_install_it(name, nothing_here, tmp_path):
    with pytest.raises(MissingDependency) as caught:
        peer(name, "all-reduce", 4, [tmp_path])
    message = str(caught.value)
    assert str(tmp_path / name / "bin" / "python") in message
    assert "make peers" in message
    packages = " ".join(_PEERS[name].packages)
    assert f"python -m venv .peers/{name} && .peers/{name}/bin/pip install {packages}" in message


def test_peers_are_taken_from_the_first_folder_that_has_them(tmp_path):
    programs = pretend(tmp_path / "second", "gloo")
    library = peer("gloo", "all-reduce", 64, [tmp_path / "first", tmp_path / "second"])
    assert library.program.python == programs / "python"
    assert library.program.mpiexec == ()
    assert library.forms == (True,)
    assert peer("gloo", "all-gather", 64, [tmp_path / "second"]).forms == (False,)


def test_mpi_is_started_by_the_mpiexec_beside_its_python(tmp_path):
    programs = pretend(tmp_path, "openmpi", "mpiexec")
    command = peer("openmpi", "all-reduce", 64, [tmp_path]).program.mpiexec
    assert command[:2] == (str(programs / "mpiexec"), "--oversubscribe")
    assert ("--allow-run-as-root" in command) == (os.geteuid() == 0)


def test_an_environment_without_mpiexec_is_missing_something(tmp_path, monkeypatch):
    pretend(tmp_path, "mpich")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="no mpiexec"):
        peer("mpich", "all-reduce", 64, [tmp_path])


def test_ours_is_both_transports_in_both_forms():
    libraries = [ours(transport, "all-reduce", 64) for transport in TRANSPORTS]
    assert [library.name for library in libraries] == ["holdfast-shm", "holdfast-tcp"]
    assert all(library.forms == (False, True) for library in libraries)


def test_where_no_peer_is_installed_and_ours_not_asked_for_there_is_nothing(nothing_here, tmp_path):
    spec = CollectiveSpec("all-reduce", sizes=(4,), transports=(), peers=("gloo",))
    with pytest.raises(MissingDependency, match="none of gloo"):
        bench.run_collective(spec, [tmp_path])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--transport", "rdma"],
        ["--against", "nccl"],
        ["--ranks", "1"],
        ["--sizes", "64K,10"],
        ["-b", "1M", "-e", "64K"],
        ["--limit", "--transport", "shm"],
    ],
)
def test_what_cannot_be_measured_is_an_error_of_usage(arguments):
    result = CliRunner().invoke(bench.app, ["all-reduce", *arguments])
    assert isinstance(result.exception, UsageError)


def result(seconds, wrong=0):
    return Result("holdfast-shm", Series(10**9, 2, 1.0, (seconds,), wrong), None)


def test_the_gate_is_the_average_bus_bandwidth():
    spec = CollectiveSpec("all-reduce", sizes=(10**9,), transports=("shm",), min_busbw=1.5)
    bench._gate(spec, [result(0.5)])
    with pytest.raises(HoldfastError, match=r"at least 1\.5 GB/s was expected.*1\.00 was measured"):
        bench._gate(spec, [result(1.0)])


def test_a_wrong_sum_does_not_pass():
    spec = CollectiveSpec("all-reduce", sizes=(10**9,), transports=("shm",))
    with pytest.raises(HoldfastError, match=r"wrong values.*'holdfast-shm': 3"):
        bench._gate(spec, [result(1.0, wrong=3)])


def test_there_is_a_command_for_every_collective():
    commands = {command.name for command in bench.app.registered_commands}
    assert set(COLLECTIVES) <= commands


@pytest.mark.local
def test_both_transports_sum_right(tmp_path):
    file, plot = tmp_path / "results.json", tmp_path / "plot.png"
    command = [sys.executable, "-m", "holdfast", "bench", "all-reduce"]
    options = ["--sizes", "4,4K,1M", "-n", "3", "-w", "1", "--rounds", "2", "--ranks", "2"]
    done = subprocess.run(
        [*command, *options, "--json", str(file), "--plot", str(plot)],
        cwd=tmp_path,
        env={**os.environ, "HOLDFAST_SECRET_OF_THE_TEST": "not to be written down"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("# Out of bounds values : 0 OK") == 2
    text = file.read_text()
    assert "not to be written down" not in text
    content = json.loads(text)
    assert set(content["versions"]) == {"holdfast", "python", "holdfast-shm", "holdfast-tcp"}
    entries = content["results"]
    assert [(entry["library"], entry["size"]) for entry in entries] == [
        (library, size)
        for size in (4, 4096, 1 << 20)
        for library in ("holdfast-shm", "holdfast-tcp")
    ]
    for entry in entries:
        for form in (entry, entry["in_place"]):
            assert form["wrong"] == 0
            assert len(form["rounds"]) == 2
            assert form["time_us"] > 0
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.local
def test_an_unknown_transport_is_exit_status_2():
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "bench", "all-reduce", "--transport", "rdma"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "holdfast: error: --transport: shm, tcp are known, 'rdma' was given" in done.stderr
