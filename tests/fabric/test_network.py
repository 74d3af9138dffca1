"""The words of a network, over an engine that only writes down what it is told."""

import heapq

import pytest

from holdfast.errors import UnsupportedFault, UsageError
from holdfast.fabric.condition import baseline
from holdfast.fabric.faults import KINDS
from holdfast.fabric.network import Network
from holdfast.fabric.script import flap, kill, loss
from holdfast.fabric.topology import star


class Notebook:
    """An engine with a clock that is moved by hand."""

    name = "notebook"

    def __init__(self, topology, kinds=frozenset(KINDS)):
        self.topology = topology
        self.kinds = kinds
        self.time = 100.0
        self.later = []
        self.count = 0
        self.told = []
        self.moments = ()
        self.total = baseline(topology)

    def now(self):
        return self.time

    def call_later(self, delay, call):
        self.count += 1
        entry = [self.time + delay, self.count, call]
        heapq.heappush(self.later, entry)

        def cancel():
            entry[2] = lambda: None

        return cancel

    def pass_time(self, delay):
        end = self.time + delay
        while self.later and self.later[0][0] <= end:
            self.time, _, call = heapq.heappop(self.later)
            call()
        self.time = end

    def impose(self, total):
        self.total = dict(total)

    @property
    def blocked(self):
        return {place for place, condition in self.total.items() if condition.blocked}

    def reset(self, where, one_end):
        self.told.append(("reset", len(where), one_end))

    def pause(self, host):
        self.told.append(("pause", host))
        return lambda: self.told.append(("resume", host))

    def kill(self, host):
        self.told.append(("kill", host))

    def kill_worker(self, rank):
        self.told.append(("kill", rank))

    def trouble_disk(self, host, rate):
        self.told.append(("disk", host, rate))
        return lambda: self.told.append(("disk whole", host))

    def await_moments(self, moments):
        self.moments = moments

    def close(self):
        self.told.append("closed")


def fail_under(net, engine):
    with net.switch("s0").down():
        assert len(engine.blocked) == 6
        raise ZeroDivisionError


@pytest.fixture
def engine():
    return Notebook(star(3))


def test_a_fault_holds_until_its_context_is_left(engine):
    with Network(engine) as net:
        with net.link("h1", to="h0").down():
            assert len(engine.blocked) == 2
            with net.link("h2").drop(direction="to"):
                assert len(engine.blocked) == 3
            assert len(engine.blocked) == 2
        assert not engine.blocked
        with pytest.raises(ZeroDivisionError):
            fail_under(net, engine)
        assert not engine.blocked
    assert engine.told == ["closed"]


def test_a_fault_ends_by_itself_when_its_time_is_over(engine):
    net = Network(engine)
    handle = net.nic("h1").down(for_="3s")
    engine.pass_time(2.9)
    assert engine.blocked
    engine.pass_time(0.2)
    assert not engine.blocked
    handle.heal()
    assert [(each.what, round(each.time, 3)) for each in net.happened] == [
        ("began", 0.0),
        ("ended", 3.0),
    ]


def test_healing_early_and_closing_end_everything(engine):
    net = Network(engine)
    net.link("h0").loss(0.1, for_="10s").heal()
    assert engine.total == baseline(engine.topology)
    net.host("h2").pause(for_="5s")
    net.host("h1").disk_full()
    net.partition(["h0"], ["h1", "h2"])
    net.close()
    net.close()
    assert engine.total == baseline(engine.topology)
    assert ("resume", "h2") in engine.told
    assert ("disk whole", "h1") in engine.told
    assert engine.told.count("closed") == 1
    engine.pass_time(20)
    assert engine.told.count(("resume", "h2")) == 1
    assert sum(each.what == "ended" for each in net.happened) == 4


def test_a_flap_goes_up_and_down_as_often_as_it_should(engine):
    net = Network(engine)
    net.link("h1").flap(down="1s", up="2s", times=3)
    seen = []
    for _ in range(20):
        seen.append(bool(engine.blocked))
        engine.pass_time(0.5)
    down, up = [True] * 2, [False] * 4
    assert seen == [*down, *up, *down, *up, *down, *[False] * 6]
    assert [each.what for each in net.happened] == ["began", "ended"]
    handle = net.link("h1").flap(down="1s", up="2s", times=3)
    engine.pass_time(3.5)
    assert engine.blocked
    handle.heal()
    engine.pass_time(20)
    assert not engine.blocked


