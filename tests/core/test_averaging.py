"""Averages of the weights: kept over the arena, used for evaluation, and swapped in."""

import numpy as np
import pytest

from holdfast import core, nn, optim
from holdfast.core import norms
from holdfast.errors import GradientError, UsageError
from holdfast.optim.swa_utils import (
    SWALR,
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    update_bn,
)


def model():
    core.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    net.register_buffer("seen", core.zeros(2))
    return net


def change(net, step):
    with core.no_grad():
        for p in net.parameters():
            p += step
        net.seen += 1


def weights(net):
    return np.concatenate([p.array.ravel() for p in net.parameters()])


@pytest.mark.parametrize("block", [64, norms.BLOCK_BYTES])
@pytest.mark.parametrize("arena", [True, False])
def test_what_is_kept(arena, block, monkeypatch):
    monkeypatch.setattr(norms, "BLOCK_BYTES", block)
    net = model()
    if arena:
        optim.SGD(net.parameters(), lr=0.1)
    swa = AveragedModel(net)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    seen, expected = [], None
    for step in range(1, 6):
        change(net, step)
        swa.update_parameters(net)
        ema.update_parameters(net)
        seen.append(weights(net))
        expected = seen[-1] if expected is None else 0.75 * expected + 0.25 * seen[-1]
    assert np.allclose(weights(swa), np.mean(seen, axis=0), rtol=1e-5)
    assert np.allclose(weights(ema), expected, rtol=1e-5)
    assert swa.n_averaged.item() == 5
    assert swa.module.seen.tolist() == [5, 5]
    assert np.array_equal(weights(net), seen[-1])
    assert list(swa.state_dict()) == ["n_averaged", *(f"module.{n}" for n in net.state_dict())]


def test_the_averages_lie_as_the_model_s_arena_does():
    net = model()
    first, *rest = net.parameters()
    opt = optim.SGD([{"params": rest}, {"params": [first]}], lr=0.1)
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    own = first_of(averaged).arena
    assert own is not opt.arena
    assert own.slices == opt.arena.slices
    sizes = []

    def record(averages, values, count):
        sizes.extend(a.shape for a in averages)

    averaged.multi_avg_fn = record
    averaged.update_parameters(net)
    averaged.update_parameters(net)
    assert sizes == [opt.arena.weights.shape]


def first_of(module):
    return next(module.parameters())


@pytest.mark.parametrize("use_buffers", [False, True])
def test_swapping_in_and_out(use_buffers):
    net = model()
    opt = optim.SGD(net.parameters(), lr=0.1)
    averaged = AveragedModel(net, avg_fn=get_swa_avg_fn(), use_buffers=use_buffers)
    averaged.update_parameters(net)
    change(net, 2)
    averaged.update_parameters(net)
    x = core.ones(4, 5)
    now, mean = net(x).detach().array.copy(), averaged(x).detach().array.copy()
    assert not np.allclose(now, mean)
    assert net.seen.tolist() == [1, 1]
    memory = first_of(net).array
    with averaged.swapped(net):
        assert np.array_equal(net(x).detach().array, mean)
        assert np.array_equal(averaged(x).detach().array, now)
        assert net.seen.tolist() == ([0.5, 0.5] if use_buffers else [1, 1])
    assert np.array_equal(net(x).detach().array, now)
    assert np.array_equal(averaged(x).detach().array, mean)
    assert first_of(net).array is memory
    assert np.shares_memory(memory, opt.arena.weights)
    with pytest.raises(ArithmeticError), averaged.swapped(net):
        raise ArithmeticError
    assert np.array_equal(net(x).detach().array, now)


def test_a_graph_from_before_is_refused():
    net = model()
    averaged = AveragedModel(net)
    loss = net(core.ones(4, 5)).sum()
    with averaged.swapped(net):
        pass
    with pytest.raises(GradientError, match="changed in place"):
        loss.backward()


def test_a_state_is_taken_up():
    net = model()
    averaged = AveragedModel(net)
    for step in (1, 2):
        change(net, step)
        averaged.update_parameters(net)
    other = AveragedModel(model())
    other.load_state_dict(averaged.state_dict())
    change(net, 3)
    averaged.update_parameters(net)
    other.update_parameters(net)
    assert np.array_equal(weights(averaged), weights(other))


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="avg_fn or multi_avg_fn, not both"):
        AveragedModel(model(), avg_fn=get_swa_avg_fn(), multi_avg_fn=get_ema_multi_avg_fn())
    with pytest.raises(UsageError, match="decay lies from 0 to 1; found 2"):
        get_ema_multi_avg_fn(2)
    opt = optim.SGD(model().parameters(), lr=0.1)
    with pytest.raises(UsageError, match="anneal_epochs is a number from 0 up"):
        SWALR(opt, 0.1, anneal_epochs=-1)


def test_statistics_are_computed_anew():
    core.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU())
    batches = [core.randn(8, 5) for _ in range(3)]
    outputs = [net[0](x).detach().array for x in batches]
    net.eval()
    update_bn([(x, None) for x in batches], net)
    assert not net.training
    assert net[1].momentum == 0.1
    assert np.allclose(
        net[1].running_mean.array, np.mean([y.mean(0) for y in outputs], 0), atol=1e-6
    )
    variance = np.mean([y.var(0, ddof=1) for y in outputs], 0)
    assert np.allclose(net[1].running_var.array, variance, rtol=1e-5)
    plain = nn.Linear(5, 4)
    update_bn(iter([1 / 0 for _ in ()]), plain)  # nothing to compute: not even asked for data
