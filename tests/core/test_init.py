"""How weights begin: the moments of what is drawn, and what holds exactly."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast import core, nn
from holdfast.core.nn import init
from holdfast.core.nn.weights import bias_of, empty
from holdfast.errors import UsageError


@pytest.fixture(autouse=True)
def _seed():
    core.manual_seed(3)


def spread(tensor):
    return tensor.array.mean(), tensor.array.std()


def about(value, tolerance=0.02):
    return pytest.approx(value, rel=tolerance, abs=tolerance)


def test_layers_begin_as_pytorchs_do():
    layer = nn.Linear(400, 300)
    bound = 1 / np.sqrt(400)
    assert np.abs(layer.weight.array).max() <= bound
    assert layer.weight.array.std() == about(bound / np.sqrt(3))
    assert np.abs(layer.bias.array).max() <= bound


def test_evenly_spread_and_normal():
    w = core.zeros(300, 400)
    assert init.uniform_(w, 2, 5) is w
    assert spread(w) == (about(3.5), about(3 / math.sqrt(12)))
    assert 2 <= w.array.min() < 2.01 < 4.99 < w.array.max() <= 5
    assert spread(init.uniform_(w)) == (about(0.5), about(1 / math.sqrt(12)))
    assert spread(init.normal_(w)) == (about(0), about(1))
    assert spread(init.normal_(w, -3, 0.5)) == (about(-3), about(0.5))


def test_a_generator_of_ones_own_and_the_one_of_all():
    first, second = core.zeros(4, 5), core.zeros(4, 5)
    for fill in (init.uniform_, init.normal_, init.trunc_normal_, init.xavier_normal_):
        fill(first, generator=np.random.default_rng(1))
        fill(second, generator=np.random.default_rng(1))
        assert np.array_equal(first.array, second.array)
    before = core.random.get_state()
    init.kaiming_uniform_(first, generator=np.random.default_rng(1))
    assert core.random.get_state() == before
    init.kaiming_uniform_(first)
    assert core.random.get_state() != before


# The deviations of truncated normal numbers: sqrt(1 - 2 b phi(b) / (2 Phi(b) - 1)) for [-b, b].
@pytest.mark.parametrize(
    ("mean", "std", "a", "b", "found_mean", "found_std"),
    [
        (0, 1, -2, 2, 0, 0.87962566),
        (0, 0.02, -2, 2, 0, 0.02),
        (0, 1, 0, 100, 0.79788456, 0.60281028),  # half of a normal
        (0, 1, 8, 100, 8.12137, 0.119594),  # the tail
        (0, 1, -100, -8, -8.12137, 0.119594),
        (5, 1, -2, 2, 1.71617, 0.26607),  # the interval is off the mean
        (0, 1, 0.5, 0.6, 0.5495, 0.02886),  # narrow
    ],
)
def test_truncated_normal(mean, std, a, b, found_mean, found_std):
    w = core.zeros(200, 300, dtype=np.float64)
    init.trunc_normal_(w, mean, std, a, b)
    assert w.array.min() >= a
    assert w.array.max() <= b
    assert w.array.mean() == pytest.approx(found_mean, abs=0.02 * found_std)
    assert w.array.std() == pytest.approx(found_std, rel=0.02)


def test_truncated_normal_in_each_stretch():
    w = core.zeros(400_000, dtype=np.float64)
    for a, b in ((-2.0, 2.0), (1.0, 3.0)):
        init.trunc_normal_(w, 0.5, 1.5, a, b)
        edges = np.linspace(a, b, 9)
        phi = [math.erf((x - 0.5) / 1.5 / math.sqrt(2)) for x in edges]
        expected = np.diff(phi) / (phi[-1] - phi[0])
        found = np.histogram(w.array, edges)[0] / w.numel()
        assert np.abs(found - expected).max() < 0.004


def test_constants():
    w = core.zeros(3, 5)
    assert (init.constant_(w, 2).array == 2).all()
    assert (init.ones_(w).array == 1).all()
    assert not init.zeros_(w).array.any()
    assert np.array_equal(init.eye_(w).array, np.eye(3, 5))
    with pytest.raises(UsageError, match=r"a matrix; found shape \(2,\)"):
        init.eye_(core.zeros(2))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("outputs", [2, 4, 6])
def test_dirac_passes_channels_on(groups, outputs):
    w = init.dirac_(core.zeros(outputs, 2, 3, 5), groups).array
    size = outputs // groups
    for out in range(outputs):
        expected = np.zeros((2, 3, 5))
        if out % size < 2:
            expected[out % size, 1, 2] = 1
        assert np.array_equal(w[out], expected)


def test_bad_shapes_and_options_are_refused():
    with pytest.raises(UsageError, match=r"one to three axes; found shape \(2, 2\)"):
        init.dirac_(core.zeros(2, 2))
    with pytest.raises(UsageError, match="divide into the groups; found 3 channels, groups=2"):
        init.dirac_(core.zeros(3, 2, 1), 2)
    with pytest.raises(UsageError, match="two or more axes"):
        init._calculate_fan_in_and_fan_out(core.zeros(3))
    with pytest.raises(UsageError, match="two or more axes"):
        init.orthogonal_(core.zeros(3))
    with pytest.raises(UsageError, match="a matrix"):
        init.sparse_(core.zeros(3), 0.5)
    with pytest.raises(UsageError, match="unknown nonlinearity 'swish'"):
        init.calculate_gain("swish")
    with pytest.raises(UsageError, match="the slope of leaky_relu is a number; found True"):
        init.calculate_gain("leaky_relu", True)
    with pytest.raises(UsageError, match="fan_in"):
        init.kaiming_normal_(core.zeros(2, 2), mode="fan")
    with pytest.raises(UsageError, match="a < b and std > 0"):
        init.trunc_normal_(core.zeros(2), a=1, b=1)


def test_gains_and_fans():
    assert init.calculate_gain("conv_transpose2d") == init.calculate_gain("sigmoid") == 1
    assert init.calculate_gain("tanh") == 5 / 3
    assert init.calculate_gain("selu") == 0.75
    assert init.calculate_gain("leaky_relu") == math.sqrt(2 / (1 + 0.01**2))
    assert init.calculate_gain("leaky_relu", 1) == 1
    assert init._calculate_fan_in_and_fan_out(core.zeros(8, 4, 3, 3)) == (36, 72)


def test_xavier_and_kaiming():
    w = core.zeros(300, 400)
    assert spread(init.xavier_uniform_(w)) == (about(0), about(math.sqrt(2 / 700)))
    assert np.abs(w.array).max() <= math.sqrt(6 / 700)
    assert spread(init.xavier_normal_(w, 3)) == (about(0), about(3 * math.sqrt(2 / 700)))
    deep = init.kaiming_normal_(w, nonlinearity="relu").array.std()
    assert deep == about(math.sqrt(2 / 400))
    wide = init.kaiming_normal_(w, mode="fan_out", nonlinearity="tanh").array.std()
    assert wide == about(5 / 3 / math.sqrt(300))
    assert init.kaiming_uniform_(w, a=1).array.std() == about(1 / math.sqrt(400))
    nothing = core.zeros(3, 0)
    for fill in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_):
        assert fill(nothing) is nothing


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([np.float32, np.float64]),
)
def test_orthogonal(rows, columns, kernel, dtype):
    gain = 1.7
    w = init.orthogonal_(core.zeros(rows, columns, kernel, dtype=dtype), gain)
    flat = w.array.reshape(rows, -1) / gain
    product = flat @ flat.T if rows <= flat.shape[1] else flat.T @ flat
    assert np.allclose(product, np.eye(len(product)), atol=1e-6 if dtype == np.float32 else 1e-13)


def test_orthogonal_matrices_are_equally_likely():
    # Of a uniformly drawn rotation or reflection of the plane, each entry has mean 0.
    drawn = np.stack([init.orthogonal_(core.zeros(2, 2)).array for _ in range(2000)])
    assert np.abs(drawn.mean(0)).max() < 0.06
    assert abs(np.linalg.det(drawn).mean()) < 0.08


def test_sparse_zeroes_a_share_of_each_column():
    w = init.sparse_(core.zeros(25, 40), 0.3, std=2.0).array
    assert ((w == 0).sum(axis=0) == 8).all()
    assert len({tuple(column) for column in (w == 0).T}) > 30
    assert w[w != 0].std() == about(2, 0.1)


def test_parameters_are_filled_without_a_graph_and_graphs_notice():
    weight = nn.Parameter(core.zeros(3, 3))
    y = (weight * weight).sum()
    init.normal_(weight)
    assert weight.is_leaf
    assert weight.requires_grad
    with pytest.raises(Exception, match="changed in place"):
        y.backward()


@pytest.mark.parametrize("dtype", [np.float16, np.float64, core.backend.BFLOAT16])
def test_weights_of_every_dtype(dtype):
    weight = empty(30, 20, dtype=dtype)
    assert weight.dtype == dtype
    init.kaiming_uniform_(weight)
    init.trunc_normal_(weight, std=0.02)
    init.orthogonal_(weight)
    assert weight.dtype == dtype
    assert np.abs(bias_of(30, 20, dtype=dtype).array.astype(float)).max() <= 1 / math.sqrt(20)
    assert empty(2).dtype == np.float32
