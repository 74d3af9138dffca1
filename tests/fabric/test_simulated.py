"""The simulated network: its times, its faults, and that no fault changes a bit of a sum."""

import functools
import hashlib

import numpy as np
import pytest

from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.collectives.links.rail import Rail
from holdfast.errors import (
    CommunicationError,
    DeadlineExceeded,
    PeerLost,
    UnsupportedFault,
    UsageError,
)
from holdfast.fabric import Network, leaf_spine, star, two_rails
from holdfast.fabric.script import Script, draw, draw_steps
from holdfast.fabric.simulated import SimulatedEngine, contribution, simulate_all_reduce
from holdfast.fabric.units import bits_per_second, seconds

KINDS = (
    *("down", "drop", "flap", "latency", "rate", "reset", "loss", "reorder", "corrupt"),
    *("partition", "pause"),
)
CALLS = 3
TOPOLOGIES = (
    lambda: star(3, rate="100mbit", latency="50us"),
    lambda: star(4, rate="300mbit", latency="200us"),
    lambda: two_rails(2, rate="100mbit", latency="2ms"),
    lambda: leaf_spine(2, 2, 2, rate="200mbit", latency="20us"),
)


def network(topology=None, seed=0, **config):
    return Network(
        SimulatedEngine(
            topology or star(3, rate="100mbit"), seed, LinkConfig(checksum="fold", **config)
        )
    )


def simulate(net, count=30_000, segment=8 << 10, **more):
    return simulate_all_reduce(net, calls=CALLS, count=count, segment=segment, **more)


def right(run, quiet):
    """Return whether every rank ended with the bits of a quiet run."""
    return all(
        rank.state == "done" and rank.digests == other.digests
        for rank, other in zip(run.ranks, quiet.ranks, strict=True)
    )


def events(run, what):
    return [event for event in run.events if event[1] == what]


# Times


def test_phases_calls_and_frames_are_told_in_order():
    with network() as net:
        run = simulate(net)
    times = [event[0] for event in run.events]
    assert times == sorted(times)
    for rank in range(3):
        mine = [event[1:] for event in run.events if event[1] != "rank ended" and event[2] == rank]
        told = [event for event in mine if event[0] in ("phase", "call ended")]
        assert told == [
            each
            for call in range(CALLS)
            for each in (
                *[("phase", rank, call, n) for n in ("step", "reduce-scatter", "all-gather")],
                ("call ended", rank, call),
            )
        ]
    for what in ("frame sent", "frame came"):
        for rank in range(3):
            data = [e[5] for e in events(run, what) if e[2] == rank and e[4] == "DATA"]
            assert data == list(range(len(data)))


@pytest.mark.parametrize(("rate", "latency"), [("100mbit", "10us"), ("10gbit", "500us")])
@pytest.mark.parametrize(("n", "size"), [(2, 4 << 20), (3, 16 << 20), (4, 8 << 20), (8, 8 << 20)])
def test_the_time_of_a_ring_is_that_of_the_closed_form(n, size, rate, latency):
    """2 (n - 1) (alpha + B / (n beta)), from the second call on: the connections are there."""
    with network(star(n, rate=rate, latency=latency), window=4 * size) as net:
        run = simulate_all_reduce(net, calls=2, count=size // 4, segment=size, together=True)
    alpha, beta = 2 * seconds(latency), bits_per_second(rate) / 8
    assert run.seconds(1) == pytest.approx(2 * (n - 1) * (alpha + size / n / beta), rel=1e-3)


def test_faults_cost_what_they_should():
    def took(break_it):
        with network(star(4, rate="100mbit", latency="100us")) as net:
            break_it(net)
            return simulate(net, count=1_000_000, segment=4 << 20, together=True).seconds(1)

    quiet = took(lambda net: None)
    assert took(lambda net: net.link("h1").rate("50mbit")) == pytest.approx(2 * quiet, rel=0.01)
    assert took(lambda net: net.link("h1").rate("1gbit")) == quiet
    slow = took(lambda net: net.link("h1", to="h2").latency("10ms"))
    assert slow == pytest.approx(
        quiet + 0.02, rel=1e-3
    )  # what goes around passes there twice in 6 rounds


def test_connecting_takes_three_round_trips_and_fails_when_nothing_passes():
    with network(star(2, latency="5ms")) as net:
        run = simulate(net)
        first = {event[2]: event[0] for event in events(run, "connected")}
        assert first == pytest.approx({0: 0.05, 1: 0.06})
    with network(star(2, latency="5ms")) as net:
        net.link("h0").down(for_="8s")
        run = simulate(net, timeout=30.0)
        ((time, *_, why), *_) = events(run, "not connected")
        assert why == "the handshake took too long"
        assert 5.0 < time < 5.0 + 0.25
        assert all(rank.state == "done" for rank in run.ranks)


def test_sixty_four_ranks():
    with network(star(64, rate="1gbit", latency="50us")) as net:
        run = simulate_all_reduce(net, calls=1, count=40_000)
    assert all(rank.state == "done" for rank in run.ranks)
    assert len({rank.digests for rank in run.ranks}) == 1


# Bits


@pytest.mark.parametrize("workers_per_host", [1, 2])
@pytest.mark.parametrize("op", ["sum", "max"])
def test_results_are_the_sum_of_what_the_ranks_have(op, workers_per_host):
    count, dtype = 3001, np.dtype(np.int64)
    with network() as net:
        run = simulate_all_reduce(
            net, calls=2, count=count, dtype=dtype, op=op, workers_per_host=workers_per_host
        )
    for call in range(2):
        arrays = [contribution(count, dtype, 0, call, rank) for rank in range(len(run.ranks))]
        expected = COMBINE[op].reduce(arrays)
        digest = hashlib.sha256(expected.data).hexdigest()
        assert {rank.calls[call].digest for rank in run.ranks} == {digest}


def drawn(seed, **more):
    """Return a topology and a script of one or another sort, drawn from a seed."""
    topology = TOPOLOGIES[seed % len(TOPOLOGIES)]()
    if seed % 3:
        faults = 1 + seed % 5
        hosts = len(topology.hosts)
        script = draw_steps(
            topology, seed=seed, steps=CALLS, faults=faults, world_size=hosts, kinds=KINDS, **more
        )
    else:
        script = draw(topology, seed=seed, mtbf=0.03, duration=0.2, kinds=KINDS, **more)
    return topology, script


@functools.cache
def quiet_run(number):
    with network(TOPOLOGIES[number]()) as net:
        return simulate(net)


def broken_run(seed, link=Link, timeout=60.0, **more):
    """Return a run under the script of a seed, and whether its results are those of a quiet one."""
    topology, script = drawn(seed, **more)
    print("seed", seed, script, sep="\n")
    with network(topology, seed, copy_limit=1 << 10 if seed % 2 else 64 << 10) as net:
        net.play(script)
        run = simulate(net, link=link, timeout=timeout)
    return run, right(run, quiet_run(seed % len(TOPOLOGIES)))


@pytest.mark.parametrize("block", range(10))
def test_three_hundred_scripts_change_no_bit(block):
    for seed in range(30 * block, 30 * block + 30):
        run, same = broken_run(seed)
        assert same, (seed, run.ranks)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(100))
