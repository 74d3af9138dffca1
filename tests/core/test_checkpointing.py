"""Activation checkpointing: the same gradients, and less kept in between."""

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.checkpointing import checkpoint
from holdfast.errors import GradientError, UsageError


def block():
    core.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 4))


def gradients(model, x, run):
    core.manual_seed(7)
    x = core.tensor(x, requires_grad=True)
    (run(model, x * 1.0) ** 2).sum().backward()
    found = [p.grad.numpy().copy() for p in model.parameters()]
    model.zero_grad()
    return [x.grad.numpy(), *found]


def test_gradients_are_the_same_dropout_included():
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    model = block()
    plain = gradients(model, x, lambda m, x: m(m(x)))
    again = gradients(model, x, lambda m, x: checkpoint(m, checkpoint(m, x)))
    for a, b in zip(plain, again, strict=True):
        assert np.allclose(a, b, rtol=1e-6)


def test_nothing_in_between_is_kept():
    calls = []

    def part(x):
        calls.append(x)
        return x.exp().tanh()

    x = core.tensor([1.0, 2.0], requires_grad=True)
    out = checkpoint(part, x)
    assert out.node.name == "checkpoint"
    assert out.node.parents == (x.node,)
    assert len(calls) == 1
    out.sum().backward()
    assert len(calls) == 2
    expected = core.tensor([1.0, 2.0], requires_grad=True)
    part(expected).sum().backward()
    assert np.allclose(x.grad.array, expected.grad.array)


def test_several_outputs_and_what_is_closed_over():
    w = core.tensor([3.0], requires_grad=True)
    outer = w * 2

    def part(x, scale=1.0):
        return x * outer * scale, x.exp()

    x = core.tensor([0.5], requires_grad=True)
    a, b = checkpoint(part, x, scale=4.0)
    (a * b).sum().backward()
    e = np.exp(0.5)
    assert np.allclose(x.grad.array, 24 * e + 12 * e)
    assert np.allclose(w.grad.array, 0.5 * 8 * e)


def test_other_results_are_refused():
    with pytest.raises(UsageError, match="found NoneType, Tensor"):
        checkpoint(lambda x: (x, None), core.ones(2, requires_grad=True))


def test_hooks_run_once_when_all_has_come():
    model = block()
    finished = []
    for i, p in enumerate(model.parameters()):
        p.register_post_accumulate_grad_hook(lambda _, i=i: finished.append(i))
    x = core.tensor(np.ones((2, 4), np.float32))
    out = checkpoint(model, x)
    F.mse_loss(model(out), x).backward()  # the weights are used outside as well
    assert sorted(finished) == [0, 1, 2, 3]


def test_without_a_graph_it_is_a_call_and_twice_is_refused():
    with core.no_grad():
        assert not checkpoint(lambda x: x * 2, core.ones(2, requires_grad=True)).requires_grad
    x = core.ones(2, requires_grad=True)
    with pytest.raises(GradientError, match="'checkpoint' cannot be differentiated again"):
        core.grad(checkpoint(lambda x: x.exp(), x).sum(), x, create_graph=True)
