"""Normalisations: what they normalise, what they remember, layouts, dtypes, errors."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.gradcheck import check_gradients, check_second_gradients
from holdfast.core.ops import batch_norm, norm
from holdfast.core.primitive import registry
from holdfast.errors import ShapeError, UsageError

NAMES = ["layer_norm", "rms_norm", "batch_norm", "group_norm"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    """Let a block hold a few elements, so that there are many."""
    for module in (norm, batch_norm):
        monkeypatch.setitem(module.BLOCK_BYTES, "numpy", 100)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_other_primitives_compute_the_same(name, seed):
    entry = registry()[name]
    arguments, options = entry.example(seed)
    tensors = [core.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    assert np.allclose(
        entry.operation(*tensors, **options).array, entry.second(*tensors, **options).array
    )
    check_second_gradients(entry.operation, arguments, options, seed=seed)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(12))
def test_gradients_of_many_blocks(name, seed):
    entry = registry()[name]
    arguments, options = entry.example(seed)
    check_gradients(entry.operation, arguments, options, seed=seed)


@pytest.mark.parametrize("inner", [1, 70, 1100])
@pytest.mark.parametrize("room", [8 * 1024, 512 * 1024])
def test_batches_of_all_lengths(monkeypatch, inner, room):
    monkeypatch.setitem(batch_norm.BLOCK_BYTES, "numpy", room)
    x = normal(12, 3, inner) * 2 + 5
    y = F.batch_norm(core.tensor(x), None, None, training=True).array
    assert np.allclose(y.mean((0, 2)), 0, atol=1e-5)
    assert np.allclose(y.std((0, 2)), 1, atol=1e-4)

    def summed(x):
        return F.batch_norm(x, None, None, training=True)

    check_gradients(summed, (x.astype(np.float64),))


def test_a_large_mean_costs_no_precision():
    x = normal(4, 300) + 1000
    exact = x.astype(np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    assert np.allclose(F.layer_norm(core.tensor(x), 300).array, exact, atol=1e-3)
    flat = x.reshape(1, 1, -1)
    exact = (flat - flat.mean(dtype=np.float64)) / flat.std(dtype=np.float64)
    assert np.allclose(
        F.batch_norm(core.tensor(flat), None, None, None, None, True).array, exact, atol=1e-3
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes_are_kept_and_sums_are_not_rounded(name, dtype):
    x = core.Tensor((normal(6, 4) + 3).astype(dtype), requires_grad=True)
    weight = core.tensor(np.ones(4, np.float32))
    y = {
        "layer_norm": lambda: F.layer_norm(x, 4, weight),
        "rms_norm": lambda: F.rms_norm(x, 4, weight),
        "batch_norm": lambda: F.batch_norm(x, None, None, weight, training=True),
        "group_norm": lambda: F.group_norm(x, 2, weight),
    }[name]()
    y.backward(np.ones(y.shape, dtype))
    assert y.dtype == x.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (5, 4, 3)])
def test_the_layout_in_memory_is_kept(shape):
    order = (2, 1, 3, 0)[: len(shape)] if len(shape) == 4 else (1, 2, 0)
    x = np.ascontiguousarray(normal(*shape).transpose(order)).transpose(np.argsort(order))
    y = F.batch_norm(core.tensor(x), None, None, training=True)
    assert y.array.strides == core.tensor(x).array.strides
    plain = F.batch_norm(core.tensor(np.ascontiguousarray(x)), None, None, training=True)
    assert np.allclose(y.array, plain.array, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_beside_the_output_is_a_few_numbers(name):
    x = core.Tensor(normal(512, 64), requires_grad=True)
    options = {
        "layer_norm": (64,),
        "rms_norm": (64,),
        "batch_norm": (None, None, None, None, True),
        "group_norm": (2,),
    }[name]
    getattr(F, name)(x, *options)  # loads what it needs
    tracemalloc.start()
    try:
        y = getattr(F, name)(x, *options)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    numbers = 2 * 64 * 512 if name == "group_norm" else 2 * 512  # of channels, or of rows
    assert kept - y.array.nbytes < 4 * 2 * numbers + 16 * 1024


def test_running_numbers_move_towards_the_batch():
    layer, x = nn.BatchNorm1d(3), normal(8, 3) * 2 + 1
    layer(core.tensor(x))
    assert np.allclose(layer.running_mean.array, 0.1 * x.mean(0), atol=1e-6)
    assert np.allclose(layer.running_var.array, 0.9 + 0.1 * x.var(0, ddof=1), atol=1e-6)
    assert layer.num_batches_tracked.item() == 1
    before = layer.running_mean.array.copy()
    layer.eval()
    y = layer(core.tensor(x))
    assert np.array_equal(layer.running_mean.array, before)
    expected = (x - before) / np.sqrt(layer.running_var.array + 1e-5)
    assert np.allclose(y.array, expected, atol=1e-5)


def test_a_cumulative_average():
    layer = nn.BatchNorm1d(2, momentum=None)
    batches = [normal(8, 2, seed=i) + i for i in range(4)]
    for batch in batches:
        layer(core.tensor(batch))
    means = np.mean([b.mean(0) for b in batches], axis=0)
    assert np.allclose(layer.running_mean.array, means, atol=1e-6)
    layer.reset_running_stats()
    assert layer.running_mean.tolist() == [0, 0]
    assert layer.running_var.tolist() == [1, 1]
    assert layer.num_batches_tracked.item() == 0


def test_running_numbers_are_state_and_travel():
    layer = nn.BatchNorm2d(2)
    layer(core.tensor(normal(3, 2, 4, 4)))
    other = nn.BatchNorm2d(2)
    other.load_state_dict(layer.state_dict())
    for name, held in layer.state_dict().items():
        assert np.array_equal(held.array, other.state_dict()[name].array), name
    assert "num_batches_tracked" in layer.state_dict()
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]


def test_without_running_numbers_the_batch_is_used_in_evaluation():
    layer = nn.BatchNorm1d(3, track_running_stats=False).eval()
    assert not list(layer.buffers())
    y = layer(core.tensor(normal(8, 3) + 5)).array
    assert np.allclose(y.mean(0), 0, atol=1e-5)


def test_normalize_makes_unit_rows_and_leaves_zeros():
    x = normal(3, 5)
    x[1] = 0
    y = F.normalize(core.tensor(x)).array
    assert np.allclose(np.linalg.norm(y, axis=1), [1, 0, 1])


def test_errors_name_what_does_not_fit():
    x = core.tensor(normal(4, 6))
    with pytest.raises(ShapeError, match=r"layer_norm: expected x \(..., 5\).*x of shape \(4, 6\)"):
        F.layer_norm(x, 5)
    with pytest.raises(ShapeError, match=r"layer_norm: .*weight of shape \(4,\)"):
        F.layer_norm(x, 6, core.ones(4))
    with pytest.raises(ShapeError, match=r"batch_norm: .*running_mean of shape \(4,\)"):
        F.batch_norm(x, core.ones(4), core.ones(4))
    with pytest.raises(ShapeError, match="more than one value for each channel"):
        F.batch_norm(core.tensor(normal(1, 6)), None, None, training=True)
    with pytest.raises(UsageError, match="running mean and variance are expected"):
        F.batch_norm(x, None, None)
    with pytest.raises(UsageError, match="divides the 6 channels"):
        F.group_norm(x, 4)
    with pytest.raises(ShapeError, match="more than one spatial element"):
        F.instance_norm(core.tensor(normal(2, 3, 1)))
    with pytest.raises(ShapeError, match=r"BatchNorm2d: expected an input of 4 axes"):
        nn.BatchNorm2d(6)(x)
    with pytest.raises(ShapeError, match="InstanceNorm1d: expected 3 channels"):
        nn.InstanceNorm1d(3, affine=True)(core.tensor(normal(2, 4, 5)))
    with pytest.raises(ShapeError, match="local_response_norm"):
        F.local_response_norm(x, 2)
    with pytest.raises(ValueError, match="multiple of num_groups"):
        nn.GroupNorm(4, 6)


def test_what_layers_say_of_themselves():
    assert repr(nn.LayerNorm(3)) == "LayerNorm((3,), eps=1e-05, elementwise_affine=True, bias=True)"
    assert repr(nn.GroupNorm(2, 4)) == "GroupNorm(2, 4, eps=1e-05, affine=True, bias=True)"
    assert repr(nn.RMSNorm(3)) == "RMSNorm((3,), eps=None, elementwise_affine=True)"
    layer = nn.LayerNorm(3)
    layer.weight.data.fill_(5)
    layer.reset_parameters()
    assert layer.weight.tolist() == [1, 1, 1]
