"""Operations of a user's own, and derivatives of functions: Jacobians, Hessians, checks."""

import gc
import weakref

import numpy as np
import pytest

import holdfast as hf
from holdfast import autograd, nn
from holdfast.autograd import Function, functional, gradcheck, gradgradcheck
from holdfast.autograd.function import once_differentiable
from holdfast.core.graph import topological_order
from holdfast.errors import GradientError, ShapeError, UsageError
from holdfast.func import functional_call


class Exp(Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return g * y


class Scaled(Function):
    """With a number beside the tensors, and attributes."""

    @staticmethod
    def forward(ctx, x, w, factor):
        ctx.factor = factor
        ctx.save_for_backward(x, w)
        return x * w * factor

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        by_x = g * w * ctx.factor if ctx.needs_input_grad[0] else None
        by_w = g * x * ctx.factor if ctx.needs_input_grad[1] else None
        return by_x, by_w, None


class SquareAndCube(Function):
    @staticmethod
    def forward(x):
        return x**2, x**3, (x > 0)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, by_square, by_cube, by_sign):
        assert by_sign.shape == by_square.shape
        (x,) = ctx.saved_tensors
        return 2 * x * by_square + 3 * x**2 * by_cube


def leaf(*values, dtype=np.float64):
    return hf.tensor(np.array(values, dtype), requires_grad=True)


def make(forward, backward):
    kind = type("Made", (Function,), {"forward": staticmethod(forward)})
    kind.backward = staticmethod(backward)
    return kind


# -- Function -------------------------------------------------------------------------------------


def test_it_is_one_operation_with_the_backward_that_was_given():
    x = leaf(0.0, 1.0)
    y = Exp.apply(x)
    assert [step.name for step in topological_order(y)] == ["leaf_1", "Exp_1"]
    y.sum().backward()
    assert np.allclose(x.grad.array, np.exp(x.array))
    with pytest.raises(GradientError, match="freed"):
        y.sum().backward()


def test_forward_runs_without_a_graph_on_the_tensors_themselves():
    seen = []

    def forward(ctx, x):
        seen.append((x, hf.is_grad_enabled(), ctx.needs_input_grad, (x * 2).requires_grad))
        return x * 2

    made = make(forward, lambda ctx, g: g * 2)
    x = leaf(1.0)
    assert made.apply(x).requires_grad
    assert seen == [(x, False, (True,), False)]
    with hf.no_grad():
        assert not made.apply(x).requires_grad
    assert not made.apply(x.detach()).requires_grad


@pytest.mark.parametrize("function", [Exp.apply, lambda x: sum(SquareAndCube.apply(x)[:2])])
def test_second_and_third_derivatives_where_backward_is_made_of_primitives(function):
    x = leaf(0.3, -1.2)
    assert gradcheck(function, x)
    assert gradgradcheck(function, x)
    assert gradgradcheck(lambda x: autograd.grad(function(x).sum(), x, create_graph=True)[0], x)


def test_arguments_that_are_no_tensors_or_need_no_gradient():
    x, w = leaf(1.0, 2.0), hf.tensor([3.0, 4.0], dtype=hf.float64)
    Scaled.apply(x, w, 2).sum().backward()
    assert x.grad.tolist() == [6.0, 8.0]
    assert w.grad is None
    assert gradgradcheck(lambda x, w: Scaled.apply(x, w, 0.5), (x, leaf(3.0, 4.0)))


def test_several_outputs_of_which_only_some_are_used():
    x = leaf(1.0, -2.0)
    square, cube, positive = SquareAndCube.apply(x)
    assert positive.tolist() == [True, False]
    assert not positive.requires_grad
    (square.sum() + 2 * cube.sum()).backward()
    assert x.grad.tolist() == [8.0, 20.0]
    x.grad = None
    SquareAndCube.apply(x)[1].sum().backward()
    assert x.grad.tolist() == [3.0, 12.0]


def test_the_newer_form_takes_keywords_and_defaults():
    class Power(Function):
        @staticmethod
        def forward(x, exponent=2):
            return x**exponent

        @staticmethod
        def setup_context(ctx, inputs, output):
            x, ctx.exponent = inputs
            ctx.save_for_backward(x)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * ctx.exponent * x ** (ctx.exponent - 1), None

    x = leaf(3.0)
    Power.apply(x).backward()
    Power.apply(x, exponent=3).backward()
    assert x.grad.tolist() == [6.0 + 27.0]
    with pytest.raises(TypeError, match="has a setup_context"):
        Exp.apply(x=x)


