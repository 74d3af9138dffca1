"""Arithmetic, functions of elements, selection and comparison: values, dtypes, errors."""

import math
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import core
from holdfast.core import functions_elementwise as functions
from holdfast.core.gradcheck import check_second_gradients
from holdfast.core.ops import special
from holdfast.core.ops.masks import BY_BITS_FROM, chosen, kept
from holdfast.core.primitive import registry
from holdfast.errors import UsageError

MINE = {"activation", "dropout", "elementwise", "gelu", "reduce", "rounding", "scan", "softmax",
        "special", "transcendental"}  # fmt: skip
TWICE = sorted(n for n, e in registry().items() if e.rule.__module__.rsplit(".", 1)[-1] in MINE)


@pytest.mark.parametrize("name", TWICE)
@pytest.mark.parametrize("seed", range(1, 4))
def test_second_gradients_with_other_options(name, seed):
    entry = registry()[name]
    arguments, options = entry.example(seed)
    check_second_gradients(entry.operation, arguments, options, seed=seed)


def test_the_error_function_is_exact():
    x = np.concatenate(
        [np.linspace(-7, 7, 30001), np.linspace(7, 27, 2001), np.logspace(-300, 0, 99), [0.0]]
    )
    erf, erfc = (np.array([f(v) for v in x]) for f in (math.erf, math.erfc))
    assert np.allclose(special.error_function(x), erf, rtol=1e-15, atol=0)
    assert np.allclose(special.complement(x), erfc, rtol=2e-15, atol=1e-310)
    single = special.error_function(x.astype(np.float32))
    assert single.dtype == np.float32
    assert np.abs(single - erf).max() < 1e-6
    assert np.abs(single).max() <= 1
    inside = np.concatenate([np.linspace(-1, 1, 10003)[1:-1], 1 - np.logspace(-16, -1, 200)])
    back = special.inverse_error_function(inside)
    assert np.allclose([math.erf(v) for v in back], inside, rtol=1e-15)
    assert np.allclose([math.erfc(v) for v in back[-200:]], 1 - inside[-200:], rtol=1e-13)
    rough = special.inverse_error_function(inside[:10001].astype(np.float32))
    assert np.allclose(rough, back[:10001], rtol=1e-5)


def test_the_error_function_of_special_values():
    x = core.tensor(np.array([np.inf, -np.inf, np.nan, -0.0]))
    assert np.array_equal(x.erf().array, [1, -1, np.nan, 0], equal_nan=True)
    assert np.array_equal(x.erfc().array, [0, 2, np.nan, 1], equal_nan=True)
    y = core.tensor([1.0, -1.0, 1.5, 0.0]).erfinv()
    assert np.array_equal(y.array, [np.inf, -np.inf, np.nan, 0], equal_nan=True)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 40, BY_BITS_FROM]))
def test_choosing_by_bits_is_where(seed, rows):
    rng = np.random.default_rng(seed)
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        x, y = (rng.standard_normal((rows, 3)).astype(dtype) for _ in range(2))
        x[0], y[-1] = np.nan, np.inf
        for mask in (rng.random((rows, 3)) > 0.5, rng.random((1, 3)) > 0.5):
            for a, b in ((x, y), (x, 2.0), (-1.0, y), (x, y[:1])):
                expected = np.where(mask, np.asarray(a, dtype), np.asarray(b, dtype))
                found = chosen(mask, a, b)
                assert found.tobytes() == expected.astype(dtype).tobytes()
            found, zero = kept(mask, x), np.asarray(0, dtype)
            assert found.tobytes() == np.where(mask, x, zero).tobytes()


def test_masks_stop_infinite_cotangents():
    for cut in (
        lambda x: x.relu(),
        lambda x: x.clamp(min=0),
        lambda x: core.where(x > 0, x, 1.0),
        lambda x: x.masked_fill(x < 0, 1.0),
    ):
        x = core.tensor([-1.0, 4.0], requires_grad=True)
        cut(x).backward(np.array([np.inf, 1.0], np.float32))
        assert x.grad.tolist() == [0.0, 1.0]


