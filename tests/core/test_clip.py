"""Clipping: of gradients in an arena, by themselves, and of sums that others read too."""

import math

import numpy as np
import pytest

from holdfast import core, optim
from holdfast.core import norms
from holdfast.core.nn.clip import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from holdfast.errors import GradientError, UsageError


def parameters(*shapes, arena=True, dtype=np.float32):
    rng = np.random.default_rng(0)
    held = [core.Parameter(rng.normal(size=shape).astype(dtype)) for shape in shapes]
    if arena:
        core.Arena(held)
    for p in held:
        p.grad = core.tensor(rng.normal(size=p.shape).astype(dtype))
    return held


def together(held):
    return np.concatenate([p.grad.array.ravel() for p in held])


@pytest.mark.parametrize("arena", [True, False])
@pytest.mark.parametrize("block", [64, norms.BLOCK_BYTES])
def test_by_norm(arena, block, monkeypatch):
    monkeypatch.setattr(norms, "BLOCK_BYTES", block)
    held = parameters((5, 7), (40,), (), arena=arena)
    before = together(held)
    norm = np.linalg.norm(before)
    assert np.isclose(clip_grad_norm_(held, 2 * norm).item(), norm)
    assert np.array_equal(together(held), before)
    found = clip_grad_norm_(iter(held), 0.5)
    assert found.shape == ()
    assert found.dtype == np.float32
    assert np.isclose(found.item(), norm)
    assert np.allclose(together(held), before * 0.5 / norm, rtol=1e-5)
    largest = np.abs(held[0].grad.array).max()
    assert np.isclose(clip_grad_norm_(held[0], 0.1, math.inf).item(), largest)
    assert np.isclose(np.abs(held[0].grad.array).max(), 0.1)


def test_some_parameters_of_an_arena_and_others():
    inside, outside = parameters((3,), (20,), (4,)), parameters((6,), arena=False)
    chosen, left = [*inside[1:], *outside], inside[0].grad.array.copy()
    inside[2].grad = None
    before = np.concatenate([inside[1].grad.array, outside[0].grad.array])
    norm = clip_grad_norm_([*chosen, chosen[0]], 0.1)
    assert np.isclose(norm.item(), np.linalg.norm(before))
    assert np.allclose(inside[1].grad.array, before[:20] * 0.1 / norm.item(), rtol=1e-4)
    assert np.array_equal(inside[0].grad.array, left)
    assert inside[2].grad is None
    nothing = core.Parameter(np.ones(3))
    assert clip_grad_norm_([nothing], 1.0).item() == 0


def test_by_value():
    held = parameters((5, 7), (40,))
    before = together(held)
    clip_grad_value_(held[0], 0.2)
    assert np.array_equal(held[1].grad.array, before[35:])
    clip_grad_value_(held, 0.3)
    expected = np.concatenate([before[:35].clip(-0.2, 0.2), before[35:].clip(-0.3, 0.3)])
    assert np.array_equal(together(held), expected.astype(np.float32))


def test_what_is_not_finite():
    held = parameters((5,), (4,))
    held[0].grad.array[2] = np.inf
    before = together(held)
    with pytest.raises(GradientError, match=r"norm of order 2\.0 is inf"):
        clip_grad_norm_(held, 1.0, error_if_nonfinite=True)
    assert np.array_equal(together(held), before)
    assert clip_grad_norm_(held, 1.0).item() == math.inf
    assert np.isnan(together(held)[2])
    assert math.isnan(clip_grad_norm_(held, 1.0).item())
    assert np.isnan(together(held)).all()
    assert math.isnan(get_total_norm(held[0].grad, math.inf).item())


def test_norms_of_tensors():
    a, b = core.tensor([[3.0, 0.0]]), core.tensor([-4.0])
    assert get_total_norm([a, b]).item() == 5
    assert get_total_norm([a, b], 1).item() == 7
    assert get_total_norm([a, b], math.inf).item() == 4
    assert np.isclose(get_total_norm(iter([a, b]), 3).item(), 91 ** (1 / 3))
    assert get_total_norm([]).item() == 0
    with pytest.raises(UsageError, match="order of a norm is above 0; found 0"):
        get_total_norm([a], 0)
    big = core.tensor(np.full(100_000, 0.1, np.float16))
    assert np.isclose(get_total_norm(big).item(), 31.6, rtol=1e-3)


def test_by_a_norm_that_is_known():
    held = parameters((3,))
    before = together(held)
    clip_grads_with_norm_(held, 1.0, core.tensor(4.0))
    assert np.allclose(together(held), before / 4, rtol=1e-5)


def shared_sums(held, opt):
    """Let the sums be memory that every rank reads, as in a job of several ranks."""
    sums = opt.arena.gradients * 3
    sums.flags.writeable = False
    opt.arena.rehome(sums=sums)
    opt.arena.publish()
    return sums


def test_sums_of_all_ranks_are_clipped_in_a_copy():
    held = parameters((3,), (20,), (4,))
    opt = optim.SGD(held, lr=1.0)
    sums = shared_sums(held, opt)
    before, weights = sums.copy(), [p.array.copy() for p in held]
    norm = clip_grad_norm_(held[:2], 0.5)
    two = np.concatenate([before[opt.arena.place(p)] for p in held[:2]])
    assert np.isclose(norm.item(), np.linalg.norm(two))
    assert np.array_equal(sums, before)
    for p in held:
        assert np.shares_memory(p.grad.array, opt.arena.sums)
    assert np.allclose(together(held[:2]), two * 0.5 / norm.item(), rtol=1e-5)
    assert np.array_equal(held[2].grad.array, before[opt.arena.place(held[2])])
    clip_grad_value_(held, 0.01)  # what was clipped already, once more
    opt.step()
    for p, w in zip(held, weights, strict=True):
        assert np.allclose(w - p.array, p.grad.array, atol=1e-7)
        assert np.abs(p.grad.array).max() <= np.float32(0.01)
    assert np.array_equal(sums, before)

    opt.zero_grad()
    opt.arena.publish()  # the next step's sums
    assert opt.arena.sums is sums
    assert np.array_equal(
        together(held), np.concatenate([before[opt.arena.place(p)] for p in held])
    )


def test_gradients_that_are_not_summed_yet_stay_apart_from_the_sums():
    held = parameters((3,))
    opt = optim.SGD(held, lr=1.0)
    sums = np.ones(16, np.float32)
    opt.arena.rehome(sums=sums)
    before = together(held)
    clip_grad_value_(held, 0.1)
    assert np.array_equal(together(held), before.clip(-0.1, 0.1).astype(np.float32))
    assert sums.all()
