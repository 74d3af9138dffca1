"""Schedules: their rates, their groups, how they resume, and what they refuse."""

import json
import math

import numpy as np
import pytest

from holdfast import core, optim
from holdfast.errors import CheckpointMismatch, UsageError
from holdfast.optim import lr_scheduler


def optimizer(*rates, kind=optim.SGD, **options):
    groups = [{"params": [core.Parameter(np.ones(1))], "lr": lr} for lr in rates]
    return kind(groups, lr=0.1, **options)


def rates(schedule, steps, of=0):
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[of])
        schedule.step()
    return found


def test_each_curve():
    def curve(name, *args, **options):
        return rates(getattr(lr_scheduler, name)(optimizer(0.8), *args, **options), 5)

    assert np.allclose(curve("StepLR", 2, gamma=0.5), [0.8, 0.8, 0.4, 0.4, 0.2])
    assert np.allclose(curve("MultiStepLR", [1, 3], gamma=0.5), [0.8, 0.4, 0.4, 0.2, 0.2])
    cosine = [0.1 + 0.35 * (1 + math.cos(math.pi * t / 4)) for t in range(5)]
    assert np.allclose(curve("CosineAnnealingLR", 4, eta_min=0.1), cosine)
    assert np.allclose(curve("LinearLR", 0.25, total_iters=3), [0.2, 0.4, 0.6, 0.8, 0.8])
    assert np.allclose(curve("ConstantLR", 0.5, 2), [0.4, 0.4, 0.8, 0.8, 0.8])
    assert np.allclose(curve("ExponentialLR", 0.5), [0.8, 0.4, 0.2, 0.1, 0.05])
    assert np.allclose(curve("PolynomialLR", 4, 2.0), [0.8, 0.45, 0.2, 0.05, 0.0])
    assert np.allclose(curve("LambdaLR", lambda n: 1 / (n + 1)), [0.8 / n for n in range(1, 6)])
    product = [0.8, 0.8, 1.6, 4.8, 19.2]
    assert np.allclose(curve("MultiplicativeLR", lambda n: n), product)
    restarts = [0.8, 0.4, 0.8, 0.8 * (1 + math.sqrt(0.5)) / 2, 0.4]
    assert np.allclose(curve("CosineAnnealingWarmRestarts", 2, T_mult=2), restarts)


@pytest.mark.parametrize(
    ("decay", "after"),
    [
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("linear", [1, 0.775, 0.55, 0.325, 0.1, 0.1]),
        ("polynomial", [1, 0.1 + 0.9 * 0.5625, 0.325, 0.1 + 0.9 * 0.0625, 0.1, 0.1]),
        ("cosine", [0.1 + 0.45 * (1 + math.cos(math.pi * t / 4)) for t in (0, 1, 2, 3, 4, 4)]),
    ],
)
def test_warm_up(decay, after):
    schedule = lr_scheduler.WarmupLR(optimizer(2.0), 3, 7, decay, start_factor=0.1, end_factor=0.1)
    assert np.allclose(rates(schedule, 9), 2 * np.array([0.1, 0.4, 0.7, *after]))
    assert rates(lr_scheduler.WarmupLR(optimizer(2.0), 0, 5, decay), 1) == [2.0]


def test_warm_up_is_what_two_schedules_make():
    whole = lr_scheduler.WarmupLR(optimizer(0.5), 10, 60, start_factor=0.1)
    opt = optimizer(0.5)
    parts = [
        lr_scheduler.LinearLR(opt, 0.1, total_iters=10),
        lr_scheduler.CosineAnnealingLR(opt, 50),
    ]
    assert np.allclose(rates(whole, 60), rates(lr_scheduler.SequentialLR(opt, parts, [10]), 60))


def test_groups_keep_their_proportion():
    opt = optimizer(0.8, 0.1)
    schedule = lr_scheduler.ExponentialLR(opt, 0.5)
    assert [group["initial_lr"] for group in opt.param_groups] == [0.8, 0.1]
    schedule.step()
    assert schedule.get_last_lr() == [0.4, 0.05] == [group["lr"] for group in opt.param_groups]
    with pytest.raises(UsageError, match="lr_lambda has 1 items, the optimizer 2 groups"):
        lr_scheduler.LambdaLR(opt, [lambda n: n])


def test_one_cycle_moves_the_momentum():
    opt = optimizer(0.1, kind=optim.Adam)
    schedule = lr_scheduler.OneCycleLR(opt, 1.0, 11, pct_start=0.5, anneal_strategy="linear")
    found = []
    for _ in range(11):
        found.append((opt.lr, *opt.param_groups[0]["betas"]))
        schedule.step()
    assert np.allclose(found[0], (0.04, 0.95, 0.999))
    assert np.argmax([lr for lr, *_ in found]) == np.argmin([b1 for _, b1, _ in found])
    assert np.allclose(found[-1], (0.04e-4, 0.95, 0.999))
    with pytest.raises(UsageError, match="made for total_steps=11; this is step 12"):
        schedule.step()


def test_a_plateau():
    opt = optimizer(1.0)
    schedule = lr_scheduler.ReduceLROnPlateau(opt, patience=1, factor=0.5, min_lr=0.2)
    found = []
    for loss in (3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1):
        schedule.step(core.tensor(float(loss)))
        found.append(opt.lr)
    assert found == [1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2]


