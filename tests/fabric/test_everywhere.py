"""The same faults on every kind of network: whatever happens, the sum keeps its bits."""

import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from holdfast.fabric.script import draw_steps, fault
from holdfast.fabric.topology import leaf_spine, star, two_rails

pytestmark = pytest.mark.local

KERNEL = pytest.param("kernel", marks=pytest.mark.netns)
EVERYWHERE = pytest.mark.parametrize("kind", ["relay", KERNEL, "simulated"])

MENDED = [
    fault("down", "h1", "h0", at_step=1, phase="all-gather", for_="600ms"),
    fault("flap", "h2", at_step=1, down="200ms", up="200ms", times=2),
    fault("drop", "h1", at_step=1, phase="reduce-scatter", direction="to", for_="600ms"),
    fault("drop", "h0", "h2", at_step=2, direction="from", for_="600ms"),
    fault("loss", "h1", at_step=1, p=0.02, for_="1s"),
    fault("latency", "h1", at_step=1, latency="10ms", jitter="5ms", for_="1s"),
    fault("reorder", "h0", "h1", at_step=1, p=0.05, for_="1s"),
    fault("rate", "h2", at_step=1, rate="10mbit", for_="1s"),
    fault("corrupt", "h1", at_step=1, p=0.001, for_="1s"),
    fault("reset", "h1", at_step=1, phase="all-gather"),
    fault("reset", "h2", "h0", at_step=2, phase="reduce-scatter", ends="one"),
    fault("down", nic=["h1", 0], at_step=1, phase="all-gather", rank=2, for_="600ms"),
    fault("down", switch="s0", at_step=2, for_="600ms"),
    fault("partition", groups=[["h0"], ["h1", "h2"]], at_step=1, for_="600ms"),
    fault("partition", groups=[["h0", "h1"], ["h1", "h2"]], at_step=1, for_="600ms"),
    fault("pause", host="h1", at_step=1, phase="all-gather", for_="600ms"),
]


@pytest.mark.parametrize("script", MENDED, ids=str)
@EVERYWHERE
def test_what_heals_costs_no_bit(ring, make, kind, script):
    with make(kind, star(3)) as network:
        network.play(script)
        with ring(network) as running:
            running.check_whole(running.ends())
        assert [each.what for each in network.happened][:1] == ["began"]


@EVERYWHERE
def test_a_network_that_stays_broken_ends_in_a_named_error_within_the_deadline(ring, make, kind):
    with make(kind, star(3)) as network:
        network.at(step=2, phase="all-gather").link("h1").down()
        with ring(network, timeout=2) as running:
            ends = running.ends()
            running.check_clean(ends)
    assert all(end.error and end.error[0] == "DeadlineExceeded" for end in ends)
    assert "nothing moved on any link" in ends[0].error[1]


@EVERYWHERE
def test_a_killed_worker_is_missed_by_name(ring, make, kind):
    with make(kind, star(3)) as network:
        network.at(step=2, phase="reduce-scatter", rank=1).worker(1).kill()
        with ring(network, timeout=2) as running:
            ends = running.ends()
            running.check_clean(ends)
    assert [end.killed for end in ends] == [False, True, False]
    assert any("rank 1" in end.error[1] for end in (ends[0], ends[2]))


@EVERYWHERE
def test_the_second_rail_and_other_pairs_are_left_alone(ring, make, kind):
    """The ring runs over the first rail and knows no pair h0 to h2 backwards."""
    script = fault("down", nic=["h1", 1], at_step=1) + fault("down", switch="s1", at_step=1)
    with make(kind, two_rails(3)) as network:
        network.play(script)
        with ring(network, timeout=5) as running:
            ends = running.ends()
            running.check_whole(ends)
    assert sum(end.lost for end in ends) == 0


@EVERYWHERE
def test_a_control_network_that_is_cut_off_stops_nothing_once_the_ranks_have_met(ring, make, kind):
    with make(kind, star(3, control=True)) as network:
        network.at(step=1).partition(["h0"], ["h1"], ["h2"], network="control")
        with ring(network, timeout=5) as running:
            ends = running.ends()
            running.check_whole(ends)
    assert sum(end.lost for end in ends) == 0


# Random scripts

KINDS = (
    "down",
    "drop",
    "flap",
    "latency",
    "rate",
    "reset",
    "loss",
    "reorder",
    "corrupt",
    "partition",
    "pause",
)
TOPOLOGIES = [star(2), star(3), two_rails(3), leaf_spine(2, 2, 2)]


def random_script(ring, make, kind, seed):
    """Play a random script on a random network; one in ten has a path that stays closed."""
    rng = random.Random(f"everywhere {seed}")
    topology = rng.choice(TOPOLOGIES)
    size = len(topology.hosts)
    faults = rng.randint(1, 5)
    script = draw_steps(
        topology, seed=seed, steps=4, faults=faults, world_size=size, kinds=KINDS, longest=1.0
    )
    closed = rng.random() < 0.1
    if closed:
        script += fault("down", rng.choice(topology.hosts), at_step=rng.randrange(4))
    if rng.random() < 0.05:
        closed = True
        script += fault("kill", worker=rng.randrange(size), at_step=rng.randrange(4))
    told = f"{kind}, seed {seed}, {topology.name} of {size}:\n{script.to_toml()}"
    print(told)
    with make(kind, topology) as network:
        network.play(script)
        with ring(network, seed=seed, timeout=3 if closed else 20) as running:
            try:
                ends = running.ends()
                (running.check_clean if closed else running.check_whole)(ends)
            except AssertionError as error:
                raise AssertionError(f"{told}\n{error}") from error


@pytest.mark.parametrize("seed", range(4))
@EVERYWHERE
def test_random_scripts(ring, make, kind, seed):
    random_script(ring, make, kind, seed)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("kind", "count"), [("relay", 500), pytest.param("kernel", 100, marks=pytest.mark.netns)]
)
def test_hundreds_of_random_scripts(ring, make, kind, count):
    """Several at a time: they mostly wait. Nothing is left of any of them."""
    before = left()
    with ThreadPoolExecutor(4) as pool:
        runs = [
            pool.submit(random_script, ring, make, kind, 1000 + number) for number in range(count)
        ]
        errors = [str(run.exception()) for run in runs if run.exception()]
    assert not errors, f"{len(errors)} of {count} failed:\n" + "\n\n".join(errors)
    assert left() == before


def left():
    """Return what could be left behind: namespaces, devices, descriptors, shared memory."""
    return {
        "namespaces": sorted(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else [],
        "devices": subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory": sorted(os.listdir("/dev/shm")),
        "children": sorted(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()),
    }
