"""The compiled loops beside NumPy's functions, and when they are used."""

import math

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, optim
from holdfast.core.kernels import FROM, at_all_sizes, loops_for
from holdfast.core.ops import gelu, norm, softmax

LARGE = (FROM // 64 + 1, 64)


def normal(*shape, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@pytest.fixture
def by_numpy(monkeypatch):
    """Let NumPy's functions compute, whatever the size."""

    def switch():
        for module in (gelu, norm, softmax):
            monkeypatch.setattr(module, "loops_for", lambda *arrays: None)

    return switch


def test_they_serve_large_float32_arrays_as_they_lie_in_memory():
    x = normal(*LARGE)
    assert loops_for(x) is not None
    assert loops_for(x, None, normal(3)) is not None
    assert loops_for(x[:100]) is None
    with at_all_sizes():
        assert loops_for(x[:1]) is not None
        assert loops_for(x[:0]) is None
    assert loops_for(x[:100]) is None
    assert loops_for(x.astype(np.float64)) is None
    assert loops_for(x.T) is None
    assert loops_for(x, x[:, ::2]) is None


@pytest.mark.parametrize(
    "function",
    [
        F.gelu,
        lambda x: F.softmax(x, dim=-1),
        lambda x: F.layer_norm(x, (64,)),
        lambda x: F.layer_norm(x, (64,), core.tensor(normal(64, seed=2)), core.tensor(normal(64))),
    ],
    ids=["gelu", "softmax", "layer_norm", "affine layer_norm"],
)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_values_and_gradients_are_numpys(function, scale, by_numpy):
    g = normal(*LARGE, seed=1)
    results = []
    for switch in (lambda: None, by_numpy):
        switch()
        x = core.tensor(normal(*LARGE, scale=scale), requires_grad=True)
        y = function(x)
        y.backward(g)
        results.append((y.array, x.grad.array))
    for found, expected in zip(*results, strict=True):
        assert np.allclose(found, expected, rtol=2e-5, atol=4e-6)


def test_a_cotangent_may_lie_in_any_order():
    x = core.tensor(normal(*LARGE), requires_grad=True)
    F.gelu(x).T.contiguous().backward(normal(*LARGE[::-1]))
    assert np.isfinite(x.grad.array).all()


def test_infinities_and_nans_go_where_they_belong():
    x = normal(*LARGE)
    x[0, :4] = np.inf, -np.inf, np.nan, 0
    y = F.gelu(core.tensor(x)).array[0, :4]
    assert y[0] == np.inf
    assert y[1] == 0 or math.isnan(y[1])  # as PyTorch: -inf * 0
    assert math.isnan(y[2])
    assert y[3] == 0
    x = normal(*LARGE)
    x[1, 5:] = -np.inf  # as masks make them
    x[2, 0] = np.nan
    p = F.softmax(core.tensor(x), dim=-1).array
    assert np.isclose(p[1, :5].sum(), 1)
    assert (p[1, 5:] == 0).all()
    assert np.isnan(p[2]).all()
    assert np.isfinite(p[0]).all()


@pytest.mark.parametrize("kind", ["Adam", "AdamW"])
def test_adam_has_numpys_bits(kind, monkeypatch):
    """All ranks of a job make their weights for themselves: they must be the same everywhere."""
    finals = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr("holdfast.core.optim.adam.loops_for", lambda *arrays: None)
        parameter = core.Parameter(normal(FROM + 77))
        optimizer = getattr(optim, kind)([parameter], lr=0.01, weight_decay=0.1)
        for step in range(5):
            optimizer.zero_grad()
            (parameter * core.tensor(normal(FROM + 77, seed=step))).sum().backward()
            optimizer.step()
        finals.append(parameter.array.copy())
    assert np.array_equal(*finals)
