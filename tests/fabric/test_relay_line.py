"""What is on its way: the order and the bytes are kept, and each condition takes its time."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fabric.condition import CLEAR, Condition
from holdfast.fabric.relay.gate import Gate
from holdfast.fabric.relay.line import CAPACITY, PACKET, SHORTEST, TIMEOUT, Line, Odds

CONDITIONS = st.builds(
    Condition,
    latency=st.floats(0, 0.1),
    jitter=st.floats(0, 0.05),
    loss=st.sampled_from((0.0, 0.01, 0.5, 0.99)),
    reordering=st.sampled_from((0.0, 0.1, 1.0)),
    overtaken=st.floats(0, 0.05),
)


def line(condition, round_trip=0.0, seed=0):
    made = Line(random.Random(seed))
    made.change(condition, round_trip, 0.0)
    return made


def arrived(made, now):
    """Take and return what has arrived."""
    data = b""
    while parts := made.arrived(now):
        data += b"".join(parts)
        made.take(sum(map(len, parts)))
    return data


@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=4 * PACKET),
            CONDITIONS,
            st.tuples(st.floats(0, 0.3), st.integers(1, 5000)),
        ),
        max_size=40,
    ),
    st.integers(0, 99),
)
def test_whatever_changes_bytes_come_in_order_and_all_of_them(events, seed):
    made, now, condition = line(CLEAR, seed=seed), 0.0, CLEAR
    put = got = b""
    for event in events:
        if isinstance(event, bytes):
            made.put(event, now)
            put += event
        elif isinstance(event, Condition):
            condition = event
            made.change(condition, 2 * condition.latency, now)
        else:
            now += event[0]
            part = b"".join(made.arrived(now))[: event[1]]
            made.take(len(part))
            got += part
        assert made.held == len(put) - len(got)
        assert (made.due < math.inf) == (made.held > 0)
    assert put.startswith(got)
    made.change(CLEAR, 0.0, now)
    assert got + arrived(made, now) == put
    assert made.held == 0
    assert made.room == CAPACITY


@given(st.floats(0.001, 0.1), st.floats(0, 0.1), st.integers(0, 99))
def test_latency_and_jitter(latency, jitter, seed):
    made = line(Condition(latency=latency, jitter=jitter), seed=seed)
    made.put(b"x", 1.0)
    assert 1 + latency <= made.due <= 1 + latency + jitter
    assert not made.arrived(math.nextafter(made.due, 0))
    assert arrived(made, made.due) == b"x"


def certain(loss):
    """A line that loses the next packet, and never a retransmission."""
    made = line(Condition(loss=loss, latency=0.01), round_trip=0.02)
    made._lost._left = 0.0
    made._lost_again = lambda: 0.0
    return made


def test_a_lost_packet_that_nothing_follows_waits_for_the_timeout():
    made = certain(1e-9)
    made.put(b"x", 1.0)
    assert made.due == pytest.approx(1 + TIMEOUT + 0.02 + 0.01)


def test_a_lost_packet_is_asked_for_when_something_follows():
    made = certain(1e-9)
    made.put(b"x", 1.0)
    made.put(b"y", 1.05)
    assert made.due == pytest.approx(1.05 + 0.02 + 0.01)
    assert arrived(made, made.due) == b"xy"


def test_what_is_before_a_lost_packet_arrives_and_what_is_behind_waits():
    made = certain(1e-9)
    made._lost._left = 1.0
    made.put(bytes(3 * PACKET), 1.0)
    assert len(arrived(made, 1.01)) == PACKET
    assert made.due == pytest.approx(1 + 0.02 + 0.01)
    assert len(arrived(made, made.due)) == 2 * PACKET


def test_a_retransmission_takes_a_few_milliseconds_even_next_door():
    made = line(Condition(loss=1e-9))
    made._lost._left = 0.0
    made.put(bytes(2 * PACKET), 1.0)
    assert made.due == pytest.approx(1 + SHORTEST)


def test_retransmissions_that_are_lost_take_longer_and_longer():
    made = line(Condition(loss=0.999))
    made.put(b"x", 0.0)
    assert made.due > 100


def test_a_packet_that_is_overtaken_comes_late():
    made = line(Condition(reordering=1.0, latency=0.005, overtaken=0.003))
    made.put(b"x", 1.0)
    assert made.due == pytest.approx(1 + 0.005 + 0.003)


def test_corruption_changes_one_byte_of_each_packet():
    made = line(Condition(corruption=1.0))
    sent = random.Random(1).randbytes(10 * PACKET + 3)
    made.put(sent, 0.0)
    changed = [
        place
        for place, pair in enumerate(zip(sent, arrived(made, 0.0), strict=True))
        if len({*pair}) > 1
    ]
    assert [place // PACKET for place in changed] == list(range(11))


def test_healing_hastens_what_is_on_the_way():
    made = line(Condition(latency=60.0))
    made.put(b"x", 0.0)
    made.change(Condition(latency=0.5), 0.5, 1.0)
    assert made.due == 1.5


def test_small_messages_fill_a_line_too():
    made = line(Condition(latency=1.0))
    count = 0
    while made.room > 0:
        made.put(b"x", 0.0)
        count += 1
    assert count < 100_000


@pytest.mark.parametrize("p", [0.0001, 0.01, 0.3, 0.9])
def test_odds_are_what_was_asked_for_however_packets_are_grouped(p):
    rng = random.Random(5)
    odds = Odds(rng)
    odds.change(p)
    total = hits = 0
    while total < 400_000:
        packets = rng.choice((1, 2, 10, 500))
        among = odds.among(packets)
        assert all(0 <= hit < packets for hit in among)
        assert sorted(set(among)) == among
        total, hits = total + packets, hits + len(among)
    assert abs(hits - total * p) < 5 * math.sqrt(total * p * (1 - p)) + 1


@pytest.mark.parametrize(("p", "expected"), [(0.0, []), (1.0, [0, 1, 2])])
def test_never_and_always(p, expected):
    odds = Odds(random.Random(0))
    odds.change(p)
    assert odds.among(3) == odds.among(3) == expected


@given(
    st.floats(1e3, 1e10),
    st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(0, 0.01)), min_size=1),
)
def test_nothing_gets_through_a_gate_faster_than_its_rate(rate, bursts):
    gate, now, total, last = Gate(rate), 0.0, 0, 0.0
    for count, pause in bursts:
        now += pause
        through = gate.reserve(count, now)
        assert through >= max(last, now) + 8 * count / rate - 1e-9
        last, total = through, total + count
    assert last >= 8 * total / rate - 1e-6


def test_a_gate_that_gets_faster_holds_nobody_up_for_what_was_before():
    gate = Gate(8.0)
    assert gate.reserve(100, 0.0) == 100.0
    gate.change(8e3, 1.0)
    assert gate.reserve(1000, 1.0) == pytest.approx(2.0)
    gate.change(math.inf, 3.0)
    assert gate.reserve(1 << 30, 3.0) == 3.0
