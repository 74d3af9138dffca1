"""Mixed precision: products in 16 bits, sums in 32, weights in 32."""

import ml_dtypes
import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn, optim
from holdfast.core.amp import HIGHER, LOWER, autocast
from holdfast.core.primitive import registry
from holdfast.errors import UsageError


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_who_computes_in_what(dtype):
    layer = nn.Linear(8, 4)
    x = core.randn(3, 8)
    with autocast("cpu", dtype):
        y = layer(x)
        assert y.dtype == dtype
        assert y.relu().dtype == dtype
        assert y.softmax(dim=-1).dtype == np.float32
        loss = F.cross_entropy(y, core.tensor([0, 1, 2]))
        assert loss.dtype == np.float32
        with autocast("cpu", dtype, enabled=False):
            assert layer(x).dtype == np.float32
    loss.backward()
    assert layer.weight.grad.dtype == np.float32
    assert layer(x).dtype == np.float32
    plain = F.cross_entropy(layer(x), core.tensor([0, 1, 2]))
    assert np.isclose(loss.item(), plain.item(), rtol=0.02)


def test_a_network_learns_in_it():
    core.manual_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 10)).astype(np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(80):
        with autocast("cpu"):
            loss = F.cross_entropy(model(core.tensor(x)), core.tensor(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.15


def test_the_inner_one_decides_and_others_may_stand_between():
    x = core.ones(4, 4)
    with autocast("cpu"):
        with autocast("cpu", np.float16):
            assert (x @ x).dtype == np.float16
        with autocast("cpu", enabled=False):
            with core.profile():
                assert (x @ x).dtype == np.float32
            with autocast("cpu"):
                assert (x @ x).dtype == ml_dtypes.bfloat16
            assert (x @ x).dtype == np.float32
        assert (x @ x).dtype == ml_dtypes.bfloat16


def test_a_checkpointed_part_is_run_again_in_it():
    layer, x, found = nn.Linear(8, 8), core.randn(4, 8, requires_grad=True), []
    for run in (layer, lambda x: core.checkpoint(layer, x)):
        with autocast("cpu"):
            out = run(x)
        out.float().sum().backward()
        found.append(layer.weight.grad.array.copy())
        layer.zero_grad()
    assert np.array_equal(*found)


def test_the_lists_name_primitives():
    assert set(registry()) >= LOWER | HIGHER
    assert not LOWER & HIGHER


def test_other_dtypes_are_refused():
    with pytest.raises(UsageError, match="bfloat16 or float16"), autocast("cpu", np.float64):
        pass