def test_outputs_marked_as_constant_and_gradients_that_did_not_come():
    came = []

    class Parts(Function):
        @staticmethod
        def forward(ctx, x, materialize):
            first, second, third = x * 1, x * 2, x * 3
            ctx.mark_non_differentiable(second)
            ctx.set_materialize_grads(materialize)
            return first, second, "no tensor", third

        @staticmethod
        def backward(ctx, *grads):
            came.append(grads)
            return grads[0], None

    x = leaf(1.0, 2.0)
    first, second, text, third = Parts.apply(x, False)
    assert (first.requires_grad, second.requires_grad, third.requires_grad) == (True, False, True)
    assert text == "no tensor"
    first.sum().backward()
    Parts.apply(x, True)[0].sum().backward()
    assert came[0][1:] == (None, None, None)
    assert [None if g is None else g.tolist() for g in came[1]] == [
        [1.0, 1.0], [0.0, 0.0], None, [0.0, 0.0],
    ]  # fmt: skip
    assert x.grad.tolist() == [2.0, 2.0]


def test_a_result_that_is_an_argument():
    straight = make(lambda ctx, x, y: x, lambda ctx, g: (g * 5, g * 7))
    x, y = leaf(1.0), leaf(2.0)
    for first, second in ((x, y), (x.detach(), y)):
        out = straight.apply(first, second)
        assert out is not first
        out.backward()
    assert (x.grad.tolist(), y.grad.tolist()) == ([5.0], [14.0])
    twice = make(lambda ctx, x: (x, x), lambda ctx, g, h: g + 10 * h)
    first, second = twice.apply(y)
    y.grad = None
    (first * 2 + second * 3).backward()
    assert y.grad.tolist() == [32.0]
    doubled = make(lambda ctx, x: (x * 1,) * 2, lambda ctx, g, h: g + 10 * h)
    first, second = doubled.apply(y)
    y.grad = None
    (first * 2 + second * 3).backward()
    assert y.grad.tolist() == [32.0]
    weight = nn.Parameter(np.ones(1))
    out = make(lambda ctx, x: weight, lambda ctx, g: g).apply(x)
    assert weight.is_leaf
    out.backward()
    assert weight.grad is None


def test_backward_may_write_to_its_own_tensors_with_and_without_a_graph():
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        mine = g.clone()
        mine[x < 0] = 0
        return mine

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    relu = make(forward, backward)
    x = leaf(1.0, -1.0, 2.0)
    (g,) = autograd.grad(relu.apply(x).sum(), x, create_graph=True)
    assert g.tolist() == [1.0, 0.0, 1.0]
    assert gradcheck(relu.apply, x)
    assert gradgradcheck(relu.apply, x)


def test_broadcast_gradients_are_summed_and_their_dtype_follows_the_argument():
    bias = leaf(1.0, 2.0, dtype=np.float32)
    added = make(lambda ctx, x, b: x + b, lambda ctx, g: (g, g.double()))
    added.apply(hf.zeros(3, 2), bias).sum().backward()
    assert bias.grad.tolist() == [3.0, 3.0]
    assert bias.grad.dtype == np.float32


def test_errors_say_what_backward_and_forward_should_have_returned():
    x, y = leaf(1.0, 2.0, 3.0), leaf(1.0, 2.0, 3.0)

    def run(found, forward=lambda ctx, x, y: x * y):
        make(forward, lambda ctx, g: found(g)).apply(x, y).sum().backward()

    with pytest.raises(GradientError, match="returned 1 gradients, and Made has 2 arguments"):
        run(lambda g: g)
    with pytest.raises(GradientError, match="returned 3 gradients"):
        run(lambda g: (g, g, g))
    with pytest.raises(ShapeError, match=r"gradient 1 in its argument's shape.*\(3,\).*\(2,\)"):
        run(lambda g: (g, g[:2]))
    with pytest.raises(GradientError, match="gradient 0 is of type ndarray"):
        run(lambda g: (g.array, g))
    with pytest.raises(GradientError, match="for argument 1, which is no tensor"):
        make(lambda ctx, x, n: x * n, lambda ctx, g: (g, g)).apply(x, 2).sum().backward()
    with pytest.raises(UsageError, match=r"forward returns a tensor.*found list"):
        run(lambda g: g, lambda ctx, x, y: [x, y])
    with pytest.raises(TypeError, match="argument 1 is of type int"):
        run(lambda g: g, lambda ctx, x, y: ctx.save_for_backward(x, 3))
    with pytest.raises(NotImplementedError, match="no forward"):
        type("Empty", (Function,), {}).apply(x)
    run(lambda g: (g, g, None, None))
    run(lambda g: (g, None))
    assert y.grad.tolist() == [1.0, 1.0, 1.0]