def test_ten_thousand_scripts_change_no_bit(block):
    for seed in range(100 * block + 1000, 100 * block + 1100):
        run, same = broken_run(seed)
        assert same, (seed, run.ranks)


@pytest.mark.parametrize("block", range(3))
def test_where_a_path_stays_closed_for_long_each_rank_has_the_result_or_an_error_in_time(block):
    ends = set()
    for seed in range(2000 + 20 * block, 2020 + 20 * block):
        run, _ = broken_run(seed, timeout=8.0, longest=60.0)
        quiet = quiet_run(seed % len(TOPOLOGIES))
        for rank, other in zip(run.ranks, quiet.ranks, strict=True):
            ends.add(rank.state)
            assert rank.digests == other.digests[: len(rank.calls)]
            if rank.state == "done":
                assert len(rank.calls) == CALLS
            elif rank.state == "failed":
                assert isinstance(rank.error, DeadlineExceeded | PeerLost)
                (end,) = [event[0] for event in events(run, "rank ended") if event[2] == rank.rank]
                came = [
                    event[0]
                    for event in run.events
                    if event[1] in ("frame came", "fault ended", "phase")
                    and (event[1] == "fault ended" or event[2] == rank.rank)
                    and "BEAT" not in event
                ]
                assert end - max(time for time in came if time <= end) < 8.0 + 1.0, rank
            else:
                assert rank.state == "running", rank  # it is paused for longer than the deadline
    assert ends >= {"done", "failed"}


def test_the_same_seed_gives_the_same_events_one_by_one():
    for seed in range(20):
        runs = [broken_run(seed)[0] for _ in (1, 2)]
        assert runs[0].events == runs[1].events
        assert right(*runs)
    topology, _ = drawn(3)
    different = set()
    for seed in range(3):
        with network(topology, seed) as net:
            net.link("h0").loss(0.05)
            different.add(simulate(net).events)
    assert len(different) == 3


# Two bugs, planted in turn


class Trusting(Link):
    """Takes whatever message comes for the one that is awaited."""

    rail = Rail

    def __init__(self, *args):
        super().__init__(*args)
        self.rails = [self.rail(self, 0)]

    def has(self, number):
        return False

    def place(self, number, *what):
        return super().place(self.received, *what)

    def complete(self, number, *what):
        super().complete(self.received, *what)


class SendsAgain(Trusting):
    """Sends again all that was not acknowledged, whatever the peer says that it has."""

    class rail(Rail):
        def attach(self, peer_received, now):
            super().attach(self._link.acknowledged, now)


class GoesOnTooFar(Trusting):
    """Goes on behind the message that was broken off."""

    class rail(Rail):
        def attach(self, peer_received, now):
            super().attach(min(peer_received + 1, self._link._next), now)


