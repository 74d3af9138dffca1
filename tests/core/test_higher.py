"""Gradients as results: second derivatives, Hessian-vector products, gradient penalties."""

import numpy as np
import pytest

from holdfast import core
from holdfast.core import detect_anomaly, grad
from holdfast.core.gradcheck import check_gradients, check_second_gradients
from holdfast.core.primitive import primitive, registry
from holdfast.errors import AnomalyError, GradientError, ShapeError, UsageError


@pytest.mark.parametrize("name", sorted(n for n, e in registry().items() if e.second is not None))
def test_second_gradient_of_every_primitive_that_has_one(name):
    entry = registry()[name]
    arguments, options = entry.example(0)
    check_second_gradients(entry.operation, arguments, options)


def test_what_has_no_second_gradient_says_so():
    entry = primitive(sample=lambda rng: (rng.normal(size=2),), name="once")(
        lambda x: (x * x, lambda g: (2 * g * x,))
    )
    x = core.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GradientError, match="'once' cannot be differentiated again"):
        grad(entry(x).sum(), x, create_graph=True)
    (g,) = grad(entry(x).sum(), x)
    assert g.tolist() == [2.0, 4.0]
    assert not g.requires_grad


def test_a_hessian_by_a_vector():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 4))
    x = core.tensor(rng.normal(size=4), requires_grad=True)
    (g,) = grad((x @ core.tensor(a) @ x) ** 2, x, create_graph=True)
    v = rng.normal(size=4)
    (hv,) = grad((g * core.tensor(v)).sum(), x)
    s, b = a + a.T, x.array
    quadratic = b @ a @ b
    hessian = 2 * quadratic * s + 2 * np.outer(s @ b, s @ b)
    assert np.allclose(hv.array, hessian @ v)


def test_a_gradient_penalty_reaches_the_weights():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 5))

    def penalty(w):
        x = core.tensor(np.ones((2, 5)), requires_grad=True)
        score = (x @ w.transpose(0, 1)).tanh().sum()
        (g,) = grad(score, x, create_graph=True)
        return ((g * g).sum(1).sqrt() - 1).pow(2).mean()

    check_gradients(penalty, (weight,))


def test_of_several_outputs_by_several_inputs_and_inside_the_graph():
    x = core.tensor([1.0, 2.0], requires_grad=True)
    y = core.tensor([3.0, 4.0], requires_grad=True)
    inner = x * y
    by_x, by_inner = grad([inner.sum(), (inner * inner).sum()], [x, inner], retain_graph=True)
    assert by_inner.tolist() == [7.0, 17.0]
    assert by_x.tolist() == [21.0, 68.0]
    assert x.grad is None
    (by_y,) = grad(inner, y, core.tensor([1.0, 10.0]))
    assert by_y.tolist() == [1.0, 20.0]
    with pytest.raises(GradientError, match="freed"):
        grad(inner, y, core.tensor([1.0, 10.0]))


def test_what_has_no_part_is_told_or_none():
    x = core.tensor([1.0], requires_grad=True)
    y = core.tensor([1.0], requires_grad=True)
    with pytest.raises(GradientError, match="input 1, of shape"):
        grad(x * 2, [x, y])
    assert grad(x * 2, [x, y], allow_unused=True)[1] is None
    with pytest.raises(GradientError, match="does not require"):
        grad(x * 2, core.tensor([1.0]))
    with pytest.raises(UsageError, match="as many grad_outputs"):
        grad([x * 2, x * 3], x, core.tensor([1.0]))
    with pytest.raises(GradientError, match="needs its grad_outputs"):
        grad(x.expand(3), x)


def test_backward_with_a_graph_leaves_gradients_that_have_one():
    x = core.tensor([2.0, 3.0], requires_grad=True)
    (x**3).sum().backward(create_graph=True)
    g = x.grad
    assert g.tolist() == [12.0, 27.0]
    (second,) = grad(g.sum(), x)
    assert second.tolist() == [12.0, 18.0]


def test_gradients_with_a_graph_add_up_with_others():
    x = core.tensor([3.0], requires_grad=True)
    (x * 2).sum().backward()
    (x**3).sum().backward(create_graph=True)
    assert x.grad.tolist() == [29.0]
    (x.grad**2).sum().backward()
    assert x.grad.tolist() == [29.0 + 2 * 29 * 18]


def test_hooks_of_what_is_asked_for():
    x = core.tensor([2.0], requires_grad=True)
    h = x * 2
    h.register_hook(lambda g: g * 3)
    assert grad((h * h).sum(), h, retain_graph=True)[0].tolist() == [24.0]
    by_x, by_h = grad((h * h).sum(), [x, h], retain_graph=True)
    assert (by_x.tolist(), by_h.tolist()) == ([48.0], [24.0])
    h.register_hook(lambda g: core.ones(5))
    with pytest.raises(ShapeError, match="hook: expected a gradient of the same shape"):
        (h * h).sum().backward()


def test_a_nan_is_found_on_this_way_too():
    w = core.tensor([0.0, 1.0], requires_grad=True)
    with detect_anomaly(), pytest.raises(AnomalyError, match="gradient of 'sqrt'"):
        grad((w.sqrt() * 0).sum(), [w])


def test_a_graph_that_branches_and_joins_is_summed_in_the_second_derivative_too():
    check_second_gradients(lambda x: (x * x + x.exp() * x) * x, (np.array([0.3, -0.7]),))


def test_numpys_functions_take_tensors():
    x = core.tensor([0.5, 1.5], requires_grad=True)
    np.exp(x).sum().backward()
    assert np.allclose(x.grad.array, np.exp(x.array))
    assert isinstance(np.arange(2.0) * x, core.Tensor)
    assert np.greater(x, 1).tolist() == [False, True]
    assert np.array_equal(np.sort(x.detach()), [0.5, 1.5])
    with pytest.raises(GradientError, match=r"np\.sort has no gradient"):
        np.sort(x)
    with pytest.raises(GradientError, match="out="):
        np.add(x, 1, out=np.zeros(2))