def test_what_was_saved_must_not_change_and_attributes_may():
    x = leaf(1.0)
    h = x * 1
    y = Exp.apply(h)
    with hf.no_grad():
        y.mul_(2)
    with pytest.raises(GradientError, match="'Exp' saved for backward was changed in place"):
        y.sum().backward()
    scaled = Scaled.apply(x, hf.ones(1, dtype=hf.float64), 2)
    with hf.no_grad():
        x.add_(1)
    with pytest.raises(GradientError, match="'Scaled' saved for backward"):
        scaled.backward()
    unread = make(lambda ctx, x: x * 2, lambda ctx, g: g * 2).apply(x)
    with hf.no_grad():
        x.add_(1)
        unread.add_(1)
    unread.backward()
    assert x.grad.tolist() == [2.0]


def test_once_differentiable_refuses_a_second_derivative():
    def once(ctx, g):
        (x,) = ctx.saved_tensors
        return hf.tensor(g.numpy() * np.cos(x.detach().numpy()))

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    sine = make(forward, once_differentiable(once))
    x = leaf(0.5)
    assert gradcheck(sine.apply, x)
    (g,) = autograd.grad(sine.apply(x).sum(), x, create_graph=True)
    assert np.allclose(g.detach().numpy(), np.cos(0.5))
    with pytest.raises(GradientError, match="'Made' cannot be differentiated again"):
        g.sum().backward()


def test_the_graph_of_a_function_is_freed_without_the_help_of_gc():
    gc.disable()
    try:
        x = leaf(1.0)
        y = Exp.apply(x)
        node = weakref.ref(y.node)
        del y
        assert node() is None
    finally:
        gc.enable()


def test_it_works_within_checkpoints_plans_and_hooks():
    class Model(nn.Module):
        def forward(self, x):
            return Exp.apply(x) * 2

    x = leaf(1.0, 2.0)
    hf.checkpoint(Model(), x).sum().backward()
    assert np.allclose(x.grad.array, 2 * np.exp(x.array))
    plan = hf.trace(Model(), x.detach())
    assert np.allclose(plan(np.zeros(2)), 2.0)
    y = Exp.apply(x)
    y.register_hook(lambda g: g * 3)
    assert np.allclose(autograd.grad(y.sum(), x)[0].array, 3 * np.exp(x.array))


# -- backward and grad ----------------------------------------------------------------------------


def test_backward_of_several_tensors_in_one_pass():
    x, y = leaf(1.0, 2.0), leaf(3.0)
    h = x * y
    autograd.backward([h, (h * h).sum(), y], [hf.tensor([1.0, 10.0]), None, None])
    assert x.grad.tolist() == [3.0 + 18.0, 30.0 + 36.0]
    assert y.grad.tolist() == [21.0 + 6.0 + 24.0 + 1.0]
    with pytest.raises(GradientError, match="freed"):
        autograd.backward(h, hf.ones(2))
    with pytest.raises(GradientError, match="needs its grad_outputs"):
        autograd.backward(x * 2)
    with pytest.raises(GradientError, match="does not require"):
        autograd.backward([x.sum(), x.detach().sum()])


def test_backward_of_chosen_leaves_and_with_a_graph():
    x, y = leaf(2.0), leaf(3.0)
    autograd.backward(x * y, inputs=[x])
    assert (x.grad.tolist(), y.grad) == ([3.0], None)
    autograd.backward((x**3, y), create_graph=True)
    assert (x.grad.tolist(), y.grad.tolist()) == ([15.0], [1.0])
    assert autograd.grad(x.grad, x)[0].tolist() == [12.0]
    with pytest.raises(GradientError, match="inputs are leaves"):
        autograd.backward(x * y, inputs=[x * 1])


