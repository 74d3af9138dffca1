"""Simulated TCP: whatever the wires do, bytes come in order and late; broken ends say so."""

import errno
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fabric import star
from holdfast.fabric.condition import Condition, baseline
from holdfast.fabric.simulated.clock import Clock
from holdfast.fabric.simulated.tcp import TRIES, WINDOW, Connection, End
from holdfast.fabric.simulated.wire import PIECE, Wires
from holdfast.fabric.topology import Lane

UP, DOWN = Lane(0, True), Lane(1, False)  # from h0 to the switch, from there to h1


class Wire:
    """A connection of h0, who dials, to h1, and the conditions on its way."""

    def __init__(self, rate="80mbit", latency="1ms", seed=0, dial=True):
        self.topology = star(2, rate=rate, latency=latency)
        self.clock = Clock()
        self.wires = Wires(self.topology, self.clock, random.Random(seed))
        there, back = self.wires.path("h0", "h1", 0), self.wires.path("h1", "h0", 0)
        self.events = []
        self.a = End("h0", there, "a", lambda: None)
        self.b = End("h1", back, "b", lambda: None)
        self.connection = Connection(
            self.wires, self.a, self.b, lambda *what: self.events.append((self.clock.now, *what))
        )
        self.accepted = []
        self.listens = True
        if dial:
            self.dial()
            self.run(1.0)
            assert self.accepted == [self.b]

    def dial(self):
        self.connection.dial(lambda: self.listens, self.accepted.append)

    def impose(self, **conditions):
        """Add conditions to the lanes named."""
        total = baseline(self.topology)
        for name, condition in conditions.items():
            lane = {"up": UP, "down": DOWN, "back": Lane(1, True)}[name]
            total[lane] = total[lane] | condition
        self.wires.impose(total)

    def run(self, seconds):
        end = self.clock.now + seconds
        done = []
        self.clock.at(end, lambda: done.append(True))
        while not done:
            self.clock.step()

    def received(self):
        """Return all that h1 can read."""
        got = bytearray()
        into = memoryview(bytearray(1 << 20))
        while self.b.readable:
            count = self.b.recv_into(into)
            if not count:
                break
            got += into[:count]
        return bytes(got)


def test_connecting_takes_a_round_trip_and_the_acceptor_hears_half_a_one_later():
    wire = Wire(dial=False)
    wire.dial()
    wire.run(0.0059)
    assert not wire.accepted
    wire.run(0.0002)
    assert wire.accepted == [wire.b]


def test_a_connection_is_asked_for_again_after_one_and_three_seconds():
    wire = Wire(dial=False)
    wire.impose(up=Condition(blocked=True))
    wire.dial()
    wire.run(1.5)
    wire.impose()
    wire.run(1.49)
    assert not wire.accepted
    wire.run(0.1)
    assert wire.accepted == [wire.b]


def test_a_connection_to_where_nobody_listens_is_refused():
    wire = Wire(dial=False)
    wire.listens = False
    wire.dial()
    wire.run(0.0041)
    with pytest.raises(ConnectionRefusedError):
        wire.a.recv_into(memoryview(bytearray(1)))


def test_bytes_take_their_size_over_the_rate_once_and_each_cables_latency():
    wire = Wire(rate="80mbit", latency="1ms")  # 10 bytes a microsecond
    began = wire.clock.now
    wire.a.sendmsg([memoryview(bytes(10 * PIECE))])
    wire.run(10 * PIECE / 10e6 + 0.002 - 1e-6)
    assert len(wire.received()) == 9 * PIECE
    wire.run(2e-6)
    assert len(wire.received()) == PIECE
    assert wire.a.queued > 0
    wire.run(0.002)
    assert wire.a.queued == 0
    assert wire.clock.now - began < 0.0702


def test_two_connections_share_a_lane():
    one, size = Wire(), 20 * PIECE
    two = Wire(dial=False)
    two.wires, two.clock = one.wires, one.clock
    two.connection = Connection(one.wires, two.a, two.b, lambda *what: None)
    two.dial()
    one.run(1.0)
    for wire in (one, two):
        wire.a.sendmsg([memoryview(bytes(size))])
    one.run(size / 10e6 + 0.003)
    got = [len(wire.received()) for wire in (one, two)]
    assert sum(got) == size
    assert abs(got[0] - got[1]) <= PIECE
    one.run(size / 10e6)
    assert [len(wire.received()) for wire in (one, two)] == [size - each for each in got]


@pytest.mark.parametrize(
    ("outage", "stall"), [(0.1, 0.2), (0.5, 0.6), (1.0, 1.4), (2.0, 3.0), (3.5, 6.2), (8.0, 12.6)]
)
def test_an_outage_heals_on_the_retransmission_grid(outage, stall):
    """As measured on Linux: 1 s of outage stalls 1.47 s, 2 s 3.15 s, 3.5 s 6.47 s, 8 s 13.25 s."""
    wire = Wire(latency="100us")
    wire.impose(down=Condition(blocked=True))
    wire.a.sendmsg([memoryview(b"1234")])
    wire.run(0.9 * outage)
    wire.a.sendmsg([memoryview(b"5678")])
    wire.run(0.1 * outage)
    wire.impose()
    wire.run(stall - outage)
    assert wire.received() == b""
    wire.run(0.1 * stall)
    assert wire.received() == b"12345678"


