"""Quantiles, special functions, grids, blocks and keywords: values, dtypes, errors, plans."""

import math

import ml_dtypes
import numpy as np
import pytest

import holdfast as hf
from holdfast.core.gradcheck import check_gradients
from holdfast.errors import ShapeError, UsageError

X = np.random.default_rng(0).standard_normal((3, 5))


def test_the_first_argument_has_a_name():
    x = hf.tensor(X)
    assert np.array_equal(hf.sum(input=x, dim=1).array, X.sum(1))
    assert np.array_equal(hf.exp(input=x).array, np.exp(X))
    assert np.array_equal(hf.mul(input=x, other=x).array, X * X)
    assert hf.reshape(input=x, shape=(5, 3)).shape == (5, 3)
    assert [part.shape for part in hf.split(tensor=x, split_size_or_sections=2)] == [(2, 5), (1, 5)]
    with pytest.raises(TypeError):
        hf.exp(x, input=x)


def test_equal_ones_share_the_gradient_of_the_median():
    x = hf.tensor([1.0, 2.0, 2.0, 5.0], requires_grad=True)
    x.median().backward()
    assert x.grad.tolist() == [0, 0.5, 0.5, 0]
    y = hf.tensor([3.0, math.nan, 1.0], requires_grad=True)
    y.nanmedian().backward()
    assert y.grad.tolist() == [0, 0, 1]
    assert math.isnan(y.median().item())
    assert math.isnan(hf.zeros(0).median().item())


@pytest.mark.parametrize("dtype", [hf.int32, hf.uint8, hf.float32])
def test_integers_are_folded_in_the_dtype_asked_for(dtype):
    x = hf.tensor([True, True])
    found = x.sum(dtype=dtype), x.prod(dtype=dtype), x.cumsum(0, dtype=dtype), x.cumprod(0, dtype)
    assert [f.dtype for f in found] == [dtype] * 4
    assert found[0].item() == 2


def test_a_tensor_without_axes_is_ordered_too():
    x = hf.tensor(2.0, requires_grad=True)
    for found in (
        x.topk(1).values, x.sort().values, x.flip(0), x.kthvalue(1, 0).values, x.mode().values,
        x.cummax(0).values, x.quantile(0.3), x.quantile(0.3, 0, keepdim=True),
    ):  # fmt: skip
        assert found.shape == ()
        assert found.item() == 2
    assert x.argsort().item() == x.topk(1).indices.item() == 0
    total = x.softmax(0) + x.log_softmax(-1)
    assert total.item() == 1
    total.backward()
    assert x.grad.item() == 0
    with pytest.raises(UsageError):
        x.topk(2)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.diff(2, 0), lambda x: x.quantile(0.3, 1), lambda x: x.nanquantile(0.9),
        lambda x: x.cummax(1)[0], lambda x: x.mode(0)[0], lambda x: x.cov(), lambda x: x.corrcoef(),
        lambda x: x.diagflat(), lambda x: hf.vander(x[0] * (x[0] > 0)), lambda x: x.kron(x[:2]),
        lambda x: x[:, :3].cross(x[:, 2:]), lambda x: hf.combinations(x[0], 3),
        lambda x: hf.block_diag(x, x[0]), lambda x: hf.cdist(x, x[:2] + 3), lambda x: x.fmax(x * x),
        lambda x: hf.trapezoid(x, x[0] * 2), lambda x: x.masked_scatter(x > 0, x.T),
        lambda x: hf.cartesian_prod(x[0], x[1]), lambda x: x.hsplit([2])[1], lambda x: x.median(),
        lambda x: (x * x).float_power(x), lambda x: x.nanmedian(), lambda x: x.deg2rad().rad2deg(),
    ],
)  # fmt: skip
def test_gradients(function):
    check_gradients(lambda x: function(x) * 1.0, (X,))


def test_the_logarithm_of_gamma_is_exact():
    x = hf.tensor(np.arange(1.0, 101))
    assert np.allclose(x.lgamma().array, [math.lgamma(n) for n in range(1, 101)], rtol=1e-14)
    assert hf.tensor([1.0, 2.0]).lgamma().tolist() == [0, 0]
    assert np.isclose(hf.tensor(0.5, dtype=hf.float64).lgamma().item(), 0.5 * math.log(math.pi))
    # At 1 + n digamma is the n-th harmonic number less Euler's constant.
    harmonic = np.cumsum(1 / np.arange(1.0, 100)) - 0.57721566490153286
    assert np.allclose(x.digamma().array[1:], harmonic, rtol=1e-13)
    assert np.isclose(hf.tensor(1.0, dtype=hf.float64).polygamma(1).item(), math.pi**2 / 6)
    assert hf.tensor([1, 5]).lgamma().dtype == np.float32
    assert hf.tensor([0.0, -1.0, math.inf]).lgamma().tolist() == [math.inf] * 3


