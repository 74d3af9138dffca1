"""The registry and its driver: every primitive's gradient, broadcasting, promotion, errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from holdfast import core
from holdfast.core.backend import BFLOAT16, is_floating
from holdfast.core.backward import Into, Node, fit
from holdfast.core.gradcheck import check_gradients, check_second_gradients
from holdfast.core.ops import elementwise, transcendental
from holdfast.core.primitive import Primitive, primitive, promoted, registry
from holdfast.errors import GradientError, HoldfastError, ShapeError

JUMPS = {"ask", "floor_divide", "fmod", "remainder", "trunc_divide"}
"""Primitives whose value another rounding of the arguments moves by a whole."""


@pytest.mark.parametrize("name", sorted(registry()))
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradient_of_every_primitive(name, seed):
    """Each draws shapes, axes, options and numbers for itself."""
    entry = registry()[name]
    arguments, options = entry.example(seed)
    check_gradients(entry.operation, arguments, options, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(registry()))
@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradient_of_every_primitive_many_times(name, seed):
    entry = registry()[name]
    arguments, options = entry.example(seed)
    check_gradients(entry.operation, arguments, options, seed=seed)
    if entry.second is not None:
        check_second_gradients(entry.operation, arguments, options, seed=seed)


@pytest.mark.parametrize("name", sorted(registry()))
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_16_bits_give_nearly_what_32_give(name, dtype):
    entry = registry()[name]
    arguments, options = entry.example(1)
    if name == "cast" or name in JUMPS:
        return
    narrow, wide = (
        [
            core.tensor(np.asarray(a, dtype).astype(kind), requires_grad=True)
            if is_floating(getattr(a, "dtype", np.dtype(int)))
            else a
            for a in arguments
        ]
        for kind in (dtype, np.float32)
    )
    found, expected = entry.operation(*narrow, **options), entry.operation(*wide, **options)
    several = isinstance(found, tuple)
    for a, b in zip(found, expected, strict=True) if several else [(found, expected)]:
        if not is_floating(b.dtype):
            continue
        assert a.dtype == dtype
        largest = max(1.0, float(np.abs(b.array).max(initial=0)))
        apart = np.abs(a.array.astype(np.float32) - b.array).max(initial=0)
        assert apart <= 0.05 * largest, (a, b)


@pytest.mark.parametrize("name", sorted(registry()))
def test_every_primitive_keeps_float32(name):
    entry = registry()[name]
    arguments, options = entry.example(0)
    halved = [
        core.tensor(a.astype(np.float32), requires_grad=True)
        if getattr(a, "dtype", np.dtype(int)).kind == "f"
        else a
        for a in arguments
    ]
    out = entry.operation(*halved, **options)
    outs = [o for o in (out if isinstance(out, tuple) else (out,)) if is_floating(o.dtype)]
    assert all(o.dtype == (options["dtype"] if name == "cast" else np.float32) for o in outs)
    if not outs:
        return  # answers have no gradient
    sum(o.sum() for o in outs).backward()
    for leaf in halved:
        if isinstance(leaf, core.Tensor):
            assert leaf.grad.dtype == np.float32
            assert leaf.grad.shape == leaf.shape


@settings(deadline=None)
@given(
    st.data(),
    hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=4, max_side=4),
    st.sampled_from(["add", "sub", "mul", "div", "maximum", "minimum"]),
)
def test_broadcasting_sums_the_gradient_back(data, shapes, name):
    a, b = shapes.input_shapes
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.uniform(0.5, 2.0, a)
    y = rng.uniform(2.5, 4.0, b)  # apart from x, so that a maximum is smooth
    operation = registry()[name].operation
    assert operation(core.tensor(x), core.tensor(y)).shape == shapes.result_shape
    check_gradients(operation, (x, y))


@settings(deadline=None)
@given(hnp.mutually_broadcastable_shapes(num_shapes=1, base_shape=(3, 1, 4), max_dims=3))
def test_fit_is_the_transpose_of_broadcasting(shapes):
    (shape,) = shapes.input_shapes
    x = np.random.default_rng(0).random(shape)
    whole = np.broadcast_to(x, shapes.result_shape)
    g = np.random.default_rng(1).random(shapes.result_shape)
    part = fit(g, shape, np.dtype(np.float64))
    assert part.shape == shape
    assert np.isclose((part * x).sum(), (g * whole).sum())


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="'relu' exists already"):
        primitive(sample=lambda rng: (rng.normal(size=2),), name="relu")(
            lambda x: (x, lambda g: (g,))
        )


def test_a_wrong_gradient_is_found_and_named():
    def crooked(x):
        out = transcendental.exp(x)
        if isinstance(out.node, Node):
            out.node.pullback = lambda g: (g * 2 * out.array,)
        return out

    with pytest.raises(GradientError, match="crooked: the gradient by argument 0"):
        check_gradients(crooked, (np.array([0.3, 0.4]),))


def test_a_check_needs_something_to_check():
    with pytest.raises(GradientError, match="no floating argument"):
        check_gradients(elementwise.add, (np.array([1]), np.array([2])))


def test_cotangents_nobody_needs_are_not_computed():
    calls = []

    def called(name, value):
        calls.append(name)
        return value

    def lazy(x, y):
        return x * y, lambda g: (lambda: called("x", g * y), lambda: called("y", g * x))

    x, y = core.tensor([2.0]), core.tensor([3.0], requires_grad=True)
    entry = Primitive("lazy", lazy, lambda rng: (), promote=False, second=None)
    entry.operation(x, y).backward()
    assert calls == ["y"]
    assert y.grad.tolist() == [2.0]


def test_shape_errors_name_primitive_arguments_and_shapes():
    x, y = core.zeros(2, 3), core.zeros(4)
    for fails in (lambda: x + y, lambda: core.where(x > 0, x, y)):
        with pytest.raises(ShapeError, match=r"x of shape \(2, 3\).*y of shape \(4,\)"):
            fails()
    with pytest.raises(ShapeError, match=r"^add: "):
        x + y
    with pytest.raises(
        ShapeError, match=r"^matmul: expected .* x of shape \(2, 3\), y of shape \(2, 3\)"
    ):
        x @ x
    assert issubclass(ShapeError, HoldfastError)
    assert issubclass(ShapeError, ValueError)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (np.zeros(2, np.float32), np.zeros(2, np.float64), np.float64),
        (np.zeros(2, np.float32), np.zeros((), np.float64), np.float32),
        (np.zeros(2, np.int64), np.zeros(2, np.float32), np.float32),
        (np.zeros(2, np.int64), np.zeros((), np.float32), np.float32),
        (np.zeros(2, np.int32), np.zeros(2, np.int64), np.int64),
        (np.zeros(2, np.bool_), np.zeros(2, np.int64), np.int64),
        (np.zeros(2, np.float16), np.zeros(2, np.int64), np.float16),
        (np.zeros(2, np.float32), 2.5, np.float32),
        (np.zeros(2, np.float64), 2, np.float64),
        (np.zeros(2, np.int64), 2.5, np.float32),
        (np.zeros(2, np.int64), 2, np.int64),
    ],
)
def test_promotion_is_pytorchs(left, right, expected):
    first, second = promoted([left, right])
    assert (first + second).dtype == expected
    first, second = promoted([right, left])
    assert (first + second).dtype == expected


def test_into_makes_an_array_where_there_is_no_place_for_it():
    assert Into(lambda out: np.add(1, 2, out=out))() == 3
