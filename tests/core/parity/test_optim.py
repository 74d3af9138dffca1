"""Optimizers, clipping, averages and the loss scaler beside PyTorch's, over 100 steps.

Tolerance: 1e-5 of the weights' norm in float32, 1e-9 in float64.
"""

import numpy as np
import pytest

from holdfast import core, nn, optim
from holdfast.core.nn import clip
from holdfast.core.scaler import GradScaler

pytestmark = pytest.mark.parity

torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

STEPS = 100
SHAPES = ((5, 4), (3,), (2, 3, 7), ())
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-9}


class Pair:
    """The same parameters here and there, given the same gradients."""

    def __init__(self, dtype, seed=0):
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        starts = [np.asarray(self.rng.standard_normal(shape), dtype) for shape in SHAPES]
        self.mine = [core.Parameter(start.copy()) for start in starts]
        self.theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]

    def optimizers(self, name, groups=None, **options):
        """Make both; `groups` are lists of parameters' numbers with their settings."""
        found = []
        for module, parameters in ((optim, self.mine), (torch.optim, self.theirs)):
            given = parameters
            if groups is not None:
                given = [{"params": [parameters[i] for i in at], **own} for at, own in groups]
            found.append(getattr(module, name)(given, **options))
        return found

    def gradients(self, leave=(), size=1.0):
        """Set the gradients of a noisy quadratic; none for the parameters in `leave`."""
        for number, (p, q) in enumerate(zip(self.mine, self.theirs, strict=True)):
            if number in leave:
                p.grad = q.grad = None
                continue
            noise = self.rng.standard_normal(p.shape)
            g = np.asarray(size * (q.detach().numpy() + noise), self.dtype)
            p.grad, q.grad = core.tensor(g), torch.tensor(g)

    def check(self, tolerance=None):
        for p, q in zip(self.mine, self.theirs, strict=True):
            alike(p.array, q.detach().numpy(), tolerance)


def alike(found, expected, tolerance=None):
    tolerance = tolerance or TOLERANCE[expected.dtype.type]
    assert found.dtype == expected.dtype
    assert np.linalg.norm(found - expected) <= tolerance * np.linalg.norm(expected)


def tolerance_of(name):
    """PyTorch counts NAdam's product of momenta in float32, whatever the weights are."""
    return 1e-5 if name == "NAdam" else None