def test_a_lost_packet_comes_a_round_trip_later_if_others_follow_else_after_a_timeout():
    wire = Wire(rate="8gbit", seed=1)
    wire.impose(up=Condition(loss=0.05))
    wire.a.sendmsg([memoryview(bytes(PIECE))])
    wire.run(0.0023)
    assert wire.received() == b""  # some of its packets are lost
    wire.run(0.02)
    assert len(wire.received()) == PIECE
    wire.impose(up=Condition(loss=1.0))
    wire.a.sendmsg([memoryview(b"1")])
    wire.run(0.1)
    wire.impose()
    wire.run(0.09)
    assert wire.received() == b""
    wire.run(0.1)
    assert wire.received() == b"1"


def test_what_is_acknowledged_in_vain_is_sent_again_but_delivered_once():
    wire = Wire()
    wire.impose(back=Condition(blocked=True))
    wire.a.sendmsg([memoryview(b"once")])
    wire.run(1.0)
    assert wire.received() == b"once"
    assert wire.a.queued == 4
    assert [what for _, what, *_ in wire.events] == ["retransmitted", "retransmitted"]
    wire.impose()
    wire.run(2.0)
    assert wire.a.queued == 0
    assert wire.received() == b""


def test_no_more_than_the_window_is_accepted_until_some_has_arrived():
    wire = Wire()
    wire.impose(up=Condition(blocked=True))
    data = memoryview(random.Random(0).randbytes(WINDOW + 5000))
    assert wire.a.sendmsg([data]) == WINDOW
    with pytest.raises(BlockingIOError):
        wire.a.sendmsg([data[WINDOW:]])
    wire.impose()
    wire.run(1.0)
    assert wire.a.sendmsg([data[WINDOW:]]) == 5000
    wire.run(1.0)
    assert wire.received() == data


def test_corruption_changes_bytes_and_nothing_else():
    wire = Wire()
    wire.impose(up=Condition(corruption=0.1))
    data = bytes(100_000)
    wire.a.sendmsg([memoryview(data)])
    wire.run(1.0)
    got = wire.received()
    assert len(got) == len(data)
    assert 0 < sum(byte != 0 for byte in got) < 30


def test_closing_delivers_what_was_sent_and_then_the_end():
    wire = Wire()
    wire.impose(up=Condition(loss=0.1))
    wire.a.sendmsg([memoryview(bytes(300_000))])
    wire.a.close()
    wire.run(10.0)
    assert len(wire.received()) == 300_000
    assert wire.b.recv_into(memoryview(bytearray(1))) == 0
    wire.b.close()
    wire.run(10.0)
    assert wire.connection.over


def test_closing_with_unread_bytes_and_sending_to_the_closed_break_the_connection():
    wire = Wire()
    wire.b.sendmsg([memoryview(b"unread")])
    wire.run(0.1)
    wire.a.close()
    wire.run(0.1)
    with pytest.raises(ConnectionResetError):
        wire.b.sendmsg([memoryview(b"1")])

    wire = Wire()
    wire.a.close()
    wire.run(0.1)
    assert wire.b.sendmsg([memoryview(b"1")]) == 1
    wire.run(0.1)
    with pytest.raises(ConnectionResetError):
        wire.b.sendmsg([memoryview(b"1")])


def test_a_connection_without_an_answer_is_given_up_after_many_tries():
    wire = Wire()
    wire.impose(up=Condition(blocked=True))
    wire.a.sendmsg([memoryview(b"1")])
    wire.run(2000.0)
    assert len([event for event in wire.events if event[1] == "retransmitted"]) == TRIES
    with pytest.raises(OSError) as raised:
        wire.a.sendmsg([memoryview(b"1")])
    assert raised.value.errno == errno.ETIMEDOUT


@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_every_byte_comes_once_and_in_order_whatever_the_wires_do(data, seed):
    wire = Wire(rate=data.draw(st.sampled_from([None, "10mbit", "1gbit"])), seed=seed)
    rng = random.Random(seed)
    sent, got = bytearray(), bytearray()
    probability = st.sampled_from([0.0, 0.01, 0.3])
    condition = st.builds(
        Condition,
        blocked=st.sampled_from([False, False, True]),
        loss=probability,
        latency=st.sampled_from([0.0, 0.01]),
        jitter=st.sampled_from([0.0, 0.01]),
        reordering=probability,
    )
    for _ in range(data.draw(st.integers(1, 8))):
        names = ("up", "down", "back")
        wire.impose(**{name: data.draw(condition) for name in names})
        parts = [
            rng.randbytes(data.draw(st.sampled_from([1, 48, 3000, 200_000])))
            for _ in range(data.draw(st.integers(1, 3)))
        ]
        count = wire.a.sendmsg([memoryview(part) for part in parts])
        sent += b"".join(parts)[:count]
        wire.run(data.draw(st.sampled_from([0.0, 0.001, 0.05, 1.0])))
        got += wire.received()
        assert sent.startswith(got)
    wire.impose()
    wire.run(200.0)
    assert got + wire.received() == sent
    assert wire.a.queued == 0


def test_a_clock_calls_in_order_and_what_is_called_off_never():
    clock, called = Clock(), []
    clock.later(2.0, lambda: called.append(("b", clock.now)))
    clock.later(1.0, lambda: called.append(("a", clock.now)))
    off = clock.later(1.5, lambda: called.append(("off", clock.now)))
    clock.later(2.0, lambda: called.append(("c", clock.now)))
    off()
    while clock.step():
        pass
    off()
    assert called == [("a", 1.0), ("b", 2.0), ("c", 2.0)]
    clock.at(0.5, lambda: called.append(("late", clock.now)))
    assert clock.step()
    assert called[-1] == ("late", 2.0)
