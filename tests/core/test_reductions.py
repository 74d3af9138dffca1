"""Sums, means, extremes, norms and running sums: axes, dtypes, errors."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import core
from holdfast.core import functions_elementwise as functions
from holdfast.core.gradcheck import check_gradients
from holdfast.core.primitive import registry
from holdfast.errors import UsageError

X = np.random.default_rng(0).standard_normal((3, 4, 5))


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["sum", "mean", "amax", "amin", "var", "std", "logsumexp", "norm"]),
    st.none() | st.integers(-3, 2) | st.sets(st.integers(0, 2), min_size=1).map(tuple),
    st.booleans(),
)
def test_folds_are_numpys(name, dim, keepdim):
    found = getattr(core.tensor(X), name)(dim=dim, keepdim=keepdim).array
    expected = {
        "sum": np.sum, "mean": np.mean, "amax": np.max, "amin": np.min,
        "var": lambda x, **o: np.var(x, ddof=1, **o), "std": lambda x, **o: np.std(x, ddof=1, **o),
        "logsumexp": lambda x, **o: np.log(np.sum(np.exp(x), **o)),
        "norm": lambda x, **o: np.sqrt(np.sum(x * x, **o)),
    }[name](X, axis=dim, keepdims=keepdim)  # fmt: skip
    assert np.shape(expected) == found.shape
    assert np.allclose(found, expected)
    check_gradients(registry()[name].operation, (X,), {"dim": dim, "keepdim": keepdim})


def test_axes_are_given_in_many_ways():
    x = core.tensor(X)
    expected = X.sum((0, 2), keepdims=True)
    for sums in (
        x.sum((0, 2), True), x.sum([0, -1], keepdim=True), x.sum(axis=(0, 2), keepdims=True),
        x.sum(dim=(-3, -1), keepdims=True), functions.sum(x, (0, 2), True),
    ):  # fmt: skip
        assert np.allclose(sums.array, expected)
    assert np.isclose(x.sum(()).item(), X.sum())
    assert core.tensor(2.0).sum(0).item() == core.tensor(2.0).amax(-1).item() == 2.0
    for fails in (lambda: x.sum(3), lambda: x.max(-4), lambda: x.cumsum(5), lambda: x.argmax(3)):
        with pytest.raises(IndexError, match="expected -3 to 2"):
            fails()


def test_integers_add_up_to_int64():
    for dtype in (np.bool_, np.uint8, np.int32):
        x = core.tensor(np.ones((2, 3), dtype))
        for total in (x.sum(), x.prod(0), x.cumsum(1), x.cumprod(1), x.count_nonzero()):
            assert total.dtype == np.int64
        assert x.amax().dtype == dtype
    assert core.tensor([200, 100], dtype=np.uint8).sum().item() == 300
    assert core.tensor([1, 2]).sum(dtype=np.float64).dtype == np.float64
    assert core.tensor([1, 2]).mean(dtype=np.float32).item() == 1.5
    for name in ("mean", "var", "std"):
        with pytest.raises(UsageError, match=rf"{name}: .*found int64: use x.float\(\)"):
            getattr(core.tensor([1, 2]), name)()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bits_are_added_up_in_32(dtype):
    x = core.tensor(np.ones((2, 5000), dtype), requires_grad=True)
    assert x.sum(1).tolist() == core.tensor([5000.0, 5000.0]).to(dtype).tolist()
    assert x.mean().item() == 1
    assert x.norm(1, 1)[0].item() == core.tensor(5000.0).to(dtype).item()
    x.sum().backward()
    assert x.grad.dtype == dtype
    large = core.tensor(np.full(4, 60000, dtype))
    assert large.mean().isfinite().item()


def test_spreads():
    x = core.tensor(X)
    assert np.allclose(x.var(0, unbiased=False).array, X.var(0))
    assert np.allclose(x.var(False).array, X.var())
    assert np.allclose(x.std((0, 1), correction=2).array, X.std((0, 1), ddof=2))
    assert x.var(1, True, True).shape == (3, 1, 5)
    spread, middle = functions.var_mean(x, 1, correction=0)
    assert np.allclose(spread.array, X.var(1))
    assert np.allclose(middle.array, X.mean(1))
    spread, middle = functions.std_mean(x, False)
    assert np.isclose(spread.item(), X.std())
    assert np.isclose(middle.item(), X.mean())
    with pytest.raises(UsageError, match="unbiased and correction; found both"):
        x.var(0, unbiased=True, correction=1)
    assert np.isnan(core.ones(1).var().item())
    same = core.ones(3, requires_grad=True)
    same.std().backward()
    assert same.grad.tolist() == [0.0] * 3


def test_extremes_and_where_they_are():
    x = core.tensor([[1.0, 5.0, 5.0], [4.0, math.nan, 6.0]])
    values, indices = x.max(1)
    assert indices.tolist() == x.argmax(1).tolist() == [1, 1]
    assert np.array_equal(values.array, [5, np.nan], equal_nan=True)
    assert x[0].median().item() == 5.0
    assert x[:, [0, 2]].median(1).values.tolist() == [1.0, 4.0]
    assert math.isnan(x.median(1).values[1].item())
    assert x.max(core.tensor(4.5))[0].tolist() == [4.5, 5.0, 5.0]
    assert x[0].aminmax() == (x[0].aminmax().min, x[0].aminmax().max)
    assert x.argmin(0, keepdim=True).shape == (1, 3)
    assert core.tensor(3.0).max(0).indices.item() == 0
    y = core.tensor([2.0, 7.0, 7.0], requires_grad=True)
    y.max().backward()
    assert y.grad.tolist() == [0.0, 0.5, 0.5]
    y.zero_grad()
    y.max(0).values.backward()
    assert y.grad.tolist() == [0.0, 1.0, 0.0]
    y.zero_grad()
    y.median().backward()
    assert y.grad.sum().item() == 1.0


def test_what_is_not_a_number_can_be_left_out():
    x = core.tensor([[1.0, math.nan, 3.0], [math.nan] * 3], requires_grad=True)
    assert x.nansum().item() == 4.0
    assert np.array_equal(x.nanmean(1).array, [2, np.nan], equal_nan=True)
    x.nansum(1)[0].backward()
    assert x.grad.tolist() == [[1.0, 0.0, 1.0], [0.0] * 3]
    assert math.isnan(x.sum().item())


def test_norms():
    x = core.tensor([[3.0, -4.0], [0.0, 0.0]], requires_grad=True)
    assert x.norm().item() == x.norm("fro").item() == x.norm(None).item() == 5.0
    assert x.norm(1, 1).tolist() == [7.0, 0.0]
    assert x.norm(math.inf, 1).tolist() == [4.0, 0.0]
    assert x.norm(-math.inf, 1).tolist() == [3.0, 0.0]
    assert x.norm(0, dim=1).tolist() == [2.0, 0.0]
    assert np.isclose(x.norm(3, 1)[0].item(), 91 ** (1 / 3))
    assert x[0].dist(x[1], 1).item() == 7.0
    for p in (1, 2, 3, 0, math.inf):
        x.zero_grad()
        x.norm(p, 1).sum().backward()
        assert np.isfinite(x.grad.array).all()
        assert x.grad[1].tolist() == [0.0, 0.0]
    with pytest.raises(UsageError, match="number or 'fro' as p; found 'nuc'"):
        x.norm("nuc")


def test_sums_of_exponentials_do_not_overflow():
    x = core.tensor([[1000.0, 1000.0], [-math.inf, -math.inf]], requires_grad=True)
    found = x.logsumexp(1)
    assert np.allclose(found.array, [1000 + math.log(2), -math.inf])
    found[0].backward()
    assert x.grad.tolist() == [[0.5, 0.5], [0.0, 0.0]]
    running = core.tensor([1000.0, 1000.0]).logcumsumexp(0)
    assert np.allclose(running.array, [1000, 1000 + math.log(2)])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.5, 3.0]), min_size=1, max_size=9))
def test_products_with_zeros(values):
    x = np.array(values)
    assert np.isclose(core.tensor(x).prod().item(), np.prod(x))
    assert np.allclose(core.tensor(x).cumprod(0).array, np.cumprod(x))
    check_gradients(registry()["prod"].operation, (x,))
    check_gradients(registry()["cumprod"].operation, (x,), {"dim": 0})


def test_truth():
    x = core.tensor([[1.0, 0.0], [2.0, 3.0]])
    assert (x.all().item(), x.any().item()) == (False, True)
    assert x.all(1).tolist() == [False, True]
    assert x.any(dim=0, keepdim=True).tolist() == [[True, True]]
    assert x.count_nonzero(0).tolist() == [2, 1]
