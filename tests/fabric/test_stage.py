"""The stage: a worker waits until a fault is in place, and finds its disk as the script says."""

import socket
import threading

import pytest

from holdfast.fabric.script import When
from holdfast.fabric.stage import Player, Stage

pytestmark = pytest.mark.local


class Watched:
    """A stage that writes down what reaches it."""

    def __init__(self, folder):
        self.reached = []
        self.told = []
        self.came = threading.Condition()
        self.let = threading.Event()
        self.let.set()
        self.stage = Stage(folder, self._reach, self._tell)

    def _reach(self, rank, step, phase):
        self._note(self.reached, (rank, step, phase))
        assert self.let.wait(10)

    def _tell(self, rank, event):
        self._note(self.told, (rank, event))

    def _note(self, notes, note):
        with self.came:
            notes.append(note)
            self.came.notify_all()

    def wait(self, true):
        with self.came:
            assert self.came.wait_for(true, 10)


@pytest.fixture
def watched(tmp_path):
    watched = Watched(tmp_path)
    yield watched
    watched.let.set()
    watched.stage.close()
    watched.stage.close()
    assert not watched.stage.path.exists()


def test_a_worker_stops_only_where_something_is_planned(watched):
    watched.stage.await_moments((When(step=2, phase="all-gather"), When(step=3, rank=1), When(5.0)))
    player = Player(str(watched.stage.path), 0, "h0")
    for step in range(5):
        for phase in ("step", "reduce-scatter", "all-gather"):
            player.reach(step, phase)
    assert watched.reached == [(0, 2, "all-gather")]
    watched.stage.await_moments(())
    player.tell({"event": "step", "step": 4})
    watched.wait(lambda: watched.told == [(0, {"event": "step", "step": 4})])
    player.close()


def test_a_worker_waits_until_it_may_go_on(watched):
    watched.stage.await_moments((When(step=0),))
    player = Player(str(watched.stage.path), 3, "h0")
    watched.let.clear()
    thread = threading.Thread(target=player.reach, args=(0, "step"), daemon=True)
    thread.start()
    watched.wait(lambda: watched.reached == [(3, 0, "step")])
    assert thread.is_alive()
    watched.let.set()
    thread.join(10)
    assert not thread.is_alive()
    player.close()


def test_disks_are_troubled_by_host_also_for_a_worker_that_comes_later(watched):
    early = Player(str(watched.stage.path), 0, "h0")
    other = Player(str(watched.stage.path), 1, "h1")
    heal = watched.stage.trouble_disk("h0", None)
    late = Player(str(watched.stage.path), 2, "h0")
    for player in (early, late):
        until(lambda player=player: player.disk == "full")
    assert other.disk == "whole"
    heal()
    slow = watched.stage.trouble_disk("h1", 8e6)
    until(lambda: (other.disk, other.disk_rate) == ("slow", 8e6))
    until(lambda: early.disk == late.disk == "whole")
    slow()
    for player in (early, other, late):
        player.close()


def test_of_two_troubles_the_worse_one_counts_until_it_is_healed(watched):
    player = Player(str(watched.stage.path), 0, "h0")
    full = watched.stage.trouble_disk("h0", None)
    slow = watched.stage.trouble_disk("h0", 8e6)
    until(lambda: player.disk == "full")
    full()
    until(lambda: (player.disk, player.disk_rate) == ("slow", 8e6))
    slower = watched.stage.trouble_disk("h0", 1e6)
    until(lambda: player.disk_rate == 1e6)
    slow()
    slower()
    until(lambda: player.disk == "whole")
    player.close()


def test_a_worker_that_reads_nothing_holds_nobody_up(watched):
    with socket.socket(socket.AF_UNIX) as stopped:
        stopped.connect(str(watched.stage.path))
        stopped.sendall(b'{"hello": [0, "h0"]}\n')
        for turn in range(200):
            watched.stage.await_moments(tuple(When(step=turn + step) for step in range(1000)))
        player = Player(str(watched.stage.path), 1, "h1")
        player.reach(199, "step")
        assert watched.reached == [(1, 199, "step")]
        player.close()
        stopped.sendall(b'{"tell": {"event"')  # and is killed in the middle of a line


def test_without_a_stage_any_more_nobody_waits(watched):
    watched.stage.await_moments((When(step=0),))
    player = Player(str(watched.stage.path), 0, "h0")
    watched.let.clear()
    thread = threading.Thread(target=player.reach, args=(0, "step"), daemon=True)
    thread.start()
    watched.wait(lambda: bool(watched.reached))
    closing = threading.Thread(target=watched.stage.close, daemon=True)
    closing.start()
    thread.join(10)
    assert not thread.is_alive()
    player.reach(0, "step")
    watched.let.set()
    closing.join(10)
    player.close()


def until(true):
    waited = threading.Event()
    for _ in range(1000):
        if true():
            return
        waited.wait(0.01)
    raise AssertionError("waited 10 s")