def test_dtypes_are_kept():
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        x, y = hf.tensor(X.astype(dtype)), hf.tensor(X[::-1].astype(dtype))
        for found in (
            x.sinc(), x.lgamma(), x.digamma(), x.hypot(y), x.logaddexp(y), x.copysign(y), x.fmax(y),
            x.xlogy(y.abs()), x.deg2rad(), x.heaviside(y), x.diff(), x.cummax(0)[0], x.median(),
        ):  # fmt: skip
            assert found.dtype == dtype
        assert x.float_power(2).dtype == np.float64
    assert hf.tensor([1, 2]).gcd(4).dtype == np.int64
    assert hf.hann_window(3).dtype == np.float32
    assert hf.hann_window(3, dtype=hf.float64, requires_grad=True).requires_grad


def test_memory():
    x = hf.zeros(3, 4, dtype=hf.float16).T
    assert (x.stride(), x.stride(1), x.element_size(), x.itemsize, x.nbytes) == (
        (1, 4),
        4,
        2,
        2,
        24,
    )
    assert (x.nelement(), hf.numel(x), x.ndimension()) == (12, 12, 2)
    assert hf.is_floating_point(x)
    assert hf.is_floating_point(x.bfloat16())
    assert not x.long().is_floating_point()
    assert hf.is_tensor(x)
    assert not hf.is_tensor(X)


def test_places_drawn_by_weights():
    weights = hf.tensor([0.0, 1.0, 0.0, 3.0])
    drawn = weights.multinomial(50, replacement=True)
    assert set(drawn.tolist()) == {1, 3}
    first, second = (
        weights.multinomial(2, generator=np.random.default_rng(1)).tolist() for _ in range(2)
    )
    assert first == second
    assert sorted(first) == [1, 3]


def test_conditions_and_members():
    mask = hf.tensor([[True, False], [False, True]])
    assert [places.tolist() for places in hf.where(mask)] == [[0, 1], [0, 1]]
    assert hf.isin(2, hf.tensor([1, 2])).item()
    assert hf.isin(hf.tensor([1, 2, 3]), 2, invert=True).tolist() == [True, False, True]
    assert hf.repeat_interleave(hf.tensor([0, 2, 1])).tolist() == [1, 1, 2]


def test_a_plan_decides_anew():
    """What comes from the input must not become a constant of the plan."""

    def model(x):
        return (
            x.quantile(0.3, 1), x.nanquantile(0.3, 1), x.fmax(x.flip(1)), x.nanmean(1), x.median(),
            x.nansum(0), x.cummin(1).values, x.mode(1).values, x.cov(), x.histc(4), x.lgamma(),
        )  # fmt: skip

    plan = hf.trace(model, hf.tensor(X))
    other = hf.tensor(np.random.default_rng(1).standard_normal((3, 5)) * 2)
    for found, expected in zip(plan(other), model(other), strict=True):
        assert np.allclose(found.array, expected.array)


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (lambda x: x.quantile(1.5), "q from 0 to 1"),
        (lambda x: x.quantile(0.5, interpolation="cubic"), "interpolation is one of"),
        (lambda x: x.quantile(hf.tensor([0.5])), "float64 along one axis"),
        (lambda x: x.long().quantile(0.5), "float32 or float64"),
        (lambda x: x.long().histc(), "takes floats"),
        (lambda x: x.histc(0), "bins > 0"),
        (lambda x: (x * math.inf).histc(), "finite range"),
        (lambda x: (x > 0).positive(), "expected numbers"),
        (lambda x: x.diff(-1), "n of 0 at least"),
        (lambda x: x.gcd(2), "gcd takes integers"),
        (lambda x: x.polygamma(-1), "not negative"),
        (lambda x: x.hsplit(2), "no 2 equal parts"),
        (lambda x: x[0].vsplit(1), "2 axes at least"),
        (lambda x: x.masked_scatter(x > -99, x[0]), "15 elements for it"),
        (lambda x: hf.combinations(x), "a vector"),
        (lambda x: hf.vander(x), "a vector"),
        (lambda x: hf.block_diag(x[None]), "matrices at most"),
        (lambda x: hf.trapezoid(x, x, dx=1), "one of x and dx"),
        (lambda x: hf.hann_window(-1), "not negative"),
        (lambda x: hf.repeat_interleave(x), "integers along one axis"),
    ],
)
def test_errors(fails, says):
    with pytest.raises(UsageError, match=says):
        fails(hf.tensor(X))


@pytest.mark.parametrize(
    "fails",
    [
        lambda x: x[:2].cross(x[:2]), lambda x: x[None].cov(), lambda x: hf.cdist(x, x.T),
        lambda x: x.cov(aweights=x[0, :2]), lambda x: hf.broadcast_shapes((2,), (3,)),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit(fails):
    with pytest.raises(ShapeError):
        fails(hf.tensor(X))
