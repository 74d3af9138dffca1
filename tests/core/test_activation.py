"""Activations, softmax and dropout: formulas, accuracy, randomness, layers, errors."""

import math

import numpy as np
import pytest

from holdfast import core, nn
from holdfast.core.nn import functional as F
from holdfast.core.ops import gelu
from holdfast.errors import ShapeError, UsageError


def normal(x):
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in np.ravel(x)]).reshape(np.shape(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gelu_is_exact_in_every_block(dtype):
    exact = 1e-6 if dtype == np.float32 else 1e-14
    x = np.linspace(-9, 9, gelu.BLOCK + 77).astype(dtype)
    leaf = core.tensor(x, requires_grad=True)
    out = F.gelu(leaf)
    wide = x.astype(np.float64)
    assert np.abs(out.array - wide * normal(wide)).max() < exact
    out.sum().backward()
    slope = normal(wide) + wide * np.exp(-wide * wide / 2) / math.sqrt(2 * math.pi)
    assert np.abs(leaf.grad.array - slope).max() < exact
    with core.no_grad():
        assert np.array_equal(F.gelu(leaf).array, out.array)
    again = F.gelu(core.Tensor(x[::-3])).array  # by NumPy's functions, as it is not contiguous
    assert np.abs(again - out.array[::-3]).max() < exact
    assert F.gelu(core.tensor(1.0)).shape == ()
    assert F.gelu(core.zeros(0, 3)).shape == (0, 3)


def test_gelu_by_tanh():
    x = np.linspace(-4, 4, 101)
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    assert np.allclose(F.gelu(core.tensor(x), approximate="tanh").array, 0.5 * x * (1 + t))
    with pytest.raises(UsageError, match="'none' or 'tanh'; found 'sigmoid'"):
        F.gelu(core.tensor(x), approximate="sigmoid")


def test_formulas():
    x = np.array([-5.0, -1.0, -0.2, 0.0, 0.3, 1.0, 7.0])
    t, sigmoid = core.tensor(x), 1 / (1 + np.exp(-x))
    softplus = np.log1p(np.exp(x))
    expected = {
        "relu6": np.clip(x, 0, 6), "leaky_relu": np.where(x > 0, x, 0.01 * x),
        "elu": np.where(x > 0, x, np.expm1(x)), "silu": x * sigmoid, "mish": x * np.tanh(softplus),
        "softplus": softplus, "softsign": x / (1 + abs(x)), "hardtanh": np.clip(x, -1, 1),
        "hardsigmoid": np.clip(x / 6 + 0.5, 0, 1), "hardswish": x * np.clip(x / 6 + 0.5, 0, 1),
        "logsigmoid": np.log(sigmoid), "tanhshrink": x - np.tanh(x),
        "softshrink": np.sign(x) * np.maximum(abs(x) - 0.5, 0),
        "hardshrink": np.where(abs(x) > 0.5, x, 0), "celu": np.where(x > 0, x, np.expm1(x)),
    }  # fmt: skip
    for name, value in expected.items():
        assert np.allclose(getattr(F, name)(t).array, value), name
    assert np.allclose(F.threshold(t, 0.5, -2).array, np.where(x > 0.5, x, -2))
    assert np.allclose(F.glu(core.tensor(x[:6])).array, x[:3] * sigmoid[3:6])
    assert F.leaky_relu(t, -0.5)[0].item() == 2.5
    extreme = core.tensor([-1000.0, 1000.0])
    assert F.softplus(extreme).tolist() == [0.0, 1000.0]
    assert F.logsigmoid(extreme).tolist() == [-1000.0, 0.0]
    assert F.mish(extreme).tolist() == [0.0, 1000.0]


def test_softmax_is_stable_and_takes_any_axis():
    x = core.tensor([[1000.0, 1001.0], [-1000.0, -1000.0]])
    for dim in (0, 1, -1, -2):
        assert np.allclose(F.softmax(x, dim).sum(dim).array, 1)
        assert np.allclose(F.log_softmax(x, dim).exp().array, F.softmax(x, dim).array)
        assert np.allclose(F.softmin(x, dim).array, F.softmax(-x, dim).array)
    assert F.softmax(x, 1, dtype=np.float64).dtype == np.float64
    with pytest.warns(UserWarning, match="softmax without dim chose axis 1"):
        F.softmax(x)
    assert nn.Softmax2d()(core.zeros(2, 4, 3, 3))[0, 0, 0, 0].item() == 0.25
    with pytest.raises(ShapeError, match="Softmax2d"):
        nn.Softmax2d()(x)


def test_gumbel_softmax_is_one_hot_with_a_soft_gradient():
    core.manual_seed(0)
    x = core.zeros(50, 4, requires_grad=True)
    hard = F.gumbel_softmax(x, hard=True)
    assert np.allclose(np.sort(hard.array, 1), [[0, 0, 0, 1]] * 50, atol=1e-6)
    (hard * core.arange(4.0)).sum().backward()
    assert np.abs(x.grad.array).min() > 0
    assert np.allclose(F.gumbel_softmax(x, tau=0.5, dim=0).sum(0).array, 1)


def test_dropout_drops_scales_and_follows_the_seed():
    core.manual_seed(0)
    x = core.ones(10_001, requires_grad=True)
    y = F.dropout(x, 0.25)
    kept = y.array != 0
    assert 0.73 < kept.mean() < 0.77
    assert np.allclose(y.array[kept], 4 / 3)
    y.sum().backward()
    assert np.array_equal(x.grad.array, y.array)
    core.manual_seed(0)
    assert np.array_equal(F.dropout(x, 0.25).array, y.array)
    assert not np.array_equal(F.dropout(x, 0.25).array, y.array)
    assert F.dropout(x, 0.25, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert F.dropout(x, 1.0).sum().item() == 0
    assert F.alpha_dropout(x, 1.0, True).sum().item() == 0
    with pytest.raises(UsageError, match="probability, 0 to 1; found 1"):
        F.dropout(x, 1.5)
    with pytest.raises(UsageError, match="probability, 0 to 1; found -0"):
        nn.Dropout(-0.5)


@pytest.mark.parametrize(
    ("name", "shape", "after"),
    [
        ("dropout1d", (40, 30, 5), 1), ("dropout1d", (900, 5), 1), ("dropout2d", (40, 30, 2, 3), 2),
        ("dropout3d", (40, 30, 2, 2, 2), 3), ("feature_alpha_dropout", (40, 30, 2, 3), 2),
    ],
)  # fmt: skip
def test_whole_channels_are_dropped(name, shape, after):
    core.manual_seed(0)
    y = getattr(F, name)(core.ones(*shape), 0.5, True).array.reshape(*shape[:-after], -1)
    assert np.ptp(y, axis=-1).max() == 0
    assert len(np.unique(y)) == 2
    with pytest.raises(ShapeError, match=f"{name}: expected .*input of shape"):
        getattr(F, name)(core.ones(3), 0.5, True)


def test_alpha_dropout_keeps_mean_and_variance():
    core.manual_seed(0)
    y = F.alpha_dropout(core.randn(200_000), 0.3, True).array
    assert abs(y.mean()) < 0.02
    assert abs(y.std() - 1) < 0.02


def test_layers_do_what_the_functions_do():
    x = core.tensor(np.linspace(-3, 3, 24, dtype=np.float32).reshape(2, 4, 3))
    for layer, function, options in (
        (nn.ReLU(inplace=True), F.relu, {}), (nn.LeakyReLU(0.2), F.leaky_relu, (0.2,)),
        (nn.GELU("tanh"), F.gelu, ("tanh",)), (nn.ELU(0.5), F.elu, (0.5,)),
        (nn.Hardtanh(-2, 1), F.hardtanh, (-2, 1)), (nn.Softplus(2), F.softplus, (2,)),
        (nn.Threshold(0.1, 7), F.threshold, (0.1, 7)), (nn.GLU(1), F.glu, (1,)),
        (nn.LogSoftmax(1), F.log_softmax, (1,)), (nn.CELU(2.0), F.celu, (2.0,)),
        (nn.RReLU().eval(), F.rrelu, {}), (nn.Softmin(0), F.softmin, (0,)),
    ):  # fmt: skip
        assert np.array_equal(layer(x).array, function(x, *options).array), layer
    assert repr(nn.LeakyReLU(0.2, inplace=True)) == "LeakyReLU(negative_slope=0.2, inplace=True)"
    assert repr(nn.GELU()) == "GELU(approximate='none')"
    assert repr(nn.Dropout2d(0.1)) == "Dropout2d(p=0.1, inplace=False)"
    slopes = nn.RReLU()(core.tensor([-1.0, -1.0, 1.0])).array
    assert slopes[2] == 1
    assert ((slopes[:2] >= -1 / 3) & (slopes[:2] <= -1 / 8)).all()
    with pytest.raises(UsageError, match="min_val < max_val"):
        nn.Hardtanh(1, -1)


def test_prelu_learns_a_slope_per_channel():
    layer = nn.PReLU(3, init=0.5)
    x = -core.ones(2, 3, 4)
    layer(x).sum().backward()
    assert layer.weight.grad.tolist() == [-8.0] * 3
    assert layer(x)[0, 0, 0].item() == -0.5
    one = nn.PReLU()
    one(x).sum().backward()
    assert one.weight.grad.tolist() == [-24.0]
    with pytest.raises(ShapeError, match=r"prelu: .*3 channels.*weight of shape \(2,\)"):
        F.prelu(x, core.ones(2))


def test_bad_options_are_refused():
    x = core.ones(3)
    with pytest.raises(ShapeError, match="glu: expected an even size"):
        F.glu(x)
    with pytest.raises(UsageError, match="at least 0; found -1"):
        F.softshrink(x, -1)
    with pytest.raises(UsageError, match="min_val < max_val; found 2 and 1"):
        F.hardtanh(x, 2, 1)
