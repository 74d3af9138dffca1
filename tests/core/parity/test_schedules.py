"""Schedules beside PyTorch's: the same rates and momenta over 100 steps, tolerance 1e-9."""

import json
import math

import numpy as np
import pytest

from holdfast import core, optim

pytestmark = pytest.mark.parity

torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

STEPS = 100


def optimizer_of(module, kind, rates=(0.3, 0.02)):
    if module is optim:
        parameters = [core.Parameter(np.ones(1, np.float32)) for _ in rates]
    else:
        parameters = [torch.nn.Parameter(torch.ones(1)) for _ in rates]
    groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, rates, strict=True)]
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(module, kind)(groups, lr=0.1, **options)


def settings(optimizer):
    """Return what a schedule moves."""
    return [
        (group["lr"], group.get("momentum", 0), *group.get("betas", ()))
        for group in optimizer.param_groups
    ]


def sequential(module, optimizer):
    s = module.lr_scheduler
    parts = [
        s.LinearLR(optimizer, 0.1, total_iters=10),
        s.CosineAnnealingLR(optimizer, 30, eta_min=1e-4),
        s.StepLR(optimizer, 7),
        s.ExponentialLR(optimizer, 0.9),
        s.ConstantLR(optimizer, 0.5, 4),
        s.MultiStepLR(optimizer, [2, 4], 0.5),
        s.PolynomialLR(optimizer, 8, 2.0),
        s.LambdaLR(optimizer, lambda n: 0.8**n),
        s.CosineAnnealingWarmRestarts(optimizer, 5),
    ]
    return s.SequentialLR(optimizer, parts, [10, 40, 50, 60, 66, 72, 80, 90])


def chained(module, optimizer):
    s = module.lr_scheduler
    parts = [
        s.ConstantLR(optimizer, 0.1, 5),
        s.ExponentialLR(optimizer, 0.97),
        s.CosineAnnealingLR(optimizer, 200),
        s.MultiplicativeLR(optimizer, lambda n: 1 + 0.1 * math.sin(n)),
    ]
    return s.ChainedScheduler(parts)


def warm_then_chained(module, optimizer):
    s = module.lr_scheduler
    warm = s.LinearLR(optimizer, 0.2, total_iters=6)
    rest = s.ChainedScheduler([s.ExponentialLR(optimizer, 0.98), s.StepLR(optimizer, 9, 0.7)])
    return s.SequentialLR(optimizer, [warm, rest], [200])


def by_name(name, *args, **options):
    def make(module, optimizer):
        return getattr(module.lr_scheduler, name)(optimizer, *args, **options)

    make.__name__ = name
    return make