def test_what_happens_at_once(engine):
    net = Network(engine)
    net.link("h1").reset()
    net.link("h1", to="h0").reset(ends="one")
    net.host("h2").kill()
    net.worker(1).kill()
    net.host("h0").disk_slow("80mbit").heal()
    assert engine.told == [
        ("reset", 2, None),
        ("reset", 2, "h1"),
        ("kill", "h2"),
        ("kill", 1),
        ("disk", "h0", 80e6),
        ("disk whole", "h0"),
    ]
    for refused in (net, net.at(step=9)):
        with pytest.raises(UsageError, match="must be a host"):
            refused.switch("s0").reset(ends="one")


def test_a_moment_is_awaited_and_comes_once(engine):
    net = Network(engine)
    net.at(step=3, phase="all-gather", rank=1).link("h1").down(for_="1s")
    net.at(step=3, phase="all-gather").host("h0").pause()
    assert len(engine.moments) == 2
    net.reached(0, 2, "all-gather")
    net.reached(0, 3, "all-gather")
    assert engine.told == [("pause", "h0")]
    assert len(engine.moments) == 1
    net.reached(1, 3, "all-gather")
    assert engine.blocked
    assert engine.moments == ()
    net.reached(1, 3, "all-gather")
    assert sum(each.what == "began" for each in net.happened) == 2


def test_what_is_planned_can_be_taken_back(engine):
    net = Network(engine)
    by_time = net.at("2s").link("h1").down()
    by_step = net.at(step=1).link("h1").down()
    by_time.heal()
    by_step.heal()
    engine.pass_time(5)
    net.reached(0, 1, "step")
    assert not net.happened
    assert engine.moments == ()


def test_what_was_planned_and_has_begun_is_healed_by_its_handle(engine):
    net = Network(engine)
    with net.at(step=5).link("h1").down(), net.at("1s").link("h2").down():
        net.reached(0, 5, "step")
        engine.pass_time(2)
        assert len(engine.blocked) == 4
        assert net.planned == ()
    assert not engine.blocked
    with net.at(step=6).link("h1").down(), net.at(step=6).link("h1").down():
        pass
    assert engine.moments == ()


def test_healing_forgets_what_was_to_come(engine):
    net = Network(engine)
    net.at("1s").link("h1").down()
    net.at(step=1).link("h1").down()
    assert len(net.planned) == 2
    net.heal()
    engine.pass_time(5)
    net.reached(0, 1, "step")
    assert not net.happened


def test_a_flap_that_is_healed_while_its_next_fall_is_due_stays_up(engine):
    net = Network(engine)
    handle = net.link("h1").flap(down="1s", up="1s", times=3)
    engine.pass_time(1.5)
    _, _, fall = engine.later[0]  # the timer has it in hand already
    handle.heal()
    fall()
    assert not engine.blocked
    assert [each.what for each in net.happened] == ["began", "ended"]


def test_a_fault_that_cannot_be_carried_out_costs_the_others_of_its_moment_nothing(engine):
    net = Network(engine)
    net.at(step=1).host("h0").kill()
    net.at(step=1).link("h1").down()
    engine.kill = lambda host: 1 / 0
    with pytest.raises(ZeroDivisionError):
        net.reached(0, 1, "step")
    assert engine.blocked
    assert [each.fault.kind for each in net.happened] == ["down"]


def test_a_script_plays_from_now(engine):
    net = Network(engine)
    engine.pass_time(50)
    net.play(flap("h0", "h1", down=1.0, at="2s") + loss("h2", p=0.5, at_step=7) + kill(worker=2))
    engine.pass_time(0)
    assert engine.told == [("kill", 2)]
    engine.pass_time(2.5)
    assert engine.blocked
    net.heal()
    assert not engine.blocked
    assert engine.moments == ()


def test_what_an_engine_cannot_do_is_refused_before_anything_happens():
    engine = Notebook(star(3), kinds=frozenset({"down", "reset"}))
    net = Network(engine)
    net.link("h1").flap(down=1)
    with pytest.raises(UnsupportedFault, match=r"notebook network cannot do loss.*down, reset"):
        net.play(flap("h0", down=1) + loss("h2", p=0.5, at_step=7))
    with pytest.raises(UnsupportedFault):
        net.at(step=3).link("h1").loss(0.5)
    with pytest.raises(UsageError, match="no 'h7'"):
        net.link("h7").down()
    assert engine.moments == ()
    assert len(net.happened) == 1
