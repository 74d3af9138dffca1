"""A pipe holds packets up for as long as its condition says, and keeps their order."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.fabric.condition import CLEAR, Condition
from holdfast.fabric.kernel.pipe import QUEUE_SECONDS, Pipe

GAPS = st.lists(st.floats(0, 0.1), min_size=1, max_size=50)


def pipe(**condition):
    return Pipe(Condition(**condition), random.Random(1))


def admit_all(one, gaps, size=1500):
    """Return when each packet comes and when it gets out."""
    now, seen = 0.0, []
    for gap in gaps:
        now += gap
        seen.append((now, one.admit(now, size)))
    return seen


@given(GAPS)
def test_a_clear_pipe_does_nothing(gaps):
    one = Pipe(CLEAR, random.Random(1))
    assert all(out == now for now, out in admit_all(one, gaps))
    assert not one.spoils()
    assert not one.counts_packets


@given(GAPS, st.floats(0, 1), st.floats(0, 1))
def test_jitter_keeps_the_order_and_its_bounds(gaps, latency, jitter):
    seen = admit_all(pipe(latency=latency, jitter=jitter), gaps)
    outs = [out for _, out in seen]
    assert outs == sorted(outs)
    assert all(now + latency <= out <= now + latency + jitter + 1e-9 for now, out in seen)


@given(GAPS)
def test_those_that_are_overtaken_come_as_much_later_as_was_said(gaps):
    seen = admit_all(pipe(latency=0.01, reordering=0.5, overtaken=0.01), gaps)
    for now, out in seen:
        assert out == pytest.approx(now + 0.01) or out == pytest.approx(now + 0.02)


def test_reordering_lets_later_packets_pass():
    outs = [
        out
        for _, out in admit_all(pipe(latency=0.01, reordering=0.3, overtaken=0.01), [0.001] * 100)
    ]
    assert outs != sorted(outs)


def test_a_rate_is_kept_and_what_the_queue_does_not_hold_is_dropped():
    rate = 80e6  # 10 MB/s
    outs = [out for _, out in admit_all(pipe(rate=rate), [0.0] * 1000, size=10_000)]
    kept = [out for out in outs if out is not None]
    assert kept == pytest.approx([(n + 1) * 0.001 for n in range(len(kept))])
    assert len(kept) == pytest.approx(QUEUE_SECONDS * rate / 8 / 10_000, abs=2)


def test_a_pipe_that_was_idle_owes_nothing():
    one = pipe(rate=8e6)
    assert one.admit(0.0, 1000) == pytest.approx(0.001)
    assert one.admit(5.0, 1000) == pytest.approx(5.001)


def test_blocked_and_lost_packets_never_get_out():
    assert pipe(blocked=True).admit(0.0, 100) is None
    assert pipe(loss=1.0).admit(0.0, 100) is None
    outs = [out for _, out in admit_all(pipe(loss=0.25), [0.0] * 2000)]
    assert outs.count(None) == pytest.approx(500, abs=100)


def test_corruption_is_a_matter_of_chance():
    one = pipe(corruption=0.25)
    assert sum(one.spoils() for _ in range(2000)) == pytest.approx(500, abs=100)


@pytest.mark.parametrize("fate", ["loss", "reordering", "corruption"])
def test_packets_are_counted_where_each_has_its_own_fate(fate):
    assert pipe(**{fate: 0.1}).counts_packets