OPTIMIZERS = [
    ("SGD", {}),
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    ("SGD", {"lr": 0.005, "momentum": 0.9, "weight_decay": 0.01, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "eps": 1e-4, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.5, "weight_decay": 0.01, "maximize": True}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.95, "eps": 1e-4, "weight_decay": 0.1}),
    ("Adadelta", {"maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.02, "betas": (0.8, 0.95)}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adam", {"lr": 0.01, "betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "eps": 1e-3}),
    ("AdamW", {"lr": 0.01, "amsgrad": True, "betas": (0.5, 0.9), "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.05}),
    ("NAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3}),
    ("NAdam", {"betas": (0.7, 0.9), "maximize": True}),
    ("RAdam", {}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    ("RAdam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True, "eps": 1e-3}),
    ("RAdam", {"maximize": True}),
    ("Adamax", {}),
    ("Adamax", {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-3}),
    ("Adamax", {"maximize": True}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_trajectories(name, options, dtype):
    pair = Pair(dtype)
    one, two = pair.optimizers(name, **options)
    for _ in range(STEPS):
        pair.gradients()
        one.step()
        two.step()
    pair.check(tolerance_of(name))


KINDS = [
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    ("Adagrad", {"lr_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adadelta", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("Adamax", {}),
]


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_parameters_that_miss_steps(name, options):
    """Each parameter has its own count: one that begins late is corrected like any that begins."""
    pair = Pair(np.float64)
    one, two = pair.optimizers(name, **options)
    for step in range(STEPS):
        pair.gradients(leave=[i for i in range(4) if (step + i) % (i + 2) == 0 or step < 10 * i])
        one.step()
        two.step()
    pair.check(tolerance_of(name))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), KINDS)
def test_groups_and_settings_that_change(name, options, dtype):
    pair = Pair(dtype)
    groups = [([0, 3], {"lr": 0.02, "weight_decay": 0.1}), ([1], {})]
    both = pair.optimizers(name, groups, **options)
    for step in range(STEPS):
        pair.gradients(leave=[2] if step < 30 else [])
        if step == 30:
            for optimizer, p in zip(both, (pair.mine[2], pair.theirs[2]), strict=True):
                optimizer.add_param_group({"params": p, "lr": 0.003, "weight_decay": 0.2})
        for optimizer in both:
            for group in optimizer.param_groups:
                group["lr"] *= 0.99
                if "betas" in group:
                    group["betas"] = (0.9 - step / 1000, 0.999 - step / 10_000)
            optimizer.step()
    pair.check(tolerance_of(name))


@pytest.mark.parametrize(("name", "options"), KINDS)
def test_a_rate_of_zero_still_takes_in_the_gradients(name, options):
    pair = Pair(np.float64)
    both = pair.optimizers(name, **options)
    for step in range(20):
        pair.gradients()
        for optimizer in both:
            optimizer.param_groups[0]["lr"] = 0.0 if step < 10 else 0.01
            optimizer.step()
    pair.check(tolerance_of(name))


def test_adam_in_bfloat16_stays_near():
    """PyTorch's fused step computes in float32 and rounds what it keeps, as ours does."""
    rng = np.random.default_rng(0)
    start = torch.tensor(rng.standard_normal(1000), dtype=torch.bfloat16)
    p = core.Parameter(core.tensor(start.float().numpy()).to("bfloat16").array)
    q = torch.nn.Parameter(start.clone())
    one, two = optim.AdamW([p], lr=0.01), torch.optim.AdamW([q], lr=0.01, fused=True)
    for _ in range(20):
        g = torch.tensor(rng.standard_normal(1000), dtype=torch.bfloat16)
        p.grad, q.grad = core.tensor(g.float().numpy()), g
        one.step()
        two.step()
    found, expected = p.array.astype(np.float32), q.detach().float().numpy()
    assert np.linalg.norm(found - expected) <= 4e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("in_arena", [True, False])
@pytest.mark.parametrize("max_norm", [0.5, 1e4])
def test_clipping_by_norm(norm_type, in_arena, max_norm):
    pair = Pair(np.float32)
    if in_arena:
        core.Arena(pair.mine)
    for chosen in (slice(None), slice(1, 3)):
        pair.gradients(leave=[2])
        found = clip.clip_grad_norm_(pair.mine[chosen], max_norm, norm_type)
        expected = torch.nn.utils.clip_grad_norm_(pair.theirs[chosen], max_norm, norm_type)
        assert np.isclose(found.item(), expected.item(), rtol=1e-6)
        for p, q in zip(pair.mine, pair.theirs, strict=True):
            assert (p.grad is None) == (q.grad is None)
            if p.grad is not None:
                alike(p.grad.array, q.grad.numpy())


def test_clipping_by_value_and_norms_of_tensors():
    pair = Pair(np.float64)
    pair.gradients(size=3)
    clip.clip_grad_value_(pair.mine, 0.7)
    torch.nn.utils.clip_grad_value_(pair.theirs, 0.7)
    grads, others = [p.grad for p in pair.mine], [q.grad for q in pair.theirs]
    for a, b in zip(grads, others, strict=True):
        alike(a.array, b.numpy())
    norm, expected = clip.get_total_norm(grads), torch.nn.utils.get_total_norm(others)
    assert np.isclose(norm.item(), expected.item())
    clip.clip_grads_with_norm_(pair.mine, 0.1, norm)
    torch.nn.utils.clip_grads_with_norm_(pair.theirs, 0.1, expected)
    for p, q in zip(pair.mine, pair.theirs, strict=True):
        alike(p.grad.array, q.grad.numpy())


AVERAGES = {
    "default": lambda utils: {},
    "ema": lambda utils: {"multi_avg_fn": utils.get_ema_multi_avg_fn(0.9)},
    "swa": lambda utils: {"multi_avg_fn": utils.get_swa_multi_avg_fn()},
    "ema by parameter": lambda utils: {"avg_fn": utils.get_ema_avg_fn(0.8)},
    "swa by parameter": lambda utils: {"avg_fn": utils.get_swa_avg_fn()},
    "own": lambda utils: {"avg_fn": lambda a, b, n: a * 0.25 + b * 0.75},
}


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("optimizer_first", [True, False])
@pytest.mark.parametrize("kind", AVERAGES)
def test_averages(kind, optimizer_first, use_buffers):
    models, averaged, optimizers = [], [], []
    for library, parts in ((core, nn), (torch, torch.nn)):
        model = parts.Sequential(parts.Linear(5, 7), parts.Tanh(), parts.Linear(7, 3))
        model.register_buffer("count", library.tensor(np.arange(3, dtype=np.float32)))
        models.append(model)
    models[0].load_state_dict({n: t.numpy() for n, t in models[1].state_dict().items()})
    utils = (optim.swa_utils, torch.optim.swa_utils)

    def average():
        for model, found in zip(models, utils, strict=True):
            made = found.AveragedModel(model, use_buffers=use_buffers, **AVERAGES[kind](found))
            averaged.append(made)

    def optimize():
        for module, model in zip((optim, torch.optim), models, strict=True):
            optimizers.append(module.SGD(model.parameters(), lr=0.1))

    for make in (optimize, average) if optimizer_first else (average, optimize):
        make()
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        x = rng.standard_normal((4, 5), dtype=np.float32)
        for library, model, optimizer in zip((core, torch), models, optimizers, strict=True):
            optimizer.zero_grad()
            (model(library.tensor(x)) ** 2).mean().backward()
            optimizer.step()
        models[0].count += 1
        models[1].count += 1
        for made, model in zip(averaged, models, strict=True):
            made.update_parameters(model)
    for (name, a), (other, b) in zip(
        averaged[0].state_dict().items(), averaged[1].state_dict().items(), strict=True
    ):
        assert name == other
        assert np.allclose(a.array, b.numpy(), rtol=1e-5, atol=1e-6), name
    x = rng.standard_normal((4, 5), dtype=np.float32)
    found, expected = averaged[0](core.tensor(x)), averaged[1](torch.tensor(x))
    assert np.allclose(found.detach().array, expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_the_scaler():
    pair = Pair(np.float32)
    one, two = pair.optimizers("SGD", lr=0.01)
    options = {"init_scale": 1024.0, "growth_interval": 3, "growth_factor": 4.0}
    scalers = GradScaler("cpu", **options), torch.amp.GradScaler("cpu", **options)
    for step in range(30):
        for scaler, ps in zip(scalers, (pair.mine, pair.theirs), strict=True):
            factor = float("inf") if step in (4, 5, 17) else 0.5
            loss = sum(((p - 1.0) ** 2).sum() for p in ps) * factor
            for p in ps:
                p.grad = None
            with np.errstate(all="ignore"):
                scaler.scale(loss).backward()
        if step % 2:
            for scaler, optimizer in zip(scalers, (one, two), strict=True):
                scaler.unscale_(optimizer)
        for scaler, optimizer in zip(scalers, (one, two), strict=True):
            scaler.step(optimizer)
            scaler.update()
        assert scalers[0].get_scale() == scalers[1].get_scale()
        assert scalers[0].state_dict() == scalers[1].state_dict()
    pair.check()
