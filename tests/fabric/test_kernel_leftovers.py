"""Nothing is left of a kernel network: not when it is closed, and not long after a SIGKILL."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from holdfast.errors import FabricError
from holdfast.fabric import leftovers
from holdfast.fabric.build import build
from holdfast.fabric.kernel import engine as kernel
from holdfast.fabric.kernel.commands import require
from holdfast.fabric.kernel.namespaces import NAMESPACES, RECORDS, inside, sweep
from holdfast.fabric.topology import leaf_spine, star

pytestmark = [pytest.mark.local, pytest.mark.netns]

DEADLINE = 30.0


@pytest.fixture(autouse=True)
def means():
    try:
        require()
    except FabricError as error:
        pytest.skip(str(error))


def things():
    """Return all that a network could leave behind."""
    return {
        "namespaces": ours(),
        "records": [name for name in records() if not foreign(f"hf-{name}-")],
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": sorted(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
    }


def records():
    return sorted(os.listdir(RECORDS)) if RECORDS.exists() else []


def ours():
    """Return the namespaces of this process's networks and of dead ones."""
    if not NAMESPACES.exists():
        return []
    return [name for name in sorted(os.listdir(NAMESPACES)) if not foreign(name)]


def foreign(name):
    """Return whether a namespace is of another test run on this machine that is alive."""
    record = RECORDS / name.split("-")[1] if name.startswith("hf-") else None
    if record is None or not record.is_symlink():
        return record is None
    owner = os.readlink(record)
    return leftovers.lives(owner) and int(owner.split()[0]) != os.getpid()


def test_nothing_is_left_after_close_or_an_error():
    sweep()
    before = things()
    with build("kernel", leaf_spine(2, 2, 1)) as network:
        network.link("h0").latency("1ms")
        hosts = network.engine.hosts
        to = (hosts["h1"].address(), 7000)
        (server,) = inside([hosts["h1"].namespace], lambda _: socket.create_server(to))
        (client,) = inside([hosts["h0"].namespace], lambda _: socket.create_connection(to))
        network.link("h0", to="h1").reset(ends="one")
        client.close()
        server.close()
        process = network.engine.hosts["h0"].popen([shutil.which("sleep"), "600"])
        assert len(ours()) == len(before["namespaces"]) + 6
    assert process.wait(DEADLINE) == -signal.SIGKILL
    network.close()
    with contextlib.suppress(ZeroDivisionError), build("kernel", star(2)) as network:
        network.link("h0").down()
        raise ZeroDivisionError
    assert things() == before


@pytest.mark.parametrize("step", ["ip", "inside", "ip_in", "Conditions"])
def test_nothing_is_left_of_a_network_that_could_not_be_built(monkeypatch, step):
    sweep()
    before = things()

    def fail(*_):
        raise FabricError("no")

    monkeypatch.setattr(kernel, step, fail)
    with pytest.raises(FabricError, match=r"^no$"):
        build("kernel", star(2))
    assert things() == before


OWNER = """
import os, shutil, signal, sys
from holdfast.fabric.kernel import engine as kernel
from holdfast.fabric.build import build
from holdfast.fabric.topology import star

if sys.argv[1] != "whole":
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(kernel, sys.argv[1], die)
network = build("kernel", star(2))
network.link("h0").down()
# It has a child that outlives it, and knows nothing of any parent.
shell = f"{shutil.which('setsid')} {shutil.which('sleep')} 600 & echo $!"
network.engine.hosts["h0"].popen([shutil.which("sh"), "-c", shell], stdout=1).wait()
print(network.engine.traces.name, flush=True)
sys.stdin.read()
"""


def test_the_next_network_clears_up_after_one_that_was_killed():
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, "whole"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        try:
            orphan, name = int(owner.stdout.readline()), owner.stdout.readline().decode().strip()
            began = leftovers.start_time(orphan)
            with build("kernel", star(2)):  # the owner lives: nothing of its is touched
                assert {f"hf-{name}-{node}" for node in ("h0", "h1", "s0")} <= set(namespaces())
                assert leftovers.start_time(orphan) == began is not None
        finally:
            owner.kill()
    assert f"hf-{name}-h0" in namespaces()
    with build("kernel", star(2)):
        assert not [each for each in namespaces() if each.startswith(f"hf-{name}-")]
        assert leftovers.start_time(orphan) is None
        assert not (RECORDS / name).is_symlink()


@pytest.mark.parametrize("step", ["ip", "inside", "ip_in", "Conditions"])
def test_the_next_network_clears_up_after_one_that_was_killed_half_way(step):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, step], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    owner.communicate(timeout=DEADLINE)
    assert owner.returncode == -signal.SIGKILL
    assert [name for name in os.listdir(RECORDS) if of(name) == owner.pid]
    with build("kernel", star(1)):
        assert not [name for name in os.listdir(RECORDS) if of(name) == owner.pid]
        assert not [name for name in ours() if not name.startswith("hf-")]


BUILDER = """
from holdfast.fabric.build import build
from holdfast.fabric.topology import leaf_spine

print("up", flush=True)
while True:
    with build("kernel", leaf_spine(2, 2, 1, rate="1gbit", latency="1ms")) as network:
        network.link("h0").down()
        network.link("h0").reset()
"""


@pytest.mark.soak
def test_a_network_may_be_killed_at_any_moment():
    rng = random.Random(0)
    before = things()
    for _ in range(40):
        with subprocess.Popen([sys.executable, "-c", BUILDER], stdout=subprocess.PIPE) as owner:
            owner.stdout.readline()
            time.sleep(rng.uniform(0, 0.5))
            owner.kill()
        # Its last command, whose end it did not see, may still be about to end.
        for _ in range(100):
            sweep()
            if things() == before:
                break
            time.sleep(0.01)
        assert things() == before


def of(name):
    """Return the process that a record names."""
    with contextlib.suppress(FileNotFoundError):
        return int(os.readlink(RECORDS / name).split()[0])
    return None


def test_a_namespace_that_was_never_finished_is_swept():
    NAMESPACES.mkdir(exist_ok=True)
    half = NAMESPACES / "hf-0badf00d-h0"
    half.write_text("")
    others = NAMESPACES / "hf-of-somebody-else"
    others.write_text("")
    try:
        sweep()
        assert not half.exists()
        assert others.exists()
    finally:
        others.unlink()


def namespaces():
    return os.listdir(NAMESPACES)
