"""What is swept, and that nobody else's process ever is."""

import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest

from holdfast.errors import FabricError
from holdfast.fabric import build, leftovers, star

pytestmark = pytest.mark.local

SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"holdfast-fabric-{os.getuid()}"


def test_a_group_is_ended_only_if_its_leader_is_the_very_process(root):
    process = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        traces = leftovers.Traces()
        (traces.folder / "groups").write_text(f"{process.pid} 1\n")  # another one had the number
        (traces.folder / "owner").write_text("1 1")
        assert leftovers.sweep() == [traces.name]
        assert process.poll() is None
        traces = leftovers.Traces()
        traces.started(process.pid)
        (traces.folder / "owner").write_text("1 1")
        leftovers.sweep()
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait(10)


def test_the_living_and_the_half_made_are_left_alone_for_a_while(root):
    traces = leftovers.Traces()
    (root / ".half").mkdir()
    assert leftovers.sweep() == []
    long_ago = time.time() - 3600
    os.utime(root / ".half", (long_ago, long_ago))
    assert leftovers.sweep() == [".half"]
    traces.remove()
    traces.remove()


def test_a_folder_that_others_can_write_to_is_not_believed(root):
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    with pytest.raises(FabricError, match="yours alone"):
        leftovers.sweep()


def test_a_network_signals_nobody_who_has_a_dead_process_s_number(root):
    with build("relay", star(1)) as network:
        host = network.engine.hosts["h0"]
        process = host.popen([sys.executable, "-S", "-c", ""])
        process.wait(10)
        stranger = subprocess.Popen(SLEEP, start_new_session=True)
        [group] = host._groups.values()
        took_over = type(group)(stranger.pid, group.began, None)
        host._groups = {stranger.pid: took_over}
        host.kill()
        host.pause()
        assert stranger.poll() is None
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait(10)


def test_a_temporary_folder_with_a_long_path_is_an_error_with_advice(root, tmp_path, monkeypatch):
    deep = tmp_path / ("long" * 20) / ("longer" * 10)
    deep.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(FabricError, match="short path"):
        build("relay", star(1))
