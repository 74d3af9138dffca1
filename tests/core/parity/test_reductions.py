"""Sums, means, extremes, norms and running sums beside PyTorch's: values, gradients, dtypes."""

import math

import numpy as np
import pytest
from tests.core.parity.beside import both, normal
from tests.core.parity.test_elementwise import DTYPES, pair, same

from holdfast import core
from holdfast.core import functions_elementwise as functions

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

DIMS = [None, 0, -1, (0, 2), [1, -1], (0, 1, 2)]
FOLDS = ["sum", "mean", "nansum", "nanmean", "var", "std", "logsumexp", "amax", "amin", "norm"]


def fold(name, dim, keepdim):
    def run(x):
        if dim is None and name == "logsumexp":
            return x.logsumexp((0, 1, 2), keepdim)
        if dim is None:
            return getattr(x, name)()
        return getattr(x, name)(dim=dim, keepdim=keepdim)

    return run


@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("keepdim", [False, True])
def test_folds(name, dim, keepdim):
    if name == "norm" and dim == (0, 1, 2):
        dim = (0, 1)  # PyTorch's takes two at most
    run = fold(name, dim, keepdim)
    both(run, run, normal(3, 4, 5), tolerance=2e-5)


CALLS = {
    "sum of axes by position": lambda x: x.sum((0, 1), True),
    "sum by NumPy's names": lambda x: x.sum(axis=0, keepdims=True),
    "sum over no axes": lambda x: x.sum(dim=()),
    "sum in float64": lambda x: x.sum(1, dtype=x.double().dtype),
    "mean of a column": lambda x: x.mean(1, True),
    "var of a population": lambda x: x.var(1, unbiased=False),
    "var of all of a population": lambda x: x.var(False),
    "var with a correction": lambda x: x.var(dim=(0, 1), correction=2, keepdim=True),
    "var by position": lambda x: x.var(1, True, True),
    "std of a population": lambda x: x.std(dim=0, correction=0),
    "std by position": lambda x: x.std(-1, False),
    "std of equal ones": lambda x: (x * 0 + 2).std(0) + x.sum(),
    "prod": lambda x: x.prod(),
    "prod of an axis": lambda x: x.prod(1),
    "prod that keeps the axis": lambda x: x.prod(-1, keepdim=True),
    "prod with a zero": lambda x: (x * (x > -0.5)).prod(1),
    "prod of all with a zero": lambda x: (x[:, 0] * (x[:, 0] > x.amin())).prod(),
    "cumsum": lambda x: x.cumsum(1),
    "cumsum of the last": lambda x: x.cumsum(dim=-1),
    "cumprod": lambda x: x.cumprod(0),
    "cumprod with zeros": lambda x: (x * (x > -0.5)).cumprod(2),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "logcumsumexp of large ones": lambda x: (x * 100).logcumsumexp(-1),
    "logsumexp of large ones": lambda x: (x * 1000).logsumexp(1),
    "max": lambda x: x.max(),
    "max of an axis": lambda x: x.max(1).values,
    "max that keeps the axis": lambda x: x.max(0, keepdim=True)[0],
    "max's indices": lambda x: x.max(dim=2).indices,
    "min of an axis": lambda x: x.min(-1)[0],
    "min's indices": lambda x: x.min(1, True).indices,
    "max of equal ones": lambda x: (x * 0).max() + (x * 0).amax(1).sum(),
    "aminmax": lambda x: x.aminmax(dim=1).max - x.aminmax().min,
    "argmax": lambda x: x.argmax(),
    "argmax of an axis": lambda x: x.argmax(dim=1, keepdim=True),
    "argmin": lambda x: x.argmin(2),
    "median": lambda x: x.median(),
    "median of an axis": lambda x: x.median(1).values,
    "median of an even axis": lambda x: x[:, :2].median(1, keepdim=True).values,
    "median's indices": lambda x: x.median(dim=-1).indices,
    "all": lambda x: (x > -1).all(),
    "all of an axis": lambda x: (x > -1).all(1),
    "any": lambda x: (x > 2).any(),
    "any of an axis": lambda x: (x > 1).any(dim=2, keepdim=True),
    "count_nonzero": lambda x: (x > 0).count_nonzero(),
    "count_nonzero of axes": lambda x: (x > 0).count_nonzero((0, 1)),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name):
    both(
        CALLS[name] if name != "sum in float64" else lambda x: x.sum(1, dtype=np.float64),
        CALLS[name], normal(3, 5, 4), tolerance=5e-5,
    )  # fmt: skip


