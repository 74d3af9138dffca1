"""Optimizers against plain references, schedules, and their state."""

import json
import math

import numpy as np
import pytest

from holdfast import core, nn, optim
from holdfast.core import random
from holdfast.core.optim import optimizer as optimizer_module
from holdfast.errors import CheckpointMismatch, UsageError


def sgd_reference(w, grads, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    m = None
    for g in grads:
        g = g + weight_decay * w
        if momentum:
            m = g.copy() if m is None else momentum * m + (1 - dampening) * g
            g = g + momentum * m if nesterov else m
        w = w - lr * g
    return w


def adam_reference(w, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled=False):
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if decoupled:
            w = w * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        mean, square = m / (1 - betas[0] ** t), v / (1 - betas[1] ** t)
        w = w - lr * mean / (np.sqrt(square) + eps)
    return w


CASES = [
    (optim.SGD, sgd_reference, {"lr": 0.1}),
    (optim.SGD, sgd_reference, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd_reference, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (optim.SGD, sgd_reference, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    (
        optim.SGD,
        sgd_reference,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    (optim.Adam, adam_reference, {"lr": 0.01}),
    (optim.Adam, adam_reference, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99)}),
    (
        optim.AdamW,
        lambda w, g, **k: adam_reference(w, g, decoupled=True, **k),
        {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-6},
    ),
]


@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
@pytest.mark.parametrize("block", [16, 1 << 14])
def test_optimizers_follow_their_reference(kind, reference, options, block, monkeypatch):
    monkeypatch.setattr(optimizer_module, "BLOCK", block)
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape) for shape in ((5, 9), (7,), (40,))]
    params = [core.Parameter(start.copy()) for start in starts]
    opt = kind(params, **options)
    gradients = [[rng.normal(size=s.shape) for _ in range(20)] for s in starts]
    for step in range(20):
        opt.zero_grad()
        for p, own in zip(params, gradients, strict=True):
            (p * core.tensor(own[step])).sum().backward()
        opt.step()
    for p, start, own in zip(params, starts, gradients, strict=True):
        assert np.allclose(p.array, reference(start, own, **options), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
def test_state_is_plain_and_resumes_exactly(kind, reference, options):
    def run(steps, opt, p):
        for step in steps:
            opt.zero_grad()
            (p * p * (step + 1)).sum().backward()
            opt.step()

    start = np.linspace(-1, 1, 11, dtype=np.float32)
    whole = core.Parameter(start.copy())
    opt = kind([whole], **options)
    run(range(5), opt, whole)
    saved = (
        whole.array.copy(),
        {name: array.copy() for name, array in opt.state_arrays().items()},
        json.loads(json.dumps(opt.state_dict())),
    )
    run(range(5, 10), opt, whole)

    again = core.Parameter(saved[0])
    other = kind([again], **{**options, "lr": 1.0})
    other.load_state(saved[1], saved[2])
    assert other.lr == options["lr"]
    run(range(5, 10), other, again)
    assert np.array_equal(whole.array, again.array)


def test_wrong_states_are_refused_and_nothing_changes():
    (p,) = [core.Parameter(np.ones(4, np.float32))]
    opt = optim.SGD([p], lr=0.1, momentum=0.9)
    arrays, scalars = opt.state_arrays(), opt.state_dict()
    with pytest.raises(CheckpointMismatch, match="state of 'Adam', the optimizer is 'SGD'"):
        opt.load_state(arrays, {**scalars, "kind": "Adam"})
    with pytest.raises(CheckpointMismatch, match="hyperparameters differ"):
        opt.load_state({}, scalars)
    with pytest.raises(CheckpointMismatch, match="another model"):
        opt.load_state({"momentum": np.zeros(3, np.float32)}, scalars)
    with pytest.raises(CheckpointMismatch, match="lacks lr"):
        opt.load_state(arrays, {k: v for k, v in scalars.items() if k != "lr"})
    assert opt.lr == 0.1


def test_bad_settings_are_refused():
    p = core.Parameter(np.ones(1))
    with pytest.raises(UsageError, match="no parameters"):
        optim.SGD([])
    with pytest.raises(UsageError, match="lr is a number from 0 up"):
        optim.SGD([p], lr=-1)
    with pytest.raises(UsageError, match="nesterov needs a momentum"):
        optim.SGD([p], nesterov=True)
    with pytest.raises(UsageError, match="momentum and weight_decay"):
        optim.SGD([p], momentum=-1)
    with pytest.raises(UsageError, match="betas"):
        optim.Adam([p], betas=(1.0, 0.9))


def test_parameters_without_a_gradient_are_left_alone():
    used, unused = core.Parameter(np.ones(3)), core.Parameter(np.ones(3))
    opt = optim.SGD([used, unused], lr=0.1, momentum=0.9, weight_decay=0.5)
    used.sum().backward()
    opt.step()
    assert (used.array != 1).all()
    assert (unused.array == 1).all()


def test_an_optimizer_updates_only_its_own_part_of_an_arena():
    one, two = core.Parameter(np.ones(3)), core.Parameter(np.ones(3))
    core.Arena([one, two])
    opt = optim.SGD([two], lr=0.1)
    (one.sum() + two.sum()).backward()
    opt.step()
    assert (one.array == 1).all()
    assert np.allclose(two.array, 0.9)
    opt.zero_grad()
    assert one.grad is not None
    assert two.grad is None


def test_the_optimizer_reads_the_sums():
    p = core.Parameter(np.ones(8, np.float32))
    opt = optim.SGD([p], lr=1.0)
    sums = np.full(16, 0.25, np.float32)
    sums.flags.writeable = False  # it may be every rank's
    opt.arena.rehome(sums=sums)
    p.sum().backward()
    opt.step()
    assert p.tolist() == [0.75] * 8


def test_a_network_learns():
    core.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    x = core.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = core.tensor([[0.0], [1.0], [1.0], [0.0]])
    opt = optim.Adam(net.parameters(), lr=0.05)
    for _ in range(300):
        opt.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(x), y)
        loss.backward()
        opt.step()
    assert loss.item() < 0.01
    assert repr(opt).startswith("Adam(4 parameters, lr=0.05")


