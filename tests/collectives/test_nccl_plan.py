"""Which calls make up a collective: as lists, and carried out on arrays for any sizes."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collectives.nccl import plan as plans
from holdfast.collectives.nccl.plan import Abilities, Call, ElementType
from holdfast.collectives.schedule import chunk_bounds
from holdfast.errors import UsageError

ABLE = Abilities((2, 28, 3), 2**63 - 1, False, mean=True, bfloat16=True, shrink=True)
OLD = Abilities((2, 7, 8), 2**31 - 1, True, mean=False, bfloat16=False, shrink=False)
ALL = 2**63 - 1

worlds = st.integers(1, 7)
counts = st.integers(0, 130)
limits = st.sampled_from([1, 3, 16, 50, ALL])


def test_one_call_where_nccl_does_the_same():
    assert plans.all_reduce(10, ALL) == [Call("all_reduce", 0, 0, 10)]
    assert plans.reduce_scatter([0, 16, 32], 1, ALL) == [Call("reduce_scatter", 0, 0, 16)]
    assert plans.all_gather(5, 3, 1, ALL) == [Call("all_gather", 0, 0, 5)]
    assert plans.broadcast(5, 2, ALL) == [Call("broadcast", 0, 0, 5, 2)]
    assert plans.reduce(5, 1, 1, ALL) == [Call("reduce", 0, 0, 5, 1)]
    assert plans.reduce(5, 1, 0, ALL) == [Call("reduce", 0, None, 5, 1)]


def test_uneven_chunks_are_a_reduce_each():
    assert plans.reduce_scatter([0, 16, 16, 20], 2, ALL) == [
        Call("reduce", 0, None, 16, 0),
        Call("reduce", 16, 0, 4, 2),
    ]


def test_nothing_takes_no_call():
    assert plans.all_reduce(0, ALL) == []
    assert plans.reduce_scatter([0, 0, 0], 0, ALL) == []
    assert plans.all_gather(0, 2, 0, ALL) == []
    assert plans.all_to_all(0, 2, ALL) == []


def test_counts_beyond_32_bits_are_cut_for_a_binding_that_cannot_say_them():
    most, count = OLD.most_elements, 2**32
    assert plans.all_reduce(count, most) == [
        Call("all_reduce", 0, 0, most),
        Call("all_reduce", most, most, most),
        Call("all_reduce", 2 * most, 2 * most, 2),
    ]
    assert plans.all_reduce(2**31, 2**63) == [Call("all_reduce", 0, 0, 2**31)]
    assert [call.verb for call in plans.all_gather(2**31, 2, 0, most)] == ["broadcast"] * 4


def carried_out(plan_of, sources, sizes):
    """Return the targets of all ranks after their plans, made as NCCL makes one group."""
    world = len(sources)
    targets = [np.full(size, -1) for size in sizes]
    plan = [plan_of(rank) for rank in range(world)]
    mail = {}
    for rank in range(world):
        for call in plan[rank]:
            assert call.length > 0
            if call.verb == "send":
                data = sources[rank][call.source : call.source + call.length]
                mail.setdefault((rank, call.peer), []).append(data.copy())
    collective = [[c for c in part if c.verb not in ("send", "recv")] for part in plan]
    assert len({tuple((c.verb, c.length, c.peer) for c in part) for part in collective}) == 1
    for calls in zip(*collective, strict=True):
        verb, length, root = calls[0].verb, calls[0].length, calls[0].peer
        taken = [
            None if c.source is None else sources[rank][c.source :] for rank, c in enumerate(calls)
        ]
        for rank, call in enumerate(calls):
            if verb == "all_gather":
                value = np.concatenate([part[:length] for part in taken])
            elif verb == "broadcast":
                value = taken[root][:length]
            elif verb == "reduce_scatter":
                value = sum(part[rank * length : (rank + 1) * length] for part in taken)
            else:
                value = sum(part[:length] for part in taken)
            if verb != "reduce" or rank == root:
                targets[rank][call.target : call.target + value.size] = value
    for rank in range(world):
        for call in plan[rank]:
            if call.verb == "recv":
                data = mail[call.peer, rank].pop(0)
                assert data.size == call.length
                targets[rank][call.target : call.target + call.length] = data
    assert not any(mail.values())
    return targets


def numbers(world, count):
    return [np.arange(count) + 1000 * rank for rank in range(world)]


@given(worlds, counts, limits)
def test_sums(world, count, most):
    sources = numbers(world, count)
    total = sum(sources)
    for target in carried_out(lambda _: plans.all_reduce(count, most), sources, [count] * world):
        assert np.array_equal(target, total)
    bounds = chunk_bounds(count, world)
    sizes = [bounds[r + 1] - bounds[r] for r in range(world)]
    parts = carried_out(lambda rank: plans.reduce_scatter(bounds, rank, most), sources, sizes)
    assert np.array_equal(np.concatenate(parts), total)


@given(worlds, counts, limits, st.data())
def test_moves(world, count, most, data):
    root = data.draw(st.integers(0, world - 1))
    sources, wide = numbers(world, count), numbers(world, world * count)
    rows = [x.reshape(world, -1) for x in wide]
    for target in carried_out(
        lambda rank: plans.all_gather(count, world, rank, most), sources, [world * count] * world
    ):
        assert np.array_equal(target, np.concatenate(sources))
    for target in carried_out(
        lambda rank: plans.broadcast(count, root, most), sources, [count] * world
    ):
        assert np.array_equal(target, sources[root])
    targets = carried_out(
        lambda rank: plans.all_to_all(count, world, most), wide, [world * count] * world
    )
    for rank, target in enumerate(targets):
        assert np.array_equal(target.reshape(world, -1), [row[rank] for row in rows])
    sizes = [world * count if rank == root else 0 for rank in range(world)]
    targets = carried_out(lambda rank: plans.gather(count, world, root, rank, most), sources, sizes)
    assert np.array_equal(targets[root], np.concatenate(sources))
    targets = carried_out(
        lambda rank: plans.scatter(count, world, root, rank, most), wide, [count] * world
    )
    for rank, target in enumerate(targets):
        assert np.array_equal(target, rows[root][rank])
    sizes = [count if rank == root else 0 for rank in range(world)]
    targets = carried_out(lambda rank: plans.reduce(count, root, rank, most), sources, sizes)
    assert np.array_equal(targets[root], sum(sources))


def test_what_nccl_is_told_of_the_elements():
    assert plans.summed(np.dtype("float32"), "mean", ABLE) == ElementType(7, 4, 1)
    assert plans.summed(np.dtype(ml_dtypes.bfloat16), "max", ABLE) == ElementType(9, 2, 1)
    assert plans.summed(np.dtype("complex128"), "sum", ABLE) == ElementType(8, 8, 2)
    assert plans.moved(np.dtype("int16")) == ElementType(1, 1, 2)


@pytest.mark.parametrize(
    ("dtype", "op", "abilities", "words"),
    [
        ("float32", "xor", ABLE, "sum, mean"),
        ("int32", "mean", ABLE, "convert the array to float"),
        ("int16", "sum", ABLE, "no sum of int16"),
        ("bool", "max", ABLE, "no max of bool"),
        ("complex64", "prod", ABLE, "no prod of complex64"),
        ("float32", "mean", OLD, "no mean"),
        (ml_dtypes.bfloat16, "sum", OLD, "no bfloat16"),
    ],
)
def test_what_nccl_cannot_add_is_refused(dtype, op, abilities, words):
    with pytest.raises(UsageError, match=words):
        plans.summed(np.dtype(dtype), op, abilities)
