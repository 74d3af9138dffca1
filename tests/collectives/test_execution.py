"""Plans and their instructions: every rank's iterator is driven by hand, with queues for wires."""

from collections import defaultdict, deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16

from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.execution import Outgoing, Place, Scratch, execute, scratch_bytes
from holdfast.collectives.plan import AHEAD, SCRATCH_BYTES, Await, Enter, Give, plan
from holdfast.collectives.schedule import (
    Receive,
    Schedule,
    Send,
    Step,
    chunk_bounds,
    ring_reduction_order,
)
from holdfast.collectives.schedules.all_reduce import FAMILIES, all_reduce
from holdfast.collectives.schedules.direct import direct_all_reduce, direct_reduce_scatter
from holdfast.collectives.schedules.ring import (
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
)
from holdfast.collectives.schedules.rooted import binomial_broadcast, chain_broadcast

SEGMENT = 64


def even(count, chunks):
    return list(pairwise(chunk_bounds(count, chunks)))


def start(schedule, rank, x, out=None, places=None, op="sum", segment=SEGMENT, **more):
    """Return one rank's instructions; `out` is `x` if None."""
    made = plan(
        schedule,
        rank,
        even(x.size, schedule.chunks) if places is None else places,
        itemsize=x.itemsize,
        segment=segment,
        in_place=out is None or out is x,
        **more,
    )
    return execute(made, x, x if out is None else out, Scratch(made, x.dtype), op)


def drive(ranks):
    """Run all ranks to their ends; return what each did, as text.

    Messages are copied as late as can be: when their receiver awaits them.
    """
    wires, places = defaultdict(deque), defaultdict(deque)
    done = [[] for _ in ranks]
    waiting = dict.fromkeys(range(len(ranks)))
    while waiting:
        stuck = True
        for rank in list(waiting):
            while True:
                now = waiting[rank] or next(ranks[rank], None)
                waiting[rank] = None
                match now:
                    case None:
                        del waiting[rank]
                        stuck = False
                        break
                    case Outgoing(peer, data):
                        wires[rank, peer].append(data)
                        done[rank].append(f"to {peer}: {len(data)}")
                    case Place(peer, into):
                        places[peer, rank].append(into)
                    case Enter(name):
                        done[rank].append(name)
                    case Await(peer):
                        if not wires[peer, rank]:
                            waiting[rank] = now
                            break
                        into = places[peer, rank].popleft()
                        into[:] = wires[peer, rank].popleft()
                        done[rank].append(f"from {peer}: {len(into)}")
                stuck = False
        assert not stuck, f"ranks {list(waiting)} wait for each other"
    assert not any(wires.values()), "something was sent that nobody received"
    assert not any(places.values()), "a place was given that nothing came to"
    return done


def inputs(size, count, dtype=np.float32, seed=0):
    rngs = [np.random.default_rng([seed, rank]) for rank in range(size)]
    return [rng.uniform(-2.0, 2.0, count).astype(dtype) for rng in rngs]


def reference(arrays, op):
    """The naive all-reduce: each chunk in its ring's order, in the array's own dtype."""
    size, out = len(arrays), np.empty_like(arrays[0])
    bounds = chunk_bounds(out.size, size)
    for chunk in range(size):
        part = slice(bounds[chunk], bounds[chunk + 1])
        first, *others = ring_reduction_order(size, chunk)
        total = arrays[first][part].copy()
        for rank in others:
            total = COMBINE[op](total, arrays[rank][part])
        out[part] = total / out.dtype.type(size) if op == "mean" else total
    return out


@settings(deadline=None)
@given(
    algorithm=st.sampled_from(["ring", "direct", "exchange"]),
    size=st.integers(1, 6),
    count=st.integers(0, 300),
    segment=st.integers(64, 700),
    op=st.sampled_from(list(COMBINE)),
    dtype=st.sampled_from([np.float32, np.float64]),
    apart=st.booleans(),
)
def test_all_reduce_gives_the_bits_of_the_naive_one(
    algorithm, size, count, segment, op, dtype, apart
):
    arrays = inputs(size, count, dtype)
    xs = [array.copy() for array in arrays]
    outs = [np.full_like(x, np.nan) if apart else x for x in xs]
    schedule = all_reduce(algorithm, size, xs[0].nbytes)
    drive([start(schedule, r, xs[r], outs[r], op=op, segment=segment) for r in range(size)])
    for out in outs:
        assert out.tobytes() == reference(arrays, op).tobytes()
    if apart:
        assert [x.tobytes() for x in xs] == [array.tobytes() for array in arrays]


