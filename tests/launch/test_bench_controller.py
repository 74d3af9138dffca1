"""The controller and its ranks: commands, errors, deadlines, and that nothing is left behind."""

import json
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from holdfast.errors import DeadlineExceeded, LaunchError, WorkerFailed
from holdfast.launch.bandwidth.comparison import Entrant, alternate
from holdfast.launch.bandwidth.controller import Controller
from holdfast.launch.bandwidth.processes import Program

pytestmark = pytest.mark.local

PROGRAM = """
import os, sys, threading

class Trainer:
    version = "made up"

    def __init__(self, settings):
        self.rank, self.world_size = settings["rank"], settings["world_size"]
        self.settings = settings
        if settings.get("broken_start") == self.rank:
            raise RuntimeError("the library is broken")
        self.world_size += settings.get("other_world", 0)

    def prepare(self, work):
        here = work.get("rank") == self.rank
        if here and work["do"] == "raise":
            raise RuntimeError("this step is impossible")
        if here and work["do"] == "exit":
            print("last words", flush=True)
            os._exit(7)
        if here and work["do"] == "hang":
            print("waiting for ever", flush=True)
            threading.Event().wait()
        return lambda: None

    def close(self):
        if self.settings.get("hang_at_end"):
            threading.Event().wait()

def open_trainer(settings):
    return Trainer(settings)
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)

    def make(**settings):
        return Program("made-up", Path(sys.executable), "steps", path, settings)

    return make


def children(group):
    return [process.child for process in group._processes]


def work(do="train", **rest):
    return {"do": do, "iters": 2, "warmup": 1, "check": False, **rest}


def test_all_ranks_answer_and_end(program):
    with Controller() as controller:
        group = controller.start(program(), 3)
        assert group.version == "made up"
        started = children(group)
        for _ in range(3):
            answers = group.run(work())
            assert len(answers) == 3
            assert all(answer["seconds"] >= 0 for answer in answers)
    assert [child.returncode for child in started] == [0, 0, 0]


def test_groups_take_turns(program):
    with Controller() as controller:
        groups = [controller.start(program(), 2) for _ in range(2)]
        entrants = [Entrant(str(n), group, {"do": "train"}) for n, group in enumerate(groups)]
        measured = alternate(entrants, rounds=3, iters=2)
    assert [len(rounds) for rounds in measured] == [3, 3]


def test_a_rank_that_exits_is_named_with_its_last_words(program):
    with Controller() as controller:
        group = controller.start(program(), 2)
        started = children(group)
        with pytest.raises(WorkerFailed, match=r"rank 1 of 2 ended.*exit status 7") as caught:
            group.run(work("exit", rank=1))
        assert "  | last words" in str(caught.value)
        assert (caught.value.rank, caught.value.exit_status) == (1, 7)
    assert all(child.returncode is not None for child in started)


def test_a_rank_that_raises_is_named_with_its_traceback(program):
    with Controller() as controller:
        group = controller.start(program(), 2)
        with pytest.raises(WorkerFailed, match="this step is impossible"):
            group.run(work("raise", rank=0))


def test_a_rank_that_hangs_meets_the_deadline_and_is_ended(program):
    with Controller(deadline=1.0) as controller:
        group = controller.start(program(), 2)
        started = children(group)
        with pytest.raises(DeadlineExceeded, match="did not answer") as caught:
            group.run(work("hang", rank=1))
        assert "made-up: rank" in str(caught.value)
        controller.close(grace=0.0)
    assert all(child.returncode is not None for child in started)


def test_a_rank_that_hangs_at_its_end_is_ended(program):
    with Controller() as controller:
        group = controller.start(program(hang_at_end=True), 2)
        started = children(group)
        group.run(work())
        controller.close(grace=0.0)
    assert all(child.returncode is not None for child in started)


def test_a_library_that_cannot_be_opened_is_named_with_its_traceback(program):
    with Controller() as controller:
        with pytest.raises(WorkerFailed, match="the library is broken") as caught:
            controller.start(program(broken_start=1), 2)
        assert "made-up: rank 1 ended before all ranks were there" in str(caught.value)
        started = children(controller._groups[0])
    assert all(child.returncode is not None for child in started)


def test_ranks_of_another_world_are_refused(program):
    with Controller() as controller, pytest.raises(LaunchError, match=r"two different MPI"):
        controller.start(program(other_world=-1), 2)


def test_a_python_that_is_not_there_is_named():
    nowhere = Program("made-up", Path("/nowhere/python"), "steps", Path("/nowhere/program.py"))
    with Controller() as controller, pytest.raises(LaunchError, match="/nowhere/python"):
        controller.start(nowhere, 2)


@pytest.mark.parametrize("words", [b"", b"hello\n", b'{"secret": "guess", "rank": 0}\n', b"[]\n"])
def test_a_stranger_is_hung_up_on(program, words):
    with Controller() as controller:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(str(controller._path))
            stranger.sendall(words)
            stranger.shutdown(socket.SHUT_WR)
            group = controller.start(program(), 2)
            assert stranger.recv(1) == b""
        assert len(group.run(work())) == 2


class FakeHost:
    """This host, by another address."""

    def __init__(self, number):
        self.number = number

    def address(self):
        return f"127.0.0.{self.number}"

    def wrap(self, argv):
        return ["/usr/bin/env", f"ON_HOST={self.number}", *argv]


def test_ranks_run_on_hosts(program, tmp_path):
    with Controller() as controller:
        group = controller.start(program(), 2, [FakeHost(2), FakeHost(3)])
        for rank, child in enumerate(children(group)):
            environment = Path(f"/proc/{child.pid}/environ").read_bytes().split(b"\0")
            assert f"ON_HOST={rank + 2}".encode() in environment
            (settings,) = (
                json.loads(each.partition(b"=")[2])
                for each in environment
                if each.startswith(b"HOLDFAST_BENCH_SETTINGS=")
            )
            assert (settings["address"], settings["rank"]) == (f"127.0.0.{rank + 2}", rank)
            assert settings["master_addr"] == "127.0.0.2"
            assert settings["listen_fd"] is None
        assert len(group.run(work())) == 2


def test_a_folder_with_a_long_path_is_refused(tmp_path, monkeypatch):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(LaunchError, match="TMPDIR"):
        Controller()
    assert list(long.iterdir()) == []


def test_closing_again_does_nothing(program):
    with Controller() as controller:
        group = controller.start(program(), 2)
        group.close(grace=5.0)
        group.close(grace=5.0)
        controller.close()
