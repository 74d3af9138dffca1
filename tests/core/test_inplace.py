"""What changes a tensor itself, and how backward notices."""

import contextlib
import operator

import numpy as np
import pytest

from holdfast import core, nn, optim
from holdfast.core.inplace import ELEMENTWISE
from holdfast.errors import GradientError, ShapeError, UsageError

METHODS = {
    "add_": (lambda x: x.add_(2.0, alpha=3), lambda x: x + 6),
    "sub_": (lambda x: x.sub_(2.0, alpha=3), lambda x: x - 6),
    "mul_": (lambda x: x.mul_(x), lambda x: x * x),
    "div_": (lambda x: x.div_(4.0), lambda x: x / 4),
    "pow_": (lambda x: x.pow_(2), lambda x: x**2),
    "neg_": (lambda x: x.neg_(), lambda x: -x),
    "abs_": (lambda x: x.abs_(), np.abs),
    "exp_": (lambda x: x.exp_(), np.exp),
    "tanh_": (lambda x: x.tanh_(), np.tanh),
    "relu_": (lambda x: x.relu_(), lambda x: np.maximum(x, 0)),
    "sigmoid_": (lambda x: x.sigmoid_(), lambda x: 1 / (1 + np.exp(-x))),
    "clamp_": (lambda x: x.clamp_(-0.5, 0.5), lambda x: np.clip(x, -0.5, 0.5)),
    "lerp_": (lambda x: x.lerp_(1.0, 0.25), lambda x: x + (1 - x) * 0.25),
    "addcmul_": (lambda x: x.addcmul_(x, 2.0, value=3), lambda x: x + x * 6),
    "masked_fill_": (lambda x: x.masked_fill_(x > 0, 9.0), lambda x: np.where(x > 0, 9, x)),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("graph", [False, True])
def test_the_tensor_itself_becomes_the_result(name, graph):
    change, expected = METHODS[name]
    start = np.array([-1.5, 0.25, 2.0], np.float32)
    w = core.tensor(start, requires_grad=graph)
    x = w * 1.0
    memory = x.array
    assert change(x) is x
    assert np.allclose(x.array, expected(start))
    assert (x.array is memory) is not graph
    assert x.requires_grad is graph
    if graph:
        x.sum().backward()
        step = 1e-3
        slope = (expected(start + step) - expected(start - step)).sum() / (2 * step)
        assert np.isclose(w.grad.array.sum(), slope, rtol=1e-3)


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("graph", [False, True])
def test_the_others_do_what_they_do_out_of_place(name, graph):
    others = {"hypot": (2.0,), "xlogy": (2.0,), "fmod": (0.3,), "remainder": (0.3,)}
    arguments = others.get(name, (0.4,) if name.startswith("clamp") else ())
    arguments = tuple(core.tensor(a) if name in ("hypot", "xlogy") else a for a in arguments)
    x = core.tensor([0.2, 0.5, 0.9], requires_grad=True)
    expected = getattr(x, name)(*arguments)
    y = x.clone() if graph else x.detach().clone()
    assert getattr(y, f"{name}_")(*arguments) is y
    assert np.array_equal(y.array, expected.array)
    assert y.requires_grad == (graph and expected.requires_grad)


def test_a_view_in_a_graph_is_refused_and_leaves_are():
    w = core.tensor([[1.0, 2.0]], requires_grad=True)
    with pytest.raises(GradientError, match="is a view, made by 'reshape'"):
        (w * 1.0).reshape(2).add_(1)
    with pytest.raises(GradientError, match="is a view"):
        core.zeros(2, 3)[0].copy_(core.ones(3, requires_grad=True) * 3)
    with pytest.raises(GradientError, match="leaf"):
        w.exp_()
    with pytest.raises(ShapeError, match="in-place"):
        (w * 1.0).add_(core.ones(3, 2))


def test_what_replaces_a_value_gets_the_gradient():
    w = core.tensor([1.0, 2.0], requires_grad=True)
    x = core.zeros(3, 2)
    x.copy_(w * 2)
    x.sum().backward()
    assert w.grad.tolist() == [6.0, 6.0]
    w.grad = None
    z = core.tensor(3.0, requires_grad=True)
    y = (w * 2).fill_(z)
    y.sum().backward()
    assert y.tolist() == [3.0, 3.0]
    assert (w.grad.tolist(), z.grad.item()) == ([0.0, 0.0], 2.0)
    for replace in (core.Tensor.zero_, core.Tensor.normal_, lambda x: x.copy_(core.ones(2))):
        w.grad = None
        y = replace(w * 2)
        (y * 5 + w).sum().backward()
        assert w.grad.tolist() == [1.0, 1.0]


def test_weights_are_copied_from_weights():
    """As for the target network of Q-learning: in whatever way, and in an arena too."""
    source = nn.Linear(3, 2)
    ways = {
        "no_grad": lambda to, p: to.copy_(p),
        "data": lambda to, p: to.data.copy_(p),
        "index": lambda to, p: to.data.__setitem__(slice(None), p),
        "soft": lambda to, p: to.data.mul_(0.0).add_(p * 1.0),
        "inplace operator": lambda to, p: operator.iadd(operator.imul(to.data, 0.0), p),
        "assigned": lambda to, p: setattr(to, "data", p),
    }
    for name, copy in ways.items():
        for arena in (False, True):
            target = nn.Linear(3, 2)
            if arena:
                optim.SGD(target.parameters(), lr=0.1)
            for to, p in zip(target.parameters(), source.parameters(), strict=True):
                with core.no_grad() if name == "no_grad" else contextlib.nullcontext():
                    copy(to, p)
                assert np.array_equal(to.array, p.array), name
                assert to.is_leaf
                assert to.requires_grad


def test_a_leaf_changed_after_its_use_is_noticed():
    w = core.tensor([1.0, 2.0], requires_grad=True)
    y = (w * w).sum()
    with core.no_grad():
        w.mul_(2)
    with pytest.raises(GradientError, match=r"an argument of 'mul', of shape \(2,\), was changed"):
        y.backward()
    assert w.grad is None
    (w * w).sum().backward()
    assert w.grad.tolist() == [4.0, 8.0]


def test_views_and_plain_inputs_changed_after_their_use_are_noticed():
    w = core.tensor([1.0, 2.0], requires_grad=True)
    x = core.tensor([3.0, 4.0])
    changes = [
        lambda: w.detach().mul_(10),
        lambda: w[:1].mul_(10),
        lambda: x.mul_(10),
        lambda: x.__setitem__(0, 7.0),
    ]
    for change in changes:
        y = (w * x).sum()
        with core.no_grad():
            change()
        with pytest.raises(GradientError, match="was changed in place after it had been used"):
            y.backward()
    y = (w * x[:1]).sum()
    with core.no_grad():
        x[1:].mul_(2)  # beside what was used
    y.backward()


def test_a_float_does_not_fit_an_integer():
    with pytest.raises(UsageError, match="float32, and cannot be kept in a tensor of int64"):
        core.tensor([1, 2]).mul_(1.5)


def test_what_reads_no_value_does_not_mind():
    w = core.tensor([1.0, 2.0], requires_grad=True)
    y = (w + 1).sum()
    with core.no_grad():
        w.mul_(2)
    y.backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_an_output_changed_after_its_use_is_noticed():
    w = core.tensor([1.0, 2.0], requires_grad=True)
    y = w.exp()
    z = y.sum()
    with core.no_grad():
        y.add_(1)
    with pytest.raises(GradientError, match=r"output of .exp., of shape .*was changed in place"):
        z.backward()


def test_a_step_between_forward_and_backward_is_noticed():
    w = core.Parameter(np.ones(3, np.float32))
    optimizer = optim.SGD([w], lr=0.1)
    first, second = (w * w).sum(), (w * w).sum()
    first.backward()
    optimizer.step()
    with pytest.raises(GradientError, match="was changed in place"):
        second.backward()


def test_hooks_see_and_replace_gradients():
    w = core.tensor([1.0, 2.0], requires_grad=True)
    seen = []
    y = w * 3
    y.register_hook(lambda g: seen.append(g.tolist()))
    handle = w.register_hook(lambda g: g * 10)
    y.retain_grad()
    (y * 2 + w).sum().backward(retain_graph=True)
    assert seen == [[2.0, 2.0]]
    assert y.grad.tolist() == [2.0, 2.0]
    assert w.grad.tolist() == [70.0, 70.0]
    handle.remove()
    w.grad = None
    (y * 2).sum().backward()
    assert w.grad.tolist() == [6.0, 6.0]
    (g,) = core.grad((w * 2).sum(), w)
    assert g.tolist() == [2.0, 2.0]
    with pytest.raises(GradientError, match="requires a gradient"):
        core.ones(2).register_hook(print)
