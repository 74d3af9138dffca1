"""Arithmetic, comparison and functions of elements beside PyTorch's: values, gradients, dtypes."""

import math

import ml_dtypes
import numpy as np
import pytest
from tests.core.parity.beside import both, normal

from holdfast import core
from holdfast.core import functions_elementwise as functions

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

SPECIAL = np.array(
    [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.5, 1e-30, 1e30, -1e30, np.inf, -np.inf, np.nan], np.float32
)
DTYPES = {
    "float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32,
    "float64": torch.float64, "int64": torch.int64, "int32": torch.int32, "uint8": torch.uint8,
    "bool": torch.bool,
}  # fmt: skip


def pair(array, dtype):
    """Return our tensor and PyTorch's of the same values."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return core.tensor(array.astype(kind)), torch.tensor(array).to(DTYPES[dtype])


def same(mine, other, rtol=1e-6, atol=1e-6):
    """Compare shape, dtype and values, NaN included."""
    assert mine.shape == tuple(other.shape)
    assert f"torch.{mine.dtype.name}" == str(other.dtype)
    found, expected = mine.array.astype(np.float64), other.double().numpy()
    assert np.allclose(found, expected, rtol=rtol, atol=atol, equal_nan=True), (found, expected)


# What each takes: any number, a positive one, one within -1 and 1, one over 1, a probability.
UNARY = {
    "abs": "any", "acos": "within", "acosh": "over", "asin": "within", "asinh": "any",
    "atan": "any", "atanh": "within", "ceil": "any", "cos": "any", "cosh": "any", "erf": "any",
    "erfc": "any", "erfinv": "within", "exp": "any", "exp2": "any", "expm1": "any", "floor": "any",
    "frac": "any", "log": "positive", "log10": "positive", "log1p": "positive", "log2": "positive",
    "logit": "probability", "neg": "any", "reciprocal": "positive", "relu": "any", "round": "any",
    "rsqrt": "positive", "sigmoid": "any", "sign": "any", "sin": "any", "sinh": "any",
    "sqrt": "positive", "square": "any", "tan": "within", "tanh": "any", "trunc": "any",
}  # fmt: skip


def drawn(kind, *shape):
    x = normal(*shape)
    return {
        "any": x,
        "positive": np.abs(x) + 0.1,
        "within": np.tanh(x) * 0.95,
        "over": np.abs(x) + 1.1,
        "probability": (np.tanh(x) + 1.1) / 2.2,
    }[kind].astype(np.float32)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("shape", [(3, 4), (), (2, 0)])
def test_functions(name, shape):
    both(getattr(functions, name), getattr(torch, name), drawn(UNARY[name], *shape), tolerance=2e-5)


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_special_values(name):
    theirs = getattr(torch, name)(torch.tensor(SPECIAL))
    same(getattr(core.tensor(SPECIAL), name)(), theirs, rtol=3e-6)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64", "int32"])
def test_functions_of_other_dtypes(name, dtype):
    mine, theirs = pair(np.round(drawn(UNARY[name], 3, 5) * 4) / 4, dtype)
    if name == "frac" and "int" in dtype:
        return  # PyTorch refuses it
    exact = dtype in ("float16", "bfloat16")
    rounding = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype, 1e-6)
    same(
        getattr(mine, name)(), getattr(theirs, name)(),
        rtol=rounding, atol=rounding if exact else 1e-6,
    )  # fmt: skip


BINARY = {
    "add": lambda x, y: x.add(y),
    "add with alpha": lambda x, y: x.add(y, alpha=2.5),
    "sub": lambda x, y: x.sub(y, alpha=-3),
    "mul": lambda x, y: x.mul(y),
    "div": lambda x, y: x.div(y),
    "div to the floor": lambda x, y: x.div(y, rounding_mode="floor"),
    "div towards zero": lambda x, y: x.div(y, rounding_mode="trunc"),
    "floor_divide": lambda x, y: x.detach() // y.detach() + x * y,
    "remainder": lambda x, y: x % y,
    "fmod": lambda x, y: x.fmod(y),
    "maximum": lambda x, y: x.maximum(y),
    "minimum": lambda x, y: x.minimum(y),
    "atan2": lambda x, y: x.atan2(y),
    "max of two": lambda x, y: x.max(y),
    "lerp": lambda x, y: x.lerp(y, 0.3),
    "addcmul": lambda x, y: x.addcmul(y, x, value=0.5),
    "addcdiv": lambda x, y: x.addcdiv(x, y, value=2),
    "clamp from below": lambda x, y: x.clamp(min=y),
    "clamp from above": lambda x, y: x.clamp(max=y),
    "clamp": lambda x, y: x.clamp(y, y + 1),
    "clamp with crossed bounds": lambda x, y: x.clamp(y, y - 1),
    "dist": lambda x, y: x.dist(y),
    "power": lambda x, y: x.abs().pow(y),
    "where": lambda x, y: x.where(x > y, y),
}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("left", "right"), [((3, 4), (3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 1)), ((), (5,))]
)
def test_two_arguments(name, left, right):
    both(BINARY[name], BINARY[name], normal(*left) * 3, normal(*right, seed=1), tolerance=5e-5)


@pytest.mark.parametrize("name", ["add", "sub", "mul", "div", "maximum", "minimum", "fmod",
                                  "remainder", "floor_divide"])  # fmt: skip
@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_promotion_of_two(name, left, right):
    if name in ("sub", "fmod", "remainder", "floor_divide") and "bool" in (left, right):
        return  # PyTorch has some of these, NumPy others
    a, b = np.array([7.0, 9.0, 3.0]), np.array([2.0, 1.0, 4.0])
    mine, theirs = pair(a, left)
    other, their_other = pair(b, right)
    same(getattr(mine, name)(other), getattr(theirs, name)(their_other), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("operation", [
    lambda x: x + 1, lambda x: x + 0.1, lambda x: 2.5 - x, lambda x: x * 0.1, lambda x: x * 3,
    lambda x: x / 3, lambda x: 1 / (x + 1), lambda x: x**2, lambda x: x**0.5, lambda x: 2.0**x,
    lambda x: x.clamp(0.3, 2.5), lambda x: x.clamp(max=2), lambda x: x % 2.5, lambda x: x // 2,
    lambda x: x > 0.5, lambda x: x == 1, lambda x: x.masked_fill(x > 1, 2),
    lambda x: x.where(x > 1, 0.5), lambda x: x.lerp(x + 1, 0.5),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int64", "uint8"])
def test_numbers_are_weak(operation, dtype):
    mine, theirs = pair(np.array([1.0, 0.0, 3.0, 2.0]), dtype)
    try:
        expected = operation(theirs)
    except RuntimeError:
        return  # refused there
    rounding = {"float16": 2e-3, "bfloat16": 1e-2}.get(dtype, 1e-6)
    same(operation(mine), expected, rtol=rounding, atol=rounding)


OPTIONS = {
    "round to decimals": lambda x: (x * 10).round(decimals=1),
    "round to tens": lambda x: (x * 100).round(decimals=-1),
    "logit with eps": lambda x: x.sigmoid().logit(eps=0.3),
    "clip": lambda x: x.clip(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "cube": lambda x: x**3,
    "fourth power": lambda x: x**4,
    "power of 0": lambda x: x**0,
    "power of -1": lambda x: (x + 9) ** -1,
    "power of -2.5": lambda x: (x + 9).pow(-2.5),
    "masked_fill": lambda x: x.masked_fill(x > 0, -1.5),
    "masked_fill with -inf": lambda x: x.masked_fill(x > 0, -math.inf).exp(),
    "the root of clamp": lambda x: x.clamp(min=0.25).sqrt(),
    "comparison": lambda x: (x.gt(0) == x.lt(1)).logical_not().logical_and(x.ne(2)),
    "finite": lambda x: (1 / (x - x)).isinf().logical_or((x / 0).isfinite()).logical_xor(x > 0),
    "double": lambda x: x.double(),
    "half": lambda x: x.half(),
    "long": lambda x: x.long() * x,
    "bool": lambda x: x.bool() * x,
    "int": lambda x: (x * 9).int() * x,
    "type_as": lambda x: x.type_as(x.double()),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", [(3, 4), (40, 50)])
def test_options(name, shape):
    both(OPTIONS[name], OPTIONS[name], normal(*shape), tolerance=3e-4 if "half" in name else 2e-5)


def test_where_a_bound_is_met_the_gradient_passes():
    x = np.array([-1.0, 0.0, 1.0, 2.0], np.float32)
    both(lambda t: t.clamp(0, 1), lambda t: t.clamp(0, 1), x)
    both(lambda t: t.maximum(t * 0 + 1), lambda t: t.maximum(t * 0 + 1), x)
    both(abs, abs, x)
    both(lambda t: t.pow(0), lambda t: t.pow(0), x)
    both(lambda t: t.pow(2.0), lambda t: t.pow(2.0), x)


def test_infinite_cotangents_stop_at_masks():
    x = np.array([-1.0, 0.5, 4.0], np.float32)
    for chain in (
        lambda t: t.clamp(min=0).sqrt(),
        lambda t: t.relu().sqrt(),
        lambda t: t.where(t > 0, t * 0).sqrt(),
        lambda t: t.masked_fill(t < 0, 0.0).sqrt(),
    ):
        mine, theirs = core.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        with np.errstate(all="ignore"):
            chain(mine).sum().backward()
        chain(theirs).sum().backward()
        assert np.allclose(mine.grad.array[1:], theirs.grad.numpy()[1:])
        if theirs.grad[0].isfinite():
            assert mine.grad.array[0] == theirs.grad[0].item()


@pytest.mark.parametrize("options", [{}, {"nan": 1.0, "posinf": 2.0, "neginf": -3.0}])
def test_nan_to_num(options):
    mine, theirs = (t(SPECIAL, requires_grad=True) for t in (core.tensor, torch.tensor))
    first, second = mine.nan_to_num(**options), theirs.nan_to_num(**options)
    same(first.detach(), second.detach())
    first.sum().backward()
    second.sum().backward()
    same(mine.grad, theirs.grad)


def test_functions_at_the_top_level():
    x, y = normal(3, 4), normal(3, 4, seed=1)
    for name in functions.__all__:
        assert hasattr(torch, name), name
    mine, other = core.tensor(x), core.tensor(y)
    assert functions.pow(2, mine).shape == (3, 4)
    assert functions.allclose(mine, mine + 1e-9)
    assert functions.allclose(mine, other) == torch.allclose(torch.tensor(x), torch.tensor(y))
    assert functions.equal(mine, mine.clone())
    assert not functions.equal(mine, mine[0])
    close = functions.isclose(mine, mine + 1e-6 * other)
    same(close, torch.isclose(torch.tensor(x), torch.tensor(x) + 1e-6 * torch.tensor(y)))
    same(functions.where(mine > 0, 1.0, 0.0), torch.where(torch.tensor(x) > 0, 1.0, 0.0))
    same(functions.where(mine > 0, 1, 0), torch.where(torch.tensor(x) > 0, 1, 0))