@pytest.mark.parametrize(
    "make",
    [
        lambda opt: lr_scheduler.StepLR(opt, 2),
        lambda opt: lr_scheduler.MultiStepLR(opt, [3, 5]),
        lambda opt: lr_scheduler.WarmupLR(opt, 2, 9),
        lambda opt: lr_scheduler.OneCycleLR(opt, 1.0, 20),
        lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3, 2),
        lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0),
        lambda opt: lr_scheduler.SequentialLR(
            opt, [lr_scheduler.ConstantLR(opt), lr_scheduler.ExponentialLR(opt, 0.5)], [3]
        ),
        lambda opt: optim.swa_utils.SWALR(opt, 0.2, 5),
    ],
)
def test_schedules_resume(make):
    def step(schedule):
        if isinstance(schedule, lr_scheduler.ReduceLROnPlateau):
            schedule.step(1.0)
        else:
            schedule.step()

    opt, other_opt = optimizer(1.0, momentum=0.9), optimizer(5.0, momentum=0.9)
    schedule, other = make(opt), make(other_opt)
    fresh = json.dumps(schedule.state_dict(), allow_nan=False)
    assert isinstance(fresh, str)
    for _ in range(4):
        step(schedule)
    other.load_state_dict(json.loads(json.dumps(schedule.state_dict(), allow_nan=False)))
    for _ in range(4):
        assert other_opt.lr == opt.lr
        assert other.get_last_lr() == schedule.get_last_lr()
        step(schedule)
        step(other)


def test_wrong_states_are_refused():
    opt = optimizer(1.0)
    state = lr_scheduler.StepLR(opt, 2).state_dict()
    with pytest.raises(CheckpointMismatch, match="state of 'StepLR', the schedule is 'LinearLR'"):
        lr_scheduler.LinearLR(opt).load_state_dict(state)
    with pytest.raises(CheckpointMismatch, match="has 1 rates, the optimizer 2 groups"):
        lr_scheduler.StepLR(optimizer(1.0, 2.0), 2).load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda s, opt: s.StepLR(opt, 0), "step_size is at least 1"),
        (lambda s, opt: s.CosineAnnealingLR(opt, 0), "T_max is at least 1"),
        (lambda s, opt: s.LinearLR(opt, total_iters=0), "total_iters is at least 1"),
        (lambda s, opt: s.LinearLR(opt, 0.0), "start_factor is above 0"),
        (lambda s, opt: s.ConstantLR(opt, 2.0), "factor is above 0 and at most 1"),
        (lambda s, opt: s.PolynomialLR(opt, 0), "total_iters is at least 1"),
        (lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 0), "T_0 is at least 1"),
        (lambda s, opt: s.CosineAnnealingWarmRestarts(opt, 2).step(-1), "from 0 up; found -1"),
        (lambda s, opt: s.OneCycleLR(opt, 1.0), "total_steps, or epochs and steps_per_epoch"),
        (lambda s, opt: s.OneCycleLR(opt, 1.0, 9, pct_start=2.0), "pct_start lies from 0"),
        (lambda s, opt: s.OneCycleLR(opt, 1.0, 9, anneal_strategy="x"), "'cos' or 'linear'"),
        (lambda s, opt: s.CyclicLR(opt, 0.1, 1.0, mode="x"), "mode is one of triangular"),
        (lambda s, opt: s.ReduceLROnPlateau(opt, factor=1.0), "factor is below 1"),
        (lambda s, opt: s.ReduceLROnPlateau(opt, "x"), "mode is 'min' or 'max'"),
        (lambda s, opt: s.ReduceLROnPlateau(opt, threshold_mode="x"), "'rel' or 'abs'"),
        (lambda s, opt: s.WarmupLR(opt, 3, 2), "warmup_iters lies from 0 to total_iters=2"),
        (lambda s, opt: s.WarmupLR(opt, 1, 2, "x"), "decay is one of constant, cosine"),
        (lambda s, opt: s.ChainedScheduler([]), "at least one schedule"),
        (lambda s, opt: s.ChainedScheduler([s.ReduceLROnPlateau(opt)]), "needs a metric"),
        (lambda s, opt: s.SequentialLR(opt, [s.StepLR(opt, 1)], [3]), "0 milestones"),
        (lambda s, opt: s.SequentialLR(optimizer(1.0), [s.StepLR(opt, 1)], []), "another optim"),
        (lambda s, opt: s.StepLR(opt, 1, last_epoch=3), 'group 0 has no "initial_lr"'),
        (lambda s, opt: s.StepLR(None, 1), "made for an optimizer"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make(lr_scheduler, optimizer(0.5))


def test_a_group_that_came_later_is_told():
    opt = optimizer(0.5)
    schedule = lr_scheduler.WarmupLR(opt, 1, 5)
    opt.add_param_group({"params": [core.Parameter(np.ones(1))]})
    with pytest.raises(UsageError, match="made for 1 groups, the optimizer has 2 now"):
        schedule.step()


def test_an_optimizer_without_momentum():
    opt = optim.Adagrad([core.Parameter(np.ones(1))])
    with pytest.raises(UsageError, match="Adagrad has no momentum: give cycle_momentum=False"):
        lr_scheduler.OneCycleLR(opt, 1.0, 5)
    lr_scheduler.OneCycleLR(opt, 1.0, 5, cycle_momentum=False)