def test_nothing_warns_where_infinities_are_the_answer():
    x = core.tensor([0.0, -1.0, 1000.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert x.log()[0].item() == -math.inf
        assert (1 / x)[0].item() == math.inf
        assert math.isnan(x.sqrt()[1].item())
        assert x.exp()[2].item() == math.inf
        assert (x / 0)[1].item() == -math.inf
        assert (core.tensor(-1.0) ** 0.5).isnan().item()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_keep_their_dtype(dtype):
    x = core.tensor(np.array([0.5, 2.0, 3.0], dtype), requires_grad=True)
    results = [
        x + 0.1, 2.5 - x, x * 0.1, x / 3, 1 / x, x**2.5, 2.0**x, x.clamp(0.6, 2.5), x.exp(),
        x.erf(), x.maximum(x * 2), x.lerp(x * 2, 0.3), core.where(x > 1, x, 0.25), x.sigmoid(),
        x.softmax(0), x.sum(), x.mean(), x.var(), x.norm(3), x.cumsum(0), x.logsumexp(0),
        x.remainder(0.75), x.floor_divide(0.75), x.masked_fill(x > 1, 0.1), x.relu(),
    ]  # fmt: skip
    for result in results:
        assert result.dtype == dtype
        x.zero_grad()
        result.sum().backward()
        assert x.grad.dtype == dtype
    exact = np.array([0.5, 2.0, 3.0])
    assert np.allclose((x * 0.1).array.astype(np.float64), exact * 0.1, rtol=5e-3)
    assert np.allclose(x.exp().array.astype(np.float64), np.exp(exact), rtol=5e-3)


def test_integers_and_booleans():
    x = core.tensor([7, -7, 3])
    assert x.exp().dtype == x.sqrt().dtype == (x / 2).dtype == np.float32
    assert (x // 2).tolist() == [3, -4, 1]
    assert x.div(2, rounding_mode="trunc").tolist() == [3, -3, 1]
    assert x.div(core.tensor([-2, 2, 2]), rounding_mode="trunc").tolist() == [-3, -3, 1]
    assert (x % 4).tolist() == [3, 1, 3]
    assert x.fmod(4).tolist() == [3, -3, 3]
    assert x.floor().dtype == x.round().dtype == x.clamp(0, 5).dtype == np.int64
    assert x.clamp(-0.5, 2).dtype == np.float32
    assert x.sign().tolist() == [1, -1, 1]
    assert (x**2).dtype == np.int64
    assert x.float().round(decimals=0).dtype == np.float32
    with pytest.raises(UsageError, match=r"power -1 is no integer: use x.float\(\)"):
        x**-1


def test_a_conversion_to_integers_ends_the_graph():
    x = core.tensor([1.5, 0.0], requires_grad=True)
    for whole in (x.long(), x.int(), x.bool(), x.short(), x.char(), x.byte()):
        assert not whole.requires_grad
    assert x.half().requires_grad
    assert x.to(x) is x
    assert x.to(np.float32, copy=True) is not x
    assert x.to(dtype=np.float64, device="cpu").dtype == np.float64
    assert x.type() == "float32"
    assert x.type(np.float64).dtype == np.float64
    assert x.type_as(core.tensor([1])).dtype == np.int64
    assert x.cpu() is x
    assert x.bfloat16().dtype == ml_dtypes.bfloat16
    with pytest.raises(UsageError, match=r"'cpu', 'cuda' or 'cuda:0' was expected, found 'tpu'"):
        x.to(device="tpu")


def test_division_and_its_rounding():
    x, y = core.tensor([7.0, -7.0]), core.tensor([2.0, 2.0])
    assert x.div(y, rounding_mode="floor").tolist() == [3.0, -4.0]
    assert x.div(y, rounding_mode="trunc").tolist() == [3.0, -3.0]
    with pytest.raises(UsageError, match="'trunc' or 'floor'; found 'up'"):
        x.div(y, rounding_mode="up")


def test_clamp_takes_numbers_and_tensors():
    x = core.tensor([-2.0, 0.5, 9.0], requires_grad=True)
    low, high = core.tensor([0.0, 1.0, 0.0], requires_grad=True), core.tensor(4.0)
    high.requires_grad = True
    x.clamp(low, high).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]
    assert low.grad.tolist() == [1.0, 1.0, 0.0]
    assert high.grad.item() == 1.0
    assert x.clip(max=1).tolist() == [-2.0, 0.5, 1.0]
    with pytest.raises(UsageError, match="min or max"):
        x.clamp()


def test_where_and_masked_fill():
    x = core.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    assert core.where(x > 2, x, 0).tolist() == [[0.0, 0.0], [3.0, 4.0]]
    assert core.where(x > 2, 1, 0).dtype == np.int64
    assert core.where(x > 2, 1.0, 0.0).dtype == np.float32
    value = core.tensor(9.0, requires_grad=True)
    filled = x.masked_fill(core.tensor([True, False]), value)
    assert filled.tolist() == [[9.0, 2.0], [9.0, 4.0]]
    filled.sum().backward()
    assert (x.grad.tolist(), value.grad.item()) == ([[0.0, 1.0], [0.0, 1.0]], 2.0)
    with pytest.raises(UsageError, match="mask of booleans; found float32"):
        x.masked_fill(x, 0)
    with pytest.raises(UsageError, match=r"without axes; found shape \(2, 2\)"):
        x.masked_fill(x > 0, x)


def test_comparison():
    x, y = core.tensor([1.0, 2.0, math.nan]), core.tensor([1.0, 3.0, math.nan])
    assert x.eq(y).tolist() == [True, False, False]
    assert x.ne(y).tolist() == [False, True, True]
    assert x.lt(2).tolist() == [True, False, False]
    assert x.le(y).tolist() == x.less_equal(y).tolist() == [True, True, False]
    assert x.gt(1).tolist() == [False, True, False]
    assert x.ge(y).tolist() == [True, False, False]
    assert x.isnan().tolist() == [False, False, True]
    assert (x / 0).isinf().tolist() == [True, True, False]
    assert x.isfinite().tolist() == [True, True, False]
    assert x.isclose(y, rtol=0.5, equal_nan=True).tolist() == [True, True, True]
    assert not x.allclose(y)
    assert x.allclose(y, atol=1, equal_nan=True)
    assert not x.equal(y)
    assert x[:2].equal(core.tensor([1.0, 2.0]))
    assert not x.equal(x[:2])
    assert x.logical_not().tolist() == [False] * 3
    assert (x > 1).logical_and(y > 2).tolist() == [False, True, False]
    assert (x > 1).logical_xor(y > 0).tolist() == [True, False, False]
    assert not (core.tensor([1.0], requires_grad=True).gt(0)).requires_grad


def test_functions_take_the_tensor_first():
    x = core.tensor([-1.5, 2.0])
    assert functions.abs(x).tolist() == [1.5, 2.0]
    assert functions.clamp(x, max=1).tolist() == [-1.5, 1.0]
    assert functions.add(x, 1, alpha=2).tolist() == [0.5, 4.0]
    assert functions.pow(2, x)[1].item() == 4.0
    assert functions.addcmul(x, x, x, value=2)[1].item() == 10.0
    assert functions.addcdiv(x, x, x, value=2)[1].item() == 4.0
    assert all(callable(getattr(functions, name)) for name in functions.__all__)