def rates(schedule, steps):
    found = []
    for _ in range(steps):
        found += schedule.get_last_lr()
        schedule.step()
    return found


def test_schedules():
    opt = optim.SGD([core.Parameter(np.ones(1))], lr=0.8)
    assert np.allclose(
        rates(optim.lr_scheduler.StepLR(opt, 2, gamma=0.5), 5), [0.8, 0.8, 0.4, 0.4, 0.2]
    )
    opt.lr = 0.8
    cosine = rates(optim.lr_scheduler.CosineAnnealingLR(opt, 4, eta_min=0.1), 5)
    assert np.allclose(cosine, [0.1 + 0.35 * (1 + math.cos(math.pi * t / 4)) for t in range(5)])
    opt.lr = 0.8
    line = rates(optim.lr_scheduler.LinearLR(opt, 0.25, total_iters=3), 5)
    assert np.allclose(line, [0.2, 0.4, 0.6, 0.8, 0.8])
    for make in (
        lambda: optim.lr_scheduler.StepLR(opt, 0),
        lambda: optim.lr_scheduler.CosineAnnealingLR(opt, 0),
        lambda: optim.lr_scheduler.LinearLR(opt, total_iters=0),
    ):
        with pytest.raises(UsageError, match="at least 1"):
            make()


def test_schedules_resume():
    opt = optim.SGD([core.Parameter(np.ones(1))], lr=1.0)
    schedule = optim.lr_scheduler.StepLR(opt, 2)
    rates(schedule, 3)
    state = json.loads(json.dumps(schedule.state_dict()))
    other_opt = optim.SGD([core.Parameter(np.ones(1))], lr=5.0)
    other = optim.lr_scheduler.StepLR(other_opt, 2)
    other.load_state_dict(state)
    assert other_opt.lr == opt.lr
    assert rates(other, 4) == rates(schedule, 4)
    with pytest.raises(CheckpointMismatch, match="state of 'StepLR', the schedule is 'LinearLR'"):
        optim.lr_scheduler.LinearLR(opt).load_state_dict(state)


def test_the_random_state_is_json_and_resumes():
    core.manual_seed(7)
    core.rand(3)
    state = json.loads(json.dumps(random.get_state()))
    first = [core.rand(5).tolist(), core.randn(4).tolist(), nn.Linear(3, 3).weight.tolist()]
    random.set_state(state)
    assert first == [core.rand(5).tolist(), core.randn(4).tolist(), nn.Linear(3, 3).weight.tolist()]
    core.manual_seed(7)
    seven = core.rand(3).tolist()
    core.manual_seed(8)
    assert core.rand(3).tolist() != seven
    with pytest.raises(UsageError, match="non-negative"):
        core.manual_seed(-1)
    with pytest.raises(UsageError, match="'Philox' is expected; found 'PCG64'"):
        random.set_state({"bit_generator": "PCG64"})