def test_grad_gives_zeros_where_asked():
    x, y = leaf(1.0), leaf(2.0, 3.0)
    by_x, by_y = autograd.grad(x * 2, [x, y], materialize_grads=True)
    assert (by_x.tolist(), by_y.tolist()) == ([2.0], [0.0, 0.0])
    with pytest.raises(UsageError, match="materialize_grads"):
        autograd.grad(x * 2, [x, y], allow_unused=False, materialize_grads=True)


# -- functional -----------------------------------------------------------------------------------


def test_a_jacobian_of_several_outputs_by_several_inputs():
    x, y = hf.tensor([1.0, 2.0]), hf.tensor([[3.0], [4.0]])
    found = functional.jacobian(lambda x, y: (y @ x.unsqueeze(0), x.sum()), (x, y))
    assert [[part.shape for part in row] for row in found] == [
        [(2, 2, 2), (2, 2, 2, 1)], [(2,), (2, 1)],
    ]  # fmt: skip
    assert found[0][0][1].tolist() == [[4.0, 0.0], [0.0, 4.0]]
    assert found[1][1].tolist() == [[0.0], [0.0]]
    assert not found[0][0].requires_grad
    assert functional.jacobian(lambda x: x[:0], x).shape == (0, 2)
    with pytest.raises(GradientError, match="output 1 of the function does not depend on input 1"):
        functional.jacobian(lambda x, y: (y @ x.unsqueeze(0), x.sum()), (x, y), strict=True)
    with pytest.raises(TypeError, match="found list"):
        functional.jacobian(lambda x: x, [x])
    with pytest.raises(TypeError, match="found float"):
        functional.jacobian(lambda x: 2.0, x)


def test_hessians_and_products_agree():
    rng = np.random.default_rng(0)
    x, a = hf.tensor(rng.normal(size=3)), hf.tensor(rng.normal(size=(3, 3)))
    v = hf.tensor(rng.normal(size=3))

    def function(x):
        return ((a @ x).tanh() * x).sum().exp()

    whole = functional.hessian(function, x)
    assert whole.shape == (3, 3)
    assert np.allclose(whole.array, whole.array.T)
    for product in (functional.hvp, functional.vhp):
        value, found = product(function, x, v)
        assert np.allclose(value.array, function(x).array)
        assert np.allclose(found.array, whole.array @ v.array)
    rows = functional.jacobian(lambda x: a @ x.sin(), x)
    _, forward = functional.jvp(lambda x: a @ x.sin(), x, v)
    _, reverse = functional.vjp(lambda x: a @ x.sin(), x, v)
    assert np.allclose(forward.array, rows.array @ v.array)
    assert np.allclose(reverse.array, v.array @ rows.array)
    with pytest.raises(UsageError, match="returns a tensor of one element"):
        functional.hessian(lambda x: x, x)
    with pytest.raises(UsageError, match="v may be left out"):
        functional.jvp(function, x)
    with pytest.raises(UsageError, match="v has the shapes of the outputs"):
        functional.vjp(function, x, v)


def test_derivatives_with_a_graph_reach_the_inputs():
    x = leaf(0.5, 1.5)
    functional.jacobian(lambda x: x**3, x, create_graph=True).sum().backward()
    assert np.allclose(x.grad.array, 6 * x.array)
    assert gradcheck(lambda x: functional.hessian(lambda x: (x**4).sum(), x, True), x)
    assert gradcheck(lambda x: functional.jvp(lambda x: x.exp(), x, x, True)[1], x)


# -- checks ---------------------------------------------------------------------------------------