@pytest.mark.parametrize("p", [0, 0.5, 1, 1.5, 2, 3, 4.5, math.inf, -math.inf, "fro", None])
@pytest.mark.parametrize("dim", [None, 1, (0, 2)])
@pytest.mark.parametrize("zeros", [False, True])
def test_norm(p, dim, zeros):
    if zeros and p in (0.5, -math.inf):
        return  # there is no gradient there
    x = normal(3, 4, 2)
    if zeros:
        x[0], x[:, 1] = 0, 0
    both(lambda t: t.norm(p, dim), lambda t: t.norm(p, dim), x)
    both(lambda t: t.norm(p, 1, True), lambda t: t.norm(p, 1, True), x)


@pytest.mark.parametrize("p", [1, 2, 3.0, math.inf])
def test_dist(p):
    both(lambda a, b: a.dist(b, p), lambda a, b: a.dist(b, p), normal(3, 4), normal(4, seed=1))


@pytest.mark.parametrize("name", ["sum", "prod", "cumsum", "cumprod", "amax", "argmax", "max",
                                  "any", "all", "mean", "var", "norm", "logsumexp",
                                  "count_nonzero"])  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(name, dtype):
    mine, theirs = pair(np.array([[1.0, 3.0, 1.0], [2.0, 0.0, 1.0]]), dtype)

    def run(x):
        if name in ("cumsum", "cumprod", "logsumexp", "amax", "argmax"):
            return getattr(x, name)(1)
        return getattr(x, name)()

    try:
        expected = run(theirs)
    except (RuntimeError, NotImplementedError):
        if name in ("mean", "var"):
            with pytest.raises(Exception, match="floats"):
                run(mine)
        return  # what is refused there may work here
    if name in ("any", "all") and dtype == "uint8":
        expected = expected.bool()  # a relic of the time before booleans
    same(run(mine), expected, rtol=1e-2)


def test_16_bits_are_added_up_in_32():
    for dtype in ("float16", "bfloat16"):
        mine, theirs = pair(np.full((3, 10000), 0.1), dtype)
        for call in (lambda x: x.sum(1), lambda x: x.mean(), lambda x: x.norm(2, 1)):
            same(call(mine), call(theirs), rtol=1e-2)


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "amin", "argmax", "argmin", "nansum",
                                  "nanmean", "median", "logsumexp", "cumsum"])  # fmt: skip
def test_nan_and_infinity(name):
    x = np.array([[1, np.nan, 3], [np.inf, 1, 2], [-np.inf] * 3, [4, 1, 2]], np.float32)
    mine, theirs = (getattr(t, name)(1) for t in (core.tensor(x), torch.tensor(x)))
    if name == "median":
        mine, theirs = mine.values, theirs.values
    same(mine, theirs)


def test_spreads_of_too_few():
    x = np.ones((2, 1), np.float32)
    assert np.isnan(core.tensor(x).var(1).array).all()
    assert np.isnan(core.tensor(x).std(1).array).all()


def test_pairs_and_functions():
    x = normal(3, 4)
    mine, theirs = core.tensor(x), torch.tensor(x)
    for name in ("var_mean", "std_mean"):
        for options in (
            {},
            {"dim": 1},
            {"dim": (0, 1), "correction": 0},
            {"dim": 0, "keepdim": True},
        ):
            ours, expected = (getattr(m, name) for m in (functions, torch))
            for a, b in zip(ours(mine, **options), expected(theirs, **options), strict=True):
                same(a, b)
    same(functions.sum(mine, 1), torch.sum(theirs, 1))
    same(functions.max(mine, 1).values, torch.max(theirs, 1).values)
    same(functions.argmax(mine, dim=1), torch.argmax(theirs, dim=1))
    low, high = functions.aminmax(mine)
    assert (low.item(), high.item()) == (x.min(), x.max())


@pytest.mark.parametrize("name", ["sum", "mean", "amax", "prod", "var", "norm", "argmax", "median"])
def test_a_number_has_an_axis(name):
    x = np.float32(2.5)
    if name == "var":
        return
    mine, theirs = getattr(core.tensor(x), name), getattr(torch.tensor(x), name)
    if name == "median":
        same(mine(0).values, theirs(0).values)
    elif name != "norm":
        same(mine(0), theirs(0))
        same(mine(-1, True), theirs(-1, True))
    with pytest.raises(IndexError):
        mine(dim=1)
