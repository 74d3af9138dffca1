"""Every schedule is proved for every world size from 1 to 64, and the proof can fail."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collectives import proof, schedule
from holdfast.collectives.schedule import Receive, Send, Step

SIZES = range(1, 65)


@pytest.mark.parametrize("size", SIZES)
def test_ring_all_reduce_adds_everything_once_in_the_ring_s_order(size):
    orders = proof.prove_all_reduce(schedule.ring_all_reduce(size))
    assert orders == [schedule.ring_reduction_order(size, chunk) for chunk in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_ring_reduce_scatter(size):
    orders = proof.prove_reduce_scatter(schedule.ring_reduce_scatter(size))
    assert orders == [schedule.ring_reduction_order(size, chunk) for chunk in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_ring_all_gather(size):
    proof.prove_all_gather(schedule.ring_all_gather(size))


@pytest.mark.parametrize("size", SIZES)
def test_binomial_broadcast_from_every_root(size):
    for root in range(size):
        proof.prove_broadcast(schedule.binomial_broadcast(size, root), root)


@pytest.mark.parametrize("size", SIZES)
def test_a_ring_moves_the_least_possible(size):
    """2 (n - 1) / n of the array through each rank, in each direction: the lower bound."""
    sent = [sum(1 for s in schedule.ring_all_reduce(size).steps(r) if s.send) for r in range(size)]
    assert sent == [2 * (size - 1)] * size


def altered(original, rank, number, change):
    def program(r, n):
        step = original.program(r, n)
        return change(step) if (r, n) == (rank, number) else step

    return dataclasses.replace(original, program=program)


@given(size=st.integers(2, 12), data=st.data())
def test_the_proof_finds_any_one_altered_step(size, data):
    original = schedule.ring_all_reduce(size)
    rank = data.draw(st.integers(0, size - 1))
    number = data.draw(st.integers(0, original.rounds - 1))
    change = data.draw(
        st.sampled_from(
            [
                lambda s: s._replace(send=None),
                lambda s: s._replace(receive=None),
                lambda s: s._replace(send=Send(s.send.peer, (s.send.chunk + 1) % size)),
                lambda s: s._replace(receive=s.receive._replace(reduce=not s.receive.reduce)),
            ]
        )
    )
    with pytest.raises(proof.ScheduleError):
        proof.prove_all_reduce(altered(original, rank, number, change))


def test_the_proof_finds_a_double_addition():
    twice = schedule.Schedule(
        "twice", 2, 1, 2, lambda r, n: Step(n, Send(1 - r, 0), Receive(1 - r, 0, reduce=True))
    )
    with pytest.raises(proof.ScheduleError, match="expected once"):
        proof.prove_all_reduce(twice)


@given(count=st.integers(0, 10_000), chunks=st.integers(1, 64))
def test_chunks_cover_the_array_evenly(count, chunks):
    bounds = schedule.chunk_bounds(count, chunks)
    assert len(bounds) == chunks + 1
    assert bounds[0] == 0
    assert bounds[-1] == count
    assert bounds == sorted(bounds)
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    assert max(sizes) - min(sizes) < 2 * schedule.CHUNK_ALIGNMENT + 1
    assert all(b % schedule.CHUNK_ALIGNMENT == 0 for b in bounds[:-1] if b != count)
