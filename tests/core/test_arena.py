"""The arena: its layout, its views, its buckets, and moving it to other memory."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import core, nn
from holdfast.core import Arena
from holdfast.core.backend import ALIGNMENT, aligned_zeros
from holdfast.errors import GradientError, UsageError


def parameters(*shapes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [core.Parameter(rng.normal(size=shape).astype(dtype)) for shape in shapes]


def model():
    core.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def loss_of(net):
    return net(core.tensor(np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5))).pow(2).mean()


def test_layout_is_reversed_aligned_and_padded_with_zeros():
    held = parameters((3, 5), (7,), (16,), ())
    values = [p.array.copy() for p in held]
    arena = Arena(held)
    assert [id(p) for p in arena.parameters] == [id(p) for p in reversed(held)]
    assert arena.slices == [slice(0, 1), slice(16, 32), slice(32, 39), slice(48, 63)]
    assert arena.weights.size == arena.gradients.size == 64
    assert arena.sums is arena.gradients
    assert arena.dtype == np.float32
    for flat in (arena.weights, arena.gradients):
        assert flat.ctypes.data % ALIGNMENT == 0
    covered = np.zeros(64, bool)
    for p, at, value in zip(held, arena.slices[::-1], values, strict=True):
        assert np.array_equal(p.array, value)
        assert np.shares_memory(p.array, arena.weights[at])
        assert arena.place(p) == at
        assert p.arena is arena
        covered[at] = True
    assert not arena.weights[~covered].any()


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 6), max_size=3), min_size=1, max_size=8),
    st.integers(1, 3000),
    st.sampled_from([np.float32, np.float64]),
)
def test_buckets_cover_the_arena_in_order(shapes, nbytes, dtype):
    arena = Arena(parameters(*map(tuple, shapes), dtype=dtype))
    buckets = arena.buckets(nbytes)
    assert buckets[0].slice.start == 0
    assert buckets[-1].slice.stop == arena.weights.size
    for one, two in itertools.pairwise(buckets):
        assert one.slice.stop == two.slice.start
    held = [p for bucket in buckets for p in bucket.parameters]
    assert [id(p) for p in held] == [id(p) for p in arena.parameters]
    for bucket in buckets:
        size = (bucket.slice.stop - bucket.slice.start) * arena.dtype.itemsize
        assert len(bucket.parameters) == 1 or size <= nbytes
        assert bucket.slice.start * arena.dtype.itemsize % ALIGNMENT == 0
        for p in bucket.parameters:
            at = arena.place(p)
            assert bucket.slice.start <= at.start
            assert at.stop <= bucket.slice.stop


def test_a_shared_parameter_lies_there_once_and_of_finds_the_arena():
    (one, two) = parameters((2,), (3,))
    arena = Arena.of([one, two, one])
    assert len(arena.parameters) == 2
    assert Arena.of([two]) is arena
    (three,) = parameters((1,))
    with pytest.raises(UsageError, match="different arenas"):
        Arena.of([one, three])
    with pytest.raises(UsageError, match="another arena already"):
        Arena([one])


def test_bad_arenas_are_refused():
    with pytest.raises(UsageError, match="at least one parameter"):
        Arena([])
    with pytest.raises(UsageError, match="one dtype; found float32, float64"):
        Arena([*parameters((2,)), *parameters((2,), dtype=np.float64)])
    (p,) = parameters((2,))
    arena = Arena([p])
    with pytest.raises(UsageError, match="gradients must be flat, 16 elements of float32"):
        arena.rehome(gradients=np.zeros(16))
    with pytest.raises(UsageError, match="sums must be flat"):
        arena.rehome(sums=np.zeros(15, np.float32))
    with pytest.raises(UsageError, match="at least 1 byte"):
        arena.buckets(0)
    assert p.to(np.float32) is p
    with pytest.raises(UsageError, match="before the optimizer is made"):
        p.adopt(p.array.astype(np.float64))


def test_the_first_contribution_writes_and_later_ones_add():
    net = model()
    loss_of(net).backward()
    expected = {name: p.grad.array.copy() for name, p in net.named_parameters()}
    net.zero_grad()
    arena = Arena.of(net.parameters())
    arena.gradients.fill(np.nan)  # whatever was there before
    loss_of(net).backward()
    for name, p in net.named_parameters():
        assert np.allclose(p.grad.array, expected[name], rtol=1e-5), name
        assert np.shares_memory(p.grad.array, arena.gradients[arena.place(p)])
    loss_of(net).backward()
    for name, p in net.named_parameters():
        assert np.allclose(p.grad.array, 2 * expected[name], rtol=1e-5), name
    before = arena.gradients.copy()
    arena.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    assert np.array_equal(arena.gradients, before, equal_nan=True)  # only marked
    loss_of(net).backward()
    for name, p in net.named_parameters():
        assert np.allclose(p.grad.array, expected[name], rtol=1e-5), name


def test_a_gradient_from_before_the_arena_is_kept():
    net = model()
    loss_of(net).backward()
    before = net[0].weight.grad.array.copy()
    Arena.of(net.parameters())
    assert np.array_equal(net[0].weight.grad.array, before)


def test_rehome_moves_gradients_and_sums():
    net = model()
    arena = Arena.of(net.parameters())
    loss_of(net).backward()
    before = net[0].weight.grad.array.copy()
    gradients = aligned_zeros(arena.weights.size, np.float32)
    gradients += 7
    arena.rehome(gradients=gradients)
    assert arena.gradients is arena.sums is gradients
    assert np.array_equal(net[0].weight.grad.array, before)
    sums = aligned_zeros(arena.weights.size, np.float32)
    arena.rehome(sums=sums)
    assert arena.sums is sums
    assert arena.gradients is gradients
    arena.zero_grad()
    loss_of(net).backward()
    assert np.shares_memory(net[0].weight.grad.array, gradients)
    padding = np.ones(gradients.size, bool)
    for at in arena.slices:
        padding[at] = False
    assert not gradients[padding].any()

    np.multiply(gradients, 2, out=sums)  # what the ranks' sum would do
    arena.publish()
    assert np.shares_memory(net[0].weight.grad.array, sums)
    assert np.array_equal(net[0].weight.grad.array, 2 * before)
    net[0].weight.grad = core.zeros(7, 5)  # as clipping does
    assert not sums[arena.place(net[0].weight)].any()
    arena.zero_grad()
    loss_of(net).backward()
    assert np.shares_memory(net[0].weight.grad.array, gradients)


def test_complete_zeroes_what_got_no_gradient():
    used, unused, other = parameters((3,), (4,), (5,))
    arena = Arena([used, unused, other])
    arena.gradients.fill(9)
    (used * used).sum().backward()
    assert [arena.place(p) for p in (used,)] == arena.ready()
    arena.complete(arena.place(unused))
    assert not arena.gradients[arena.place(unused)].any()
    assert arena.gradients[arena.place(other)].all()
    arena.complete()
    assert not arena.gradients[arena.place(other)].any()
    assert np.array_equal(used.grad.array, 2 * used.array)
    assert unused.grad is None
    arena.publish()
    assert unused.grad.tolist() == [0.0] * 4


def test_ready_merges_neighbours_and_leaves_out():
    one, two, three = parameters((3,), (20,), (5,))
    arena = Arena([one, two, three])
    assert arena.ready() == []
    (one.sum() + three.sum()).backward()
    assert arena.ready() == [arena.place(three), arena.place(one)]
    two.sum().backward()
    assert arena.ready() == [slice(0, arena.place(one).stop)]
    assert arena.ready(leave=[two]) == [arena.place(three), arena.place(one)]


def test_freezing_keeps_the_place():
    (p, q) = parameters((3,), (2,))
    arena = Arena([p, q])
    seen = []
    p.register_post_accumulate_grad_hook(seen.append)
    (p * 2).sum().backward()
    p.requires_grad = False
    assert p.grad is None
    assert not (p * 2).requires_grad
    arena.rehome(gradients=aligned_zeros(arena.weights.size, np.float32))
    p.requires_grad = True
    (p * 3).sum().backward()
    assert arena.gradients[arena.place(p)].tolist() == [3.0] * 3
    assert len(seen) == 2
    with pytest.raises(GradientError, match="no_grad"):
        p += 1


def test_loading_a_state_stays_in_the_arena():
    net = model()
    arena = Arena.of(net.parameters())
    net.load_state_dict({name: t.array * 0 + 1 for name, t in net.state_dict().items()})
    assert all(arena.weights[at].all() for at in arena.slices)
