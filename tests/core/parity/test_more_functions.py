"""Quantiles, special functions, grids, blocks, keywords and the like beside PyTorch's."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast as hf

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

NAN, INF = float("nan"), float("inf")


def beside(run, *arrays, tolerance=1e-5):
    """Compare `run(library, *tensors)`: values, dtypes and gradients."""
    both(lambda *t: run(hf, *t), lambda *t: run(torch, *t), *arrays, tolerance=tolerance)


def same(run, *arrays):
    """Compare the values, NaN included, and the dtypes of what may be a tuple."""
    mine = run(hf, *(hf.tensor(a) for a in arrays))
    other = run(torch, *(torch.tensor(a) for a in arrays))
    pairs = [(mine, other)] if isinstance(mine, hf.Tensor) else zip(mine, other, strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == np.dtype(str(theirs.dtype).removeprefix("torch."))
        assert ours.shape == tuple(theirs.shape)
        assert np.allclose(ours.array, theirs.numpy(), rtol=1e-5, atol=1e-6, equal_nan=True)


def ties(*shape, seed=0):
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def holes(*shape, seed=0):
    x = normal(*shape, seed=seed)
    x[np.random.default_rng(seed + 1).random(shape) < 0.3] = NAN
    return x


OF_ONE = {
    "diff": lambda m, x: m.diff(x),
    "diff along an axis, twice": lambda m, x: x.diff(n=2, dim=0),
    "diff with more": lambda m, x: m.diff(x, prepend=x[:, :1], append=x[:, :2]),
    "diff of more than there are": lambda m, x: x.diff(9),
    "quantile": lambda m, x: m.quantile(x, 0.3),
    "quantiles": lambda m, x: m.quantile(x, m.tensor([0.0, 0.25, 0.9, 1.0])),
    "quantile of an axis": lambda m, x: x.quantile(0.7, dim=1),
    "quantile of one, kept": lambda m, x: x.quantile(0.7, 0, keepdim=True),
    "quantiles of an axis": lambda m, x: x.quantile(m.tensor([0.2, 0.5]), dim=0),
    "quantiles of one, kept": lambda m, x: x.quantile(m.tensor([0.2, 0.5]), -1, True),
    "quantile, kept": lambda m, x: x.quantile(m.tensor([0.2]), keepdim=True),
    "quantile below": lambda m, x: m.quantile(x, 0.3, 1, interpolation="lower"),
    "quantile above": lambda m, x: m.quantile(x, 0.3, 1, interpolation="higher"),
    "quantile at": lambda m, x: m.quantile(x, 0.3, 1, interpolation="nearest"),
    "quantile between": lambda m, x: m.quantile(x, 0.3, 1, interpolation="midpoint"),
    "nanquantile": lambda m, x: m.nanquantile(x, 0.4, dim=0),
    "median": lambda m, x: m.median(x),
    "nanmedian": lambda m, x: x.nanmedian(),
    "nanmedian of an axis": lambda m, x: x.nanmedian(1)[0],
    "cummax": lambda m, x: m.cummax(x, 0)[0],
    "cummin": lambda m, x: x.cummin(dim=1).values,
    "mode": lambda m, x: m.mode(x)[0],
    "mode of an axis": lambda m, x: x.mode(0, keepdim=True).values,
    "cov": lambda m, x: m.cov(x),
    "cov of a population": lambda m, x: x.cov(correction=0),
    "cov of one": lambda m, x: x[0].cov(),
    "corrcoef": lambda m, x: m.corrcoef(x[:2]),
    "corrcoef of one": lambda m, x: x[0].corrcoef(),
    "diagflat": lambda m, x: m.diagflat(x, 1),
    "combinations": lambda m, x: m.combinations(x[0]),
    "combinations of three": lambda m, x: m.combinations(x[0], r=3, with_replacement=True),
    "trapezoid": lambda m, x: m.trapezoid(x),
    "trapz by steps": lambda m, x: m.trapz(x, dx=0.5, dim=0),
    "trapezoid at places": lambda m, x: m.trapezoid(x, x[0].cumsum(0)),
    "trapezoid at all places": lambda m, x: m.trapezoid(x, x.cumsum(0), dim=0),
    "deg2rad": lambda m, x: m.deg2rad(x),
    "rad2deg": lambda m, x: x.rad2deg(),
    "float_power": lambda m, x: m.float_power(x, 2).sum(0).float(),
    "sinc": lambda m, x: m.sinc(x),
    "positive": lambda m, x: m.positive(x) * 2,
    "rsub": lambda m, x: m.rsub(x, 3, alpha=2),
    "hsplit": lambda m, x: m.hsplit(x, [1, 3])[1],
    "vsplit": lambda m, x: x.vsplit(3)[1],
    "dsplit": lambda m, x: m.dsplit(x.reshape(3, 1, 5), [2])[1],
    "atleast_1d": lambda m, x: m.atleast_1d(x[0, 0]),
    "atleast_2d": lambda m, x: m.atleast_2d(x[0], x[0, 0])[0],
    "atleast_3d": lambda m, x: m.atleast_3d(x),
    "atleast_3d of a vector": lambda m, x: m.atleast_3d((x[0], x[0, 0]))[0],
    "clone": lambda m, x: m.clone(x),
    "topk of a number": lambda m, x: x[0, 0].topk(1)[0],
    "sort of a number": lambda m, x: x[0, 0].sort().values,
    "flip of a number": lambda m, x: x[0, 0].flip(0),
    "softmax of a number": lambda m, x: x[0, 0].softmax(0),
    "log_softmax of a number": lambda m, x: m.log_softmax(x[0, 0], -1),
    "kthvalue of a number": lambda m, x: x[0, 0].kthvalue(1).values,
    "pow by name": lambda m, x: x.pow(exponent=2),
    "repeats of rows": lambda m, x: x.repeat_interleave(m.tensor([0, 2, 1]), dim=0),
}

BY_NAME = {
    "sum": lambda m, x: m.sum(input=x, dim=1),
    "softmax": lambda m, x: m.softmax(input=x, dim=1),
    "clamp": lambda m, x: m.clamp(input=x, min=-0.5, max=0.5),
    "topk": lambda m, x: m.topk(input=x, k=2)[0],
    "sort": lambda m, x: m.sort(input=x, dim=0)[0],
    "gather": lambda m, x: m.gather(input=x, dim=0, index=m.tensor([[0, 2], [1, 0]])),
    "cumsum": lambda m, x: m.cumsum(input=x, dim=1),
    "reshape": lambda m, x: m.reshape(input=x, shape=(5, 3)),
    "transpose": lambda m, x: m.transpose(input=x, dim0=0, dim1=1),
    "unsqueeze": lambda m, x: m.unsqueeze(input=x, dim=1),
    "flatten": lambda m, x: m.flatten(input=x, start_dim=0),
    "tril": lambda m, x: m.tril(input=x, diagonal=1),
    "matmul": lambda m, x: m.matmul(input=x, other=x.T),
    "add": lambda m, x: m.add(input=x, other=x, alpha=2),
    "mul": lambda m, x: m.mul(input=x, other=x),
    "div": lambda m, x: m.div(input=x, other=x + 9),
    "maximum": lambda m, x: m.maximum(input=x, other=x * 2),
    "lerp": lambda m, x: m.lerp(input=x, end=x * 2, weight=0.3),
    "pow": lambda m, x: m.pow(input=x, exponent=3),
    "exp": lambda m, x: m.exp(input=x),
    "where": lambda m, x: m.where(condition=x > 0, input=x, other=x * 2),
    "split": lambda m, x: m.split(tensor=x, split_size_or_sections=2, dim=1)[1],
    "max": lambda m, x: m.max(input=x, other=x * x),
    "stack": lambda m, x: m.stack(tensors=[x, x], dim=0),
}


@pytest.mark.parametrize("name", OF_ONE)
@pytest.mark.parametrize("make", [normal, ties])
def test_of_one(name, make):
    if make is ties and ("corrcoef" in name or ("quantile" in name) or "sort" in name):
        return  # equal ones share the gradient in no defined way
    beside(OF_ONE[name], make(3, 5, seed=4), tolerance=5e-5)


@pytest.mark.parametrize("name", BY_NAME)
def test_first_arguments_have_pytorchs_names(name):
    beside(BY_NAME[name], normal(3, 5))


PAIRS = {
    "fmax": lambda m, x, y: m.fmax(x, y),
    "fmin": lambda m, x, y: x.fmin(y),
    "logaddexp": lambda m, x, y: m.logaddexp(x, y),
    "logaddexp2": lambda m, x, y: m.logaddexp2(x, y),
    "hypot": lambda m, x, y: m.hypot(x, y + 0.25),
    "copysign": lambda m, x, y: m.copysign(x, y),
    "copysign of a number": lambda m, x, y: (x + y).copysign(-2.0),
    "xlogy": lambda m, x, y: m.xlogy(x, y.abs() + 0.5),
    "xlogy of numbers": lambda m, x, y: m.xlogy(x, 3.0) + m.xlogy(2.0, y.abs() + 0.5),
    "float_power": lambda m, x, y: m.float_power(x.abs() + 0.5, y).float(),
    "kron": lambda m, x, y: m.kron(x, y),
    "cartesian_prod": lambda m, x, y: m.cartesian_prod(x[0], y[0], x[1]),
    "cartesian_prod of one": lambda m, x, y: m.cartesian_prod(x[0] + y[0]),
    "block_diag": lambda m, x, y: m.block_diag(x, y[0], x[0, 0], y),
    "vdot": lambda m, x, y: m.vdot(x[0], y[0]),
    "cdist": lambda m, x, y: m.cdist(x, y),
    "cdist of another norm": lambda m, x, y: m.cdist(x, y + 0.1, p=1.0),
    "cdist of a third": lambda m, x, y: m.cdist(x[None], y[None] + 0.1, 3.0),
    "cross": lambda m, x, y: m.cross(x[:, :3], y[:1, :3], dim=1),
    "cross of the first of three": lambda m, x, y: x[:3].cross(y[:3], dim=0),
    "masked_scatter": lambda m, x, y: x.masked_scatter(x > 0, y),
    "masked_scatter of rows": lambda m, x, y: x.masked_scatter(x[:1] > 0, y),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("make", [normal, ties])
def test_pairs(name, make):
    if make is ties and name.startswith("cdist"):
        return
    beside(PAIRS[name], make(4, 5, seed=1), make(4, 5, seed=2), tolerance=5e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_gamma(name, dtype):
    x = np.concatenate([np.linspace(0.05, 30, 99), -np.linspace(0.05, 9.93, 60)]).astype(dtype)
    tolerance = 2e-4 if dtype == np.float32 else 1e-8
    beside(lambda m, x: getattr(m, name)(x), x, tolerance=tolerance)
    beside(lambda m, x: m.polygamma(2, x) + x.polygamma(1), x[:99], tolerance=1e-4)


def test_gamma_where_it_ends():
    x = np.array([0.0, -0.0, -1, -2, INF, NAN, 1, 2, 1e306, 1e-300])
    same(lambda m, x: (m.lgamma(x), m.digamma(x)), x)
    same(lambda m, x: (m.lgamma(x), m.digamma(x)), np.array([1, 5]))


VALUES = {
    "mode": lambda m, x: m.mode(x),
    "mode of the first": lambda m, x: x.mode(0),
    "cummax": lambda m, x: m.cummax(x, 1),
    "cummin": lambda m, x: m.cummin(x, 0),
    "median": lambda m, x: x.median(1),
    "nanmedian": lambda m, x: (x.nanmedian(), *x.nanmedian(1)),
    "quantile": lambda m, x: x.quantile(0.3, 1),
    "nanquantile": lambda m, x: x.nanquantile(m.tensor([0.3, 0.9]), 1),
    "nanquantile of all": lambda m, x: x.nanquantile(0.2, interpolation="lower"),
    "fmax": lambda m, x: m.fmax(x, x.flip(0)),
    "fmin": lambda m, x: m.fmin(x, x.flip(0)),
    "heaviside": lambda m, x: m.heaviside(x, m.tensor(0.5)),
    "signbit": lambda m, x: m.signbit(x),
    "isin": lambda m, x: m.isin(x, m.tensor([1.0, 2.0])),
    "isin not": lambda m, x: m.isin(x, 1.0, invert=True),
    "xlogy": lambda m, x: m.xlogy(x, x.flip(1)),
    "logaddexp": lambda m, x: m.logaddexp(x, m.where(x > 0, x, -INF)),
    "sinc": lambda m, x: m.sinc(x),
    "sgn": lambda m, x: m.sgn(x),
    "vander": lambda m, x: m.vander(x[0]),
    "vander, increasing": lambda m, x: m.vander(x[0], N=3, increasing=True),
    "vander of ones": lambda m, x: (m.vander(x[0], 1), m.vander(x[0], N=0)),
    "nanmean": lambda m, x: x.nanmean(1),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_with_ties_and_nan(name):
    same(VALUES[name], ties(4, 9))
    if name != "mode" and name != "mode of the first":
        same(VALUES[name], np.where(np.isnan(holes(4, 9)), NAN, ties(4, 9)).astype(np.float32))


def test_histograms():
    x = np.append(ties(40), [0.4, 1.3]).astype(np.float32)
    for options in ({}, {"bins": 4}, {"bins": 5, "min": -1, "max": 1}):
        same(lambda m, x, options=options: m.histc(x, **options), x)
    same(lambda m, x: x.histc(3), np.ones(4, np.float32))


WHOLE = {
    "bitwise_and": lambda m, x, y: m.bitwise_and(x, y),
    "bitwise_or": lambda m, x, y: x.bitwise_or(y),
    "bitwise_xor": lambda m, x, y: m.bitwise_xor(x, 5),
    "bitwise_not": lambda m, x, y: m.bitwise_not(x),
    "left": lambda m, x, y: m.bitwise_left_shift(x, y.abs()),
    "right": lambda m, x, y: m.bitwise_right_shift(x, 1),
    "gcd": lambda m, x, y: m.gcd(x, y),
    "lcm": lambda m, x, y: x.lcm(y),
    "diff": lambda m, x, y: (m.diff(x), m.diff(x > 0)),
    "isin": lambda m, x, y: (m.isin(x, y[:2]), m.isin(2, y)),
    "signbit": lambda m, x, y: m.signbit(x),
    "float_power": lambda m, x, y: m.float_power(x, 2),
    "deg2rad": lambda m, x, y: m.deg2rad(x),
    "hypot in float": lambda m, x, y: m.copysign(x, -1),
    "sinc": lambda m, x, y: m.sinc(x),
    "cov": lambda m, x, y: m.stack([x, y]).cov(),
    "sum": lambda m, x, y: ((x > 0).sum(dtype=m.int32), x.sum(0, dtype=m.int16)),
    "prod": lambda m, x, y: (x.prod(dtype=m.uint8), (x > 0).prod(dtype=m.float32)),
    "cumsum": lambda m, x, y: (x.cumsum(0, dtype=m.int32), x.cumprod(0, dtype=m.int32)),
    "where": lambda m, x, y: m.where(x > y),
    "repeats": lambda m, x, y: m.repeat_interleave(y.abs()),
    "mode": lambda m, x, y: m.mode(x),
    "cummax": lambda m, x, y: m.cummax(x, 0),
    "combinations": lambda m, x, y: (m.combinations(x), m.combinations(x, 0)),
    "cartesian_prod": lambda m, x, y: m.cartesian_prod(x, y),
    "block_diag": lambda m, x, y: m.block_diag(x, m.stack([x, y])),
    "argsort of a number": lambda m, x, y: (x[0].argsort(), *x[0].mode(), *x[0].cummax(0)),
    "positive": lambda m, x, y: m.positive(x),
    "rsub": lambda m, x, y: m.rsub(x, y),
    "kron": lambda m, x, y: m.kron(x, m.stack([x, y])),
    "fmax": lambda m, x, y: m.fmax(x, y),
}


@pytest.mark.parametrize("name", WHOLE)
def test_integers(name):
    x, y = (np.random.default_rng(seed).integers(-9, 10, 7) for seed in (1, 2))
    same(WHOLE[name], x, y)


@pytest.mark.parametrize("weights", ["fweights", "aweights", "both"])
def test_weighed_covariances(weights):
    def run(m, x, w):
        given = {"aweights": w.abs() + 0.5, "fweights": m.tensor([1, 2, 3, 1, 2])}
        return x.cov(**given) if weights == "both" else x.cov(**{weights: given[weights]})

    beside(run, normal(3, 5), normal(5, seed=2), tolerance=5e-5)


def test_quantiles_are_differentiated_by_place():
    beside(lambda m, x, q: x.quantile(q, dim=1), normal(3, 5), np.float32([0.2, 0.6]))


@pytest.mark.parametrize("length", [0, 1, 2, 7])
@pytest.mark.parametrize("periodic", [True, False])
def test_windows(length, periodic):
    same(lambda m: (m.hann_window(length, periodic), m.hamming_window(length, periodic)))
    same(lambda m: m.hann_window(length, periodic, dtype=m.float64))


def test_shapes_and_sizes():
    assert hf.broadcast_shapes((3, 1), (4,), 4) == tuple(torch.broadcast_shapes((3, 1), (4,), 4))
    for m in (hf, torch):
        x = m.zeros(3, 4, dtype=m.float64).T
        assert (x.stride(), x.stride(0)) == ((1, 4), 1)
        assert (x.element_size(), x.itemsize, x.nbytes) == (8, 8, 96)
        assert (x.nelement(), m.numel(x), x.ndimension()) == (12, 12, 2)
        assert m.is_tensor(x)
        assert m.is_floating_point(x)
        assert not m.zeros(2).long().is_floating_point()
        assert not m.detach(m.ones(2, requires_grad=True)).requires_grad
