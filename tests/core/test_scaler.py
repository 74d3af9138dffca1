"""The loss scaler: what it scales, what it skips, and how its scale moves."""

import json

import numpy as np
import pytest

from holdfast import core, optim
from holdfast.core.nn.clip import clip_grad_norm_
from holdfast.core.scaler import GradScaler
from holdfast.errors import UsageError


def made(dtype=np.float32, **options):
    p = core.Parameter(np.ones(4, dtype))
    return p, optim.SGD([p], lr=0.25), GradScaler("cpu", **{"init_scale": 8.0, **options})


def step(p, opt, scaler, factor=1.0):
    opt.zero_grad()
    with np.errstate(all="ignore"):
        scaler.scale((p * factor).sum()).backward()
    found = scaler.step(opt)
    scaler.update()
    return found


def test_the_step_is_that_of_the_plain_loss():
    p, opt, scaler = made()
    opt.zero_grad()
    scaler.scale(p.sum()).backward()
    assert p.grad.tolist() == [8.0] * 4
    scaler.unscale_(opt)
    assert p.grad.tolist() == [1.0] * 4
    assert clip_grad_norm_([p], 1.0).item() == 2.0
    scaler.step(opt)
    scaler.update()
    assert np.allclose(p.array, 1 - 0.25 * 0.5)


def test_steps_that_overflow_are_skipped_and_the_scale_follows():
    p, opt, scaler = made(growth_interval=2, growth_factor=4.0)
    step(p, opt, scaler)
    assert scaler.get_scale() == 8
    for bad in (np.inf, np.nan, -np.inf):
        step(p, opt, scaler, bad)
    assert scaler.get_scale() == 1
    assert p.tolist() == [0.75] * 4
    step(p, opt, scaler)
    step(p, opt, scaler)
    assert scaler.get_scale() == 4
    assert p.tolist() == [0.25] * 4
    scaler.update(512.0)
    assert scaler.get_scale() == 512


def test_one_of_two_optimizers_may_skip():
    p, q = core.Parameter(np.ones(2)), core.Parameter(np.ones(2))
    core.Arena([p, q])
    one, two = optim.SGD([p], lr=0.5), optim.SGD([q], lr=0.5)
    scaler = GradScaler(init_scale=4.0)
    with np.errstate(all="ignore"):
        loss, other = scaler.scale([p.sum(), (q * np.inf).sum()])
        (loss + other).backward()
    scaler.step(one)
    scaler.step(two)
    scaler.update()
    assert p.tolist() == [0.5, 0.5]
    assert q.tolist() == [1, 1]
    assert scaler.get_scale() == 2


def test_sums_that_all_ranks_read_are_left_as_they_are():
    p, opt, scaler = made()
    sums = np.full(16, 4.0, np.float32)
    sums.flags.writeable = False
    opt.arena.rehome(sums=sums)
    opt.arena.publish()
    scaler.step(opt)
    scaler.update()
    assert (sums == 4).all()
    assert p.tolist() == [1 - 0.25 * 0.5] * 4


def test_a_scale_stays_finite():
    _, opt, scaler = made(init_scale=3e38, growth_interval=1)
    opt.parameters[0].grad = core.ones(4)
    scaler.step(opt)
    scaler.update()
    assert scaler.get_scale() == 3e38


def test_its_state_is_json():
    p, opt, scaler = made(growth_interval=3)
    step(p, opt, scaler)
    other = GradScaler()
    other.load_state_dict(json.loads(json.dumps(scaler.state_dict())))
    assert other.state_dict() == scaler.state_dict()
    assert other.state_dict()["_growth_tracker"] == 1
    assert other.get_growth_interval() == 3
    with pytest.raises(UsageError, match="is empty"):
        other.load_state_dict({})


def test_disabled_it_does_nothing():
    p, opt, scaler = made(enabled=False)
    assert not scaler.is_enabled()
    assert scaler.get_scale() == 1
    assert scaler.state_dict() == {}
    scaler.load_state_dict({})
    scaler.unscale_(opt)
    step(p, opt, scaler)
    assert p.tolist() == [0.75] * 4


def test_settings_can_be_changed():
    scaler = GradScaler()
    for name, value in (("growth_factor", 3.0), ("backoff_factor", 0.1), ("growth_interval", 7)):
        getattr(scaler, f"set_{name}")(value)
        assert getattr(scaler, f"get_{name}")() == value


def test_wrong_use_is_refused():
    _, opt, scaler = made()
    opt.parameters[0].grad = core.ones(4)
    with pytest.raises(UsageError, match="comes after step"):
        scaler.update()
    scaler.unscale_(opt)
    with pytest.raises(UsageError, match="unscale_ was called already"):
        scaler.unscale_(opt)
    scaler.step(opt)
    with pytest.raises(UsageError, match="step was called already"):
        scaler.step(opt)
    with pytest.raises(UsageError, match="takes no closure"):
        scaler.step(opt, lambda: None)
    with pytest.raises(UsageError, match="takes a tensor"):
        scaler.scale(1.0)
    with pytest.raises(UsageError, match="growth_factor is above 1"):
        GradScaler(growth_factor=1.0)
    with pytest.raises(UsageError, match="backoff_factor lies between"):
        GradScaler(backoff_factor=1.0)
    _, half, other = made(np.float16)
    half.parameters[0].grad = core.ones(4).to(np.float16)
    with pytest.raises(UsageError, match="float16 cannot be unscaled"):
        other.step(half)