@pytest.mark.parametrize("bug", [SendsAgain, GoesOnTooFar])
def test_the_scripts_find_a_bug_in_the_link(bug):
    found = [seed for seed in range(30) if not broken_run(seed, link=bug, timeout=20.0)[1]]
    print("found by", found)
    assert len(found) >= 5


# The words of a network


def test_a_fault_at_a_phase_happens_there_and_ends_when_it_should():
    with network() as net:
        net.at(step=1, phase="all-gather", rank=2).link("h2").down(for_="1s")
        net.at("1ms").link("h0").latency("1ms", for_="2ms")
        run = simulate(net)
    names = [event[1:] for event in run.events]
    place = names.index(("phase", 2, 1, "all-gather"))
    assert names[place + 1][0] == "fault began"
    assert "down h2 for 1s" in names[place + 1]
    (began, *_), (ended, *_) = [
        event for event in run.events if event[1].startswith("fault") and "down h2" in str(event[3])
    ]
    assert ended - began == pytest.approx(1.0)
    assert right(run, quiet_run(0))
    assert events(run, "retransmitted")
    assert not events(run, "connection lost")  # it comes back before anybody gives it up


@pytest.mark.parametrize("ends", ["both", "one"])
@pytest.mark.parametrize("told", ["h0", "h1"])
def test_a_reset_is_told_to_both_ends_or_found_by_silence_or_by_a_new_connection(ends, told):
    other = {"h0": "h1", "h1": "h0"}[told]
    with network() as net:
        net.at(step=1, phase="reduce-scatter", rank=0).link(told, to=other).reset(ends=ends)
        run = simulate(net)
    lost = {event[2]: event[4] for event in events(run, "connection lost")}
    reset = "Connection reset by peer"
    if ends == "both":
        assert lost == {0: reset, 1: reset}
    elif told == "h0":  # who waits for the other to dial
        assert lost == {0: reset, 1: "nothing moved for 2 s"}
    else:
        assert lost == {0: "the peer dialled again", 1: reset}
    assert len([e for e in events(run, "connected") if e[4] == 2]) == 2
    assert right(run, quiet_run(0))


def test_a_partition_holds_all_up_until_it_is_healed():
    with network() as net:
        net.at(step=1).partition(["h0"], ["h1", "h2"], for_="10s")
        run = simulate(net)
    assert right(run, quiet_run(0))
    assert 10.0 < run.ranks[0].calls[1].ended < 30.0


def test_a_paused_host_does_nothing_and_goes_on():
    with network() as net:
        net.at(step=1, phase="all-gather", rank=1).host("h1").pause(for_="5s")
        run = simulate(net)
    (began,) = [e[0] for e in run.events if e[1] == "fault began"]
    busy = [e for e in run.events if "frame" in e[1] and e[2] == 1 and began < e[0] < began + 5]
    assert not busy
    assert right(run, quiet_run(0))
    with network() as net:
        net.host("h1").pause()
        run = simulate(net, timeout=5.0)
    assert [rank.state for rank in run.ranks] == ["failed", "running", "failed"]
    assert isinstance(run.ranks[0].error, DeadlineExceeded)


@pytest.mark.parametrize("what", ["host", "worker"])
def test_a_killed_rank_is_gone_and_the_others_say_so_in_time(what):
    with network() as net:
        place = net.at(step=1, phase="all-gather", rank=1)
        (place.host("h1") if what == "host" else place.worker(1)).kill()
        run = simulate(net, timeout=5.0)
    assert [rank.state for rank in run.ranks] == ["failed", "killed", "failed"]
    for rank in (run.ranks[0], run.ranks[2]):
        assert isinstance(rank.error, CommunicationError)
        assert len(rank.calls) == 1
    lost = {(e[2], e[3]): e[4] for e in events(run, "connection lost")}
    assert lost[2, 1] in ("the peer closed it", "Connection reset by peer")
    assert "Connection refused" in {event[4] for event in events(run, "not connected")}


def test_a_context_heals_and_the_networks_time_goes_on():
    with network() as net:
        with net.link("h0").down():
            failed = simulate(net, timeout=3.0)
        assert {rank.state for rank in failed.ranks} == {"failed"}
        between = net.engine.now()
        run = simulate(net)
        assert right(run, quiet_run(0))
        assert run.events[0][0] == between > 3.0


def test_what_cannot_be_is_refused():
    with network() as net:
        with pytest.raises(UnsupportedFault, match="cannot do disk-full"):
            net.host("h0").disk_full()
        with pytest.raises(UsageError):
            net.link("h9").down()
        with pytest.raises(UsageError, match="at least 1 call"):
            simulate_all_reduce(net, calls=0, count=1)
        with pytest.raises(UsageError, match="operation of sum"):
            simulate_all_reduce(net, calls=1, count=1, op="median")
        with pytest.raises(UsageError, match="float16 is added up in float32"):
            simulate_all_reduce(net, calls=1, count=1, dtype=np.float16)
        net.play(Script())
    net.close()