@settings(max_examples=80, deadline=None)
@given(
    algorithm=st.sampled_from([*FAMILIES, "two-level:2", "two-level:3"]),
    size=st.integers(1, 9),
    count=st.integers(0, 400),
    segment=st.integers(64, 700),
    pieces=st.integers(1, 3),
    apart=st.booleans(),
)
def test_every_all_reduce_gives_the_sum(algorithm, size, count, segment, pieces, apart):
    if algorithm.startswith("two-level"):
        size = max(1, size // 2) * int(algorithm[-1])
    arrays = [np.arange(count) + 1000 * rank for rank in range(size)]
    outs = [np.full_like(x, -1) if apart else x.copy() for x in arrays]
    xs = arrays if apart else outs
    schedule = all_reduce(algorithm, size, pieces * (256 << 10))
    drive([start(schedule, r, xs[r], outs[r], segment=segment) for r in range(size)])
    for out in outs:
        np.testing.assert_array_equal(out, np.arange(count) * size + 500 * size * (size - 1))


@settings(deadline=None)
@given(
    algorithm=st.sampled_from(["direct", "exchange"]),
    size=st.integers(2, 6),
    count=st.integers(0, 300),
    segment=st.integers(64, 300),
    op=st.sampled_from(["sum", "mean", "prod"]),
    dtype=st.sampled_from([np.float16, bfloat16]),
    apart=st.booleans(),
)
def test_a_wide_sum_is_rounded_once(algorithm, size, count, segment, op, dtype, apart):
    arrays = inputs(size, count, dtype)
    xs = [array.copy() for array in arrays]
    outs = [np.zeros_like(x) if apart else x for x in xs]
    schedule = all_reduce(algorithm, size, xs[0].nbytes)
    more = {"op": op, "segment": segment, "wide": True}
    drive([start(schedule, r, xs[r], outs[r], **more) for r in range(size)])
    expected = reference([array.astype(np.float32) for array in arrays], op).astype(dtype)
    for out in outs:
        assert out.tobytes() == expected.tobytes()


def test_a_sum_that_would_be_rounded_twice_is_not_planned():
    with pytest.raises(AssertionError, match="rounded twice"):
        start(ring_all_reduce(3), 0, np.zeros(96, np.float16), wide=True)


@settings(deadline=None)
@given(size=st.integers(2, 6), count=st.integers(0, 300))
def test_the_other_collectives(size, count):
    arrays = inputs(size, count)
    bounds = chunk_bounds(count, size)
    totals = [np.empty_like(array) for array in arrays]
    expected = reference(arrays, "sum")
    for make in (ring_reduce_scatter, direct_reduce_scatter):
        done = drive([start(make(size), r, arrays[r], totals[r]) for r in range(size)])
        for rank, total in enumerate(totals):
            part = slice(bounds[rank], bounds[rank + 1])
            assert total[part].tobytes() == expected[part].tobytes()
        assert {each[0] for each in done} == {"reduce-scatter"}

    stacks = [np.where(np.arange(size)[:, None] == r, arrays[r], 0) for r in range(size)]
    places = [(count * r, count * (r + 1)) for r in range(size)]
    gather = ring_all_gather(size)
    done = drive([start(gather, r, stacks[r].reshape(-1), places=places) for r in range(size)])
    for stack in stacks:
        np.testing.assert_array_equal(stack, np.stack(arrays))
    assert {each[0] for each in done} == {"all-gather"}

    for make in (binomial_broadcast, chain_broadcast):
        copies = [array.copy() for array in arrays]
        done = drive([start(make(size, size - 1), r, copies[r]) for r in range(size)])
        for copy in copies:
            np.testing.assert_array_equal(copy, arrays[-1])
        assert {each[0] for each in done} == {"broadcast"}


def test_the_instructions_of_a_ring_in_order():
    """A segment is sent on before the next one is awaited; the phase changes where it should."""
    done = drive([start(ring_all_reduce(3), r, x) for r, x in enumerate(inputs(3, 96))])
    assert done[0] == [
        *["reduce-scatter", "to 1: 64", "to 1: 64"],  # its own part of chunk 2
        *["from 2: 64", "to 1: 64", "from 2: 64", "to 1: 64"],  # chunk 1
        *["from 2: 64", "to 1: 64", "from 2: 64", "to 1: 64"],  # chunk 0, whole now
        *["all-gather", "from 2: 64", "to 1: 64", "from 2: 64", "to 1: 64"],  # chunk 2
        *["from 2: 64", "from 2: 64"],  # chunk 1, which nobody needs any more
    ]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_rank_of_an_all_reduce_has_both_phases_though_there_is_nothing_to_move(size):
    done = drive([start(ring_all_reduce(size), r, np.empty(0)) for r in range(size)])
    assert done == [["reduce-scatter", "all-gather"]] * size


def test_a_chain_sends_each_segment_on_before_it_awaits_the_next():
    done = drive([start(chain_broadcast(3), r, x) for r, x in enumerate(inputs(3, 48))])
    assert done[1] == ["broadcast", *["from 0: 64", "to 2: 64"] * 3]


def test_two_ranks_exchange_what_is_small_in_one_round():
    done = drive([start(all_reduce("exchange", 2, 4), r, x) for r, x in enumerate(inputs(2, 1))])
    assert done[0] == ["reduce-scatter", "to 1: 4", "from 1: 4", "all-gather"]


def test_places_are_given_several_segments_ahead_and_no_more():
    x = np.zeros(4096, np.float32)
    given = awaited = 0
    for each in start(ring_all_reduce(2), 0, x, np.empty_like(x)):
        if isinstance(each, Place):
            given += 1
        elif isinstance(each, Await):
            assert given - awaited == min(AHEAD, 4096 * 4 // SEGMENT - awaited)
            awaited += 1
    assert awaited == 4096 * 4 // SEGMENT


@pytest.mark.parametrize("algorithm", FAMILIES)
@pytest.mark.parametrize("size", [2, 5, 64])
def test_what_a_plan_needs_besides_the_arrays_is_little(algorithm, size):
    schedule = all_reduce(algorithm, size, 64 << 20)
    made = plan(schedule, 1, even(16 << 20, schedule.chunks), itemsize=4, segment=512 << 10)
    assert scratch_bytes(made, np.float32) <= SCRATCH_BYTES
    assert max(move.part.length for move in made.moves if isinstance(move, Give)) <= 128 << 10


def test_direct_sums_are_made_segment_by_segment():
    """All of one segment come before any of the next, so that a wide sum takes one segment."""
    x = np.zeros(96, np.float32)
    each = start(direct_all_reduce(3), 0, x, np.empty_like(x), wide=True)
    order = [move.peer for move in each if isinstance(move, Await)]
    assert order == [1, 2, 1, 2, 1, 2, 1, 2]


def test_what_is_listed_out_of_order_is_not_planned():
    def program(rank, number):
        others = [Receive(peer, 0, True, before, True) for peer, before in ((1, False), (2, True))]
        return Step(number, (Send(1, 0),), tuple(others))

    with pytest.raises(AssertionError, match="from left to right"):
        start(Schedule("odd", "all-reduce", 3, 1, 1, program), 0, np.zeros(5))


def test_nothing_is_read_or_written_before_it_is_asked_for():
    """What is broken off has written only what it has received, and its input never."""
    x, out = np.ones(64, np.float32), np.full(64, np.nan, np.float32)
    came, places = 0, deque()
    for instruction in start(ring_all_reduce(2), 0, x, out):
        if isinstance(instruction, Place):
            places.append(instruction.into)
        elif isinstance(instruction, Await):
            if came == 1:
                break
            came += 1
            places.popleft()[:] = np.full(16, 2.0, np.float32).tobytes()
    assert np.isnan(out[16:]).all()
    assert (out[:16] == 3.0).all()
    assert (x == 1.0).all()
