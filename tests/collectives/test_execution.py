"""A schedule's instructions: every rank's iterator is driven by hand, with queues for wires."""

from collections import defaultdict, deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.execution import Incoming, Outgoing, Phase, execute
from holdfast.collectives.schedule import (
    binomial_broadcast,
    chunk_bounds,
    ring_all_gather,
    ring_all_reduce,
    ring_reduce_scatter,
    ring_reduction_order,
)

SEGMENT = 64


def start(plan, rank, x, out=None, bounds=None, op="sum", segment=SEGMENT):
    """Return one rank's instructions; `out` is `x` if None."""
    return execute(
        plan,
        rank,
        x,
        x if out is None else out,
        chunk_bounds(x.size, plan.chunks) if bounds is None else bounds,
        op=op,
        segment=segment,
        scratch=np.empty(segment, np.uint8),
    )


def drive(ranks):
    """Run all ranks to their ends; return what each did, as text."""
    wires = defaultdict(deque)
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
                        wires[rank, peer].append(bytes(data))
                        done[rank].append(f"to {peer}: {len(data)}")
                    case Phase(name):
                        done[rank].append(name)
                    case Incoming(peer, into):
                        if not wires[peer, rank]:
                            waiting[rank] = now
                            break
                        into[:] = wires[peer, rank].popleft()
                        done[rank].append(f"from {peer}: {len(into)}")
                stuck = False
        assert not stuck, f"ranks {list(waiting)} wait for each other"
    assert not any(wires.values()), "something was sent that nobody received"
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
        out[part] = total * out.dtype.type(1 / size) if op == "mean" else total
    return out


@given(
    size=st.integers(1, 6),
    count=st.integers(0, 300),
    segment=st.integers(64, 700),
    op=st.sampled_from(list(COMBINE)),
    dtype=st.sampled_from([np.float32, np.float64, np.float16]),
    apart=st.booleans(),
)
def test_all_reduce_gives_the_bits_of_the_naive_one(size, count, segment, op, dtype, apart):
    arrays = inputs(size, count, dtype)
    xs = [array.copy() for array in arrays]
    outs = [np.full_like(x, np.nan) if apart else x for x in xs]
    plan = ring_all_reduce(size)
    if size > 1:
        drive([start(plan, r, xs[r], outs[r], op=op, segment=segment) for r in range(size)])
        for out in outs:
            assert out.tobytes() == reference(arrays, op).tobytes()
    if apart:
        assert [x.tobytes() for x in xs] == [array.tobytes() for array in arrays]


@given(size=st.integers(2, 6), count=st.integers(0, 300))
def test_the_other_collectives(size, count):
    arrays = inputs(size, count)
    bounds = chunk_bounds(count, size)
    totals = [np.empty_like(array) for array in arrays]
    plan = ring_reduce_scatter(size)
    done = drive([start(plan, r, arrays[r], totals[r]) for r in range(size)])
    expected = reference(arrays, "sum")
    for rank, total in enumerate(totals):
        part = slice(bounds[rank], bounds[rank + 1])
        assert total[part].tobytes() == expected[part].tobytes()
    assert {each[0] for each in done} == {"reduce-scatter"}

    stacks = [np.where(np.arange(size)[:, None] == r, arrays[r], 0) for r in range(size)]
    even = [count * r for r in range(size + 1)]
    plan = ring_all_gather(size)
    done = drive([start(plan, r, stacks[r].reshape(-1), bounds=even) for r in range(size)])
    for stack in stacks:
        np.testing.assert_array_equal(stack, np.stack(arrays))
    assert {each[0] for each in done} == {"all-gather"}

    copies = [array.copy() for array in arrays]
    plan = binomial_broadcast(size, root=size - 1)
    done = drive([start(plan, r, copies[r]) for r in range(size)])
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


def test_nothing_is_read_or_written_before_it_is_asked_for():
    """What is broken off has written only what it has received, and its input never."""
    x, out = np.ones(64, np.float32), np.full(64, np.nan, np.float32)
    instructions = start(ring_all_reduce(2), 0, x, out)
    came = 0
    for instruction in instructions:
        if isinstance(instruction, Incoming):
            if came == 1:
                break
            came += 1
            instruction.into[:] = np.full(16, 2.0, np.float32).tobytes()
    assert np.isnan(out[16:]).all()
    assert (out[:16] == 3.0).all()
    assert (x == 1.0).all()