SCHEDULES = [
    by_name("LambdaLR", lambda n: 0.95**n),
    by_name("LambdaLR", [lambda n: 1 / (n + 1), lambda n: n / 10]),
    by_name("MultiplicativeLR", lambda n: 0.9 + 0.05 * (n % 3)),
    by_name("StepLR", 3, gamma=0.5),
    by_name("StepLR", 10),
    by_name("MultiStepLR", [5, 20, 20, 60], gamma=0.3),
    by_name("MultiStepLR", [0, 4]),
    by_name("ConstantLR"),
    by_name("ConstantLR", 0.25, 30),
    by_name("LinearLR"),
    by_name("LinearLR", 0.9, 0.1, 50),
    by_name("LinearLR", 0.1, total_iters=4),
    by_name("ExponentialLR", 0.93),
    by_name("PolynomialLR"),
    by_name("PolynomialLR", 70, 2.5),
    by_name("CosineAnnealingLR", 10, eta_min=0.01),
    by_name("CosineAnnealingLR", 100),
    by_name("CosineAnnealingLR", 33),
    by_name("CosineAnnealingWarmRestarts", 7),
    by_name("CosineAnnealingWarmRestarts", 5, 2, 0.001),
    by_name("OneCycleLR", 0.5, 110),
    by_name("OneCycleLR", [0.5, 0.1], epochs=11, steps_per_epoch=10, anneal_strategy="linear"),
    by_name("OneCycleLR", 0.5, 101, three_phase=True, pct_start=0.4, final_div_factor=100),
    by_name("OneCycleLR", 0.5, 101, cycle_momentum=False),
    by_name("OneCycleLR", 0.5, 101, base_momentum=[0.7, 0.8], max_momentum=0.9, div_factor=5),
    by_name("CyclicLR", 0.01, 0.1, 8),
    by_name("CyclicLR", [0.01, 0.02], 0.1, 8, 5, mode="triangular2"),
    by_name("CyclicLR", 0.01, 0.1, 8, mode="exp_range", gamma=0.99, cycle_momentum=False),
    by_name("CyclicLR", 0.01, 0.1, 8, scale_fn=lambda x: 1 / (x + 1), scale_mode="iterations"),
    sequential,
    chained,
    warm_then_chained,
    lambda module, optimizer: module.swa_utils.SWALR(optimizer, 0.05),
    lambda module, optimizer: module.swa_utils.SWALR(optimizer, [0.05, 0.5], 30, "linear"),
    lambda module, optimizer: module.swa_utils.SWALR(optimizer, 0.05, 0),
]


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("make", SCHEDULES)
@pytest.mark.filterwarnings("ignore")  # PyTorch's, on the order of steps
def test_rates(make, kind):
    one, two = optimizer_of(optim, kind), optimizer_of(torch.optim, kind)
    mine, theirs = make(optim, one), make(torch.optim, two)
    for step in range(STEPS):
        assert np.allclose(settings(one), settings(two), rtol=1e-9, atol=1e-15), step
        assert np.allclose(mine.get_last_lr(), theirs.get_last_lr(), rtol=1e-9, atol=1e-15)
        two.step()
        mine.step()
        theirs.step()
        if step == STEPS // 2:  # a schedule and an optimizer that take up what these have saved
            saved = json.loads(json.dumps([mine.state_dict(), _numbers(one)]))
            one = optimizer_of(optim, kind, (1.0, 2.0))
            mine = make(optim, one)
            one.load_state_dict({**saved[1], "state": one.state_dict()["state"]})
            mine.load_state_dict(saved[0])


def _numbers(optimizer):
    return {name: value for name, value in optimizer.state_dict().items() if name != "state"}


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 2, "mode": "max", "factor": 0.5},
        {"patience": 1, "threshold": 0.3, "threshold_mode": "abs", "cooldown": 3},
        {"patience": 0, "threshold": 0.1, "mode": "max", "threshold_mode": "abs", "cooldown": 2},
        {"patience": 0, "min_lr": [0.01, 0.0], "factor": 0.3, "eps": 1e-3},
    ],
)
def test_plateaus(options):
    one, two = optimizer_of(optim, "SGD"), optimizer_of(torch.optim, "SGD")
    mine = optim.lr_scheduler.ReduceLROnPlateau(one, **options)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(two, **options)
    rng = np.random.default_rng(0)
    for step in range(STEPS):
        metric = 1 / (step + 1) + 0.1 * rng.random()
        if step == STEPS // 3:
            saved = json.loads(json.dumps([mine.state_dict(), _numbers(one)]))
            one = optimizer_of(optim, "SGD")
            mine = optim.lr_scheduler.ReduceLROnPlateau(one, **options)
            one.load_state_dict({**saved[1], "state": one.state_dict()["state"]})
            mine.load_state_dict(saved[0])
        mine.step(metric)
        theirs.step(metric)
        assert np.allclose(settings(one), settings(two), rtol=1e-12)
        assert mine.num_bad_epochs == theirs.num_bad_epochs


@pytest.mark.filterwarnings("ignore")
def test_going_on_by_last_epoch():
    one, two = optimizer_of(optim, "SGD"), optimizer_of(torch.optim, "SGD")
    for module, optimizer in ((optim, one), (torch.optim, two)):
        first = module.lr_scheduler.ExponentialLR(optimizer, 0.9)
        for _ in range(5):
            first.step()
    mine = optim.lr_scheduler.CosineAnnealingLR(one, 40, last_epoch=5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(two, 40, last_epoch=5)
    for _ in range(20):
        assert np.allclose(settings(one), settings(two), rtol=1e-12)
        mine.step()
        theirs.step()


@pytest.mark.filterwarnings("ignore")
def test_restarts_between_epochs():
    one, two = optimizer_of(optim, "SGD"), optimizer_of(torch.optim, "SGD")
    for factor in (1, 2):
        mine = optim.lr_scheduler.CosineAnnealingWarmRestarts(one, 3, factor)
        theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(two, 3, factor)
        for step in range(60):
            mine.step(step / 4)
            theirs.step(step / 4)
            assert np.allclose(settings(one), settings(two), rtol=1e-9)