def test_gradcheck_finds_what_is_wrong():
    wrong = make(lambda ctx, x: x * 2, lambda ctx, g: g * 3)
    x = leaf(1.0, 2.0)
    assert not gradcheck(wrong.apply, x, raise_exception=False)
    with pytest.raises(GradientError, match=r"output 0 by input 0 is wrong in 2 of 4 .* 3 by back"):
        gradcheck(wrong.apply, (x,))
    assert x.tolist() == [1.0, 2.0]

    def second(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 2 * x.detach()

    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    constant = make(forward, second)
    assert gradcheck(constant.apply, x)
    assert not gradgradcheck(constant.apply, x, raise_exception=False)
    with pytest.raises(GradientError, match="no input requires"):
        gradcheck(lambda x: x, x.detach())
    with pytest.raises(GradientError, match="returns no tensor of floats"):
        gradcheck(lambda x: x > 0, x)
    assert gradcheck(lambda x, y: x.sum() + y.sum(), (x, leaf()))
    with pytest.warns(UserWarning, match="input 0 is float32"):
        assert gradcheck(lambda x: x * 2, leaf(1.0, dtype=np.float32), eps=0.1, atol=1e-2)


def test_gradcheck_of_a_models_parameters():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = hf.randn(5, 3, dtype=hf.float64)
    assert gradcheck(lambda *_: model(x), tuple(model.parameters()))


# -- modules as functions -------------------------------------------------------------------------


def test_functional_call_uses_the_given_tensors_and_leaves_the_module_alone():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.GRU(4, 2))
    before = {name: value.array.copy() for name, value in model.state_dict().items()}
    given = {name: hf.tensor(value * 0.5) for name, value in before.items()}
    given["0.weight"].requires_grad = True
    out, _ = functional_call(model, given, hf.ones(5, 3))
    out.sum().backward()
    assert given["0.weight"].grad is not None
    assert model[0].weight.grad is None
    assert given["1.num_batches_tracked"].item() == 1
    for name, value in model.state_dict().items():
        assert np.array_equal(value.array, before[name])
    assert isinstance(model[0].weight, nn.Parameter)
    with pytest.raises(ShapeError):
        functional_call(model, {"0.weight": hf.ones(2, 2)}, (hf.ones(5, 3),))
    assert model[0].weight.shape == (4, 3)


def test_functional_call_by_name():
    model = nn.Linear(2, 2)
    ones, zeros = {"weight": hf.ones(2, 2)}, {"bias": hf.zeros(2)}
    assert functional_call(model, (ones, zeros), hf.ones(2)).tolist() == [2.0, 2.0]
    got = functional_call(model, {**ones, **zeros, "other": hf.ones(1)}, kwargs={"x": hf.ones(2)})
    assert got.tolist() == [2.0, 2.0]
    with pytest.raises(UsageError, match="unexpected names: other; missing names: bias"):
        functional_call(model, {**ones, "other": hf.ones(1)}, hf.ones(2), strict=True)
    with pytest.raises(UsageError, match="more than once: weight"):
        functional_call(model, (ones, ones), hf.ones(2))
    with pytest.raises(TypeError, match="'weight' is of type int"):
        functional_call(model, {"weight": 1}, hf.ones(2))


def test_functional_call_of_tied_weights():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    two = {"1.weight": 2 * hf.eye(2)}
    assert functional_call(model, two, hf.ones(2), strict=True).tolist() == [4.0, 4.0]
    model[0].weight.data = hf.eye(2)
    assert functional_call(model, two, hf.ones(2), tie_weights=False).tolist() == [2.0, 2.0]
    with pytest.raises(UsageError, match=r"0\.weight, 1\.weight are one tensor"):
        functional_call(model, {**two, "0.weight": hf.eye(2)}, hf.ones(2))


def test_parameters_as_a_vector_and_back():
    model = nn.Linear(2, 3)
    vector = nn.utils.parameters_to_vector(model.parameters())
    assert vector.shape == (9,)
    vector[:2].sum().backward()
    assert model.weight.grad.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]]
    nn.utils.vector_to_parameters(hf.arange(9.0), model.parameters())
    assert model.weight.tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert model.bias.tolist() == [6.0, 7.0, 8.0]
    assert model.weight.is_leaf
    with pytest.raises(ShapeError, match="a vector of all elements"):
        nn.utils.vector_to_parameters(hf.arange(8.0), model.parameters())
    with pytest.raises(TypeError, match="found list"):
        nn.utils.vector_to_parameters([1.0], model.parameters())


def test_type_converts_all_and_get_name_is_the_class():
    model = nn.BatchNorm1d(2).type(hf.float64)
    assert {str(value.dtype) for value in model.state_dict().values()} == {"float64"}
    assert model._get_name() == "BatchNorm1d"
    with pytest.raises(TypeError, match="floating dtypes only"):
        model.type(hf.int64)
