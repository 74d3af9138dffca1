"""Values and gradients beside PyTorch's: needs torch in .venv, runs by `make test-parity`."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core, nn, optim

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)


METHODS = {
    "exp": lambda x: x.exp(),
    "log": lambda x: (x.abs() + 0.5).log(),
    "sqrt": lambda x: (x * x + 0.1).sqrt(),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "relu": lambda x: x.relu(),
    "abs": lambda x: x.abs(),
    "neg": lambda x: -x,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp from one side": lambda x: x.clamp(min=0.1),
    "square": lambda x: x**2,
    "power": lambda x: x.abs() ** 1.5,
    "base": lambda x: 2.0**x,
    "reciprocal": lambda x: 1 / (x + 5),
    "weak scalars": lambda x: 3 - 2 * x / 4 + 1,
    "softmax": lambda x: x.softmax(1),
    "log_softmax": lambda x: x.log_softmax(0),
    "logsumexp": lambda x: x.logsumexp(1, keepdim=True),
    "sum": lambda x: x.sum(),
    "sum of an axis": lambda x: x.sum(dim=-1),
    "sum of axes": lambda x: x.sum(dim=(0, 2), keepdim=True),
    "mean": lambda x: x.mean(dim=1),
    "var": lambda x: x.var(dim=2),
    "var of a population": lambda x: x.var(correction=0),
    "std": lambda x: x.std(dim=(0, 1)),
    "max": lambda x: x.max(),
    "max of an axis": lambda x: x.max(dim=1).values,
    "min of an axis": lambda x: x.min(dim=2, keepdim=True)[0],
    "argmax": lambda x: x.argmax(dim=1),
    "amax": lambda x: x.amax(dim=0),
    "reshape": lambda x: x.reshape(-1, 4) * 2,
    "flatten": lambda x: x.flatten(1),
    "permute": lambda x: x.permute(2, 0, 1) * 2,
    "transpose": lambda x: x.transpose(0, 2) + 1,
    "squeeze": lambda x: x.unsqueeze(0).squeeze(0),
    "expand": lambda x: x[:, :1].expand(-1, 7, -1) * 2,
    "slice": lambda x: x[1:, ::2] * 3,
    "new axis": lambda x: x[:, None, 0] * 3,
    "mask": lambda x: x[x > 0] * 2,
    "row": lambda x: x[1] * x[0],
    "iteration": lambda x: sum(row * i for i, row in enumerate(x)),
    "matmul": lambda x: x @ x.transpose(1, 2),
    "matrix by vector": lambda x: x @ x[0, 0],
    "vector by matrix": lambda x: x[0, :, 0] @ x,
    "comparison": lambda x: (x > 0) == (x < 1),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("shape", [(2, 3, 4), (5, 1, 4)])
def test_methods(name, shape):
    both(METHODS[name], METHODS[name], normal(*shape))


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv"])
@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (2, 3)), ((2, 3), (3,)), ((4, 1, 3), (2, 1)), ((), (2, 2))]
)
def test_broadcasting(name, left, right):
    def operation(x, y):
        return getattr(x, f"__{name}__")(y)

    both(operation, operation, normal(*left), normal(*right, seed=1) + 3)


@pytest.mark.parametrize("left", ["float32", "float64", "int64", "int32", "bool"])
@pytest.mark.parametrize("right", ["float32", "float64", "int64", "int32", "bool"])
@pytest.mark.parametrize("shape", [(2,), ()])
def test_promotion(left, right, shape):
    def one(kind, shape):
        return np.ones(shape, dtype=kind)

    mine = core.tensor(one(left, (2,))) * core.tensor(one(right, shape))
    theirs = torch.tensor(one(left, (2,))) * torch.tensor(one(right, shape))
    assert str(theirs.dtype) == f"torch.{mine.dtype}"


CONVOLUTIONS = [
    ((3, 2, 8, 7), (4, 2, 3, 3), {}),
    ((3, 2, 8, 7), (4, 2, 3, 2), {"stride": 2}),
    ((3, 2, 8, 7), (4, 2, 3, 3), {"padding": 1}),
    ((3, 2, 8, 7), (4, 2, 3, 3), {"padding": (2, 1), "stride": (1, 3)}),
    ((3, 2, 9, 9), (4, 2, 3, 3), {"dilation": 2, "padding": 3}),
    ((16, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    ((1, 3, 12, 12), (2, 3, 1, 1), {}),
    ((9, 3, 11, 5), (2, 3, 4, 2), {"stride": 3, "dilation": (2, 1), "padding": (3, 0)}),
]


@pytest.mark.parametrize(("x", "weight", "options"), CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(x, weight, options, bias):
    arrays = [normal(*x), normal(*weight, seed=1) / 3]
    if bias:
        arrays.append(normal(weight[0], seed=2))
    reference = torch.nn.functional.conv2d
    both(
        lambda *a: F.conv2d(*a, **options), lambda *a: reference(*a, **options), *arrays,
        tolerance=3e-4,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 1)},
        {"kernel_size": 2, "stride": 1},
        {"kernel_size": 3, "padding": 1},
    ],
)
def test_pooling(kind, options):
    x = np.maximum(normal(3, 2, 9, 8), 0)  # with equal values, as after a ReLU
    reference = getattr(torch.nn.functional, kind)
    both(lambda t: getattr(F, kind)(t, **options), lambda t: reference(t, **options), x)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    ("name", "x", "target"),
    [
        ("cross_entropy", normal(6, 5), np.array([0, 4, 2, 2, 1, 3])),
        ("cross_entropy", normal(2, 3, 4), np.array([[0, 1, 2, 0], [2, 2, 1, 0]])),
        ("mse_loss", normal(4, 3), normal(4, 3, seed=1)),
        ("binary_cross_entropy_with_logits", 3 * normal(4, 3), np.abs(normal(4, 3, seed=1)) % 1),
        ("binary_cross_entropy", np.abs(normal(4, 3)) % 1, np.abs(normal(4, 3, seed=1)) % 1),
    ],
)
def test_losses(name, x, target, reduction):
    mine, reference = getattr(F, name), getattr(torch.nn.functional, name)

    def with_fixed_target(t):
        return mine(t, core.tensor(target), reduction=reduction)

    both(
        with_fixed_target,
        lambda t: reference(t, torch.tensor(target), reduction=reduction),
        x,
    )


@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 7)])
def test_linear(shape):
    reference = torch.nn.functional.linear
    both(F.linear, reference, normal(*shape), normal(4, 7, seed=1), normal(4, seed=2))
    both(F.linear, reference, normal(*shape), normal(4, 7, seed=1))


def lenet(kind):
    return kind.Sequential(
        kind.Conv2d(1, 6, 5, padding=2), kind.ReLU(), kind.MaxPool2d(2),
        kind.Conv2d(6, 16, 5), kind.ReLU(), kind.MaxPool2d(2), kind.Flatten(),
        kind.Linear(400, 120), kind.ReLU(), kind.Linear(120, 84), kind.ReLU(),
        kind.Linear(84, 10),
    )  # fmt: skip


OPTIMIZERS = [
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.3}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.02, "betas": (0.8, 0.95)}),
    ("AdamW", {"lr": 0.01}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS)
def test_optimizer_trajectories(name, options):
    starts, rng = [normal(5, 4).astype(np.float64), np.arange(3.0)], np.random.default_rng(0)
    mine = [core.Parameter(start.copy()) for start in starts]
    theirs = [torch.nn.Parameter(torch.tensor(start)) for start in starts]
    one = getattr(optim, name)(mine, **options)
    two = getattr(torch.optim, name)(theirs, **options)
    for _ in range(100):
        one.zero_grad()
        two.zero_grad()
        for p, q in zip(mine, theirs, strict=True):
            g = rng.standard_normal(p.shape)
            (p * core.tensor(g)).sum().backward()
            (q * torch.tensor(g)).sum().backward()
        one.step()
        two.step()
    for p, q in zip(mine, theirs, strict=True):
        assert np.allclose(p.array, q.detach().numpy(), rtol=1e-9, atol=1e-12)


SCHEDULES = [
    ("StepLR", {"step_size": 3, "gamma": 0.5}),
    ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}),
    ("LinearLR", {"start_factor": 0.1, "total_iters": 4}),
]


@pytest.mark.parametrize(("name", "options"), SCHEDULES)
def test_schedules(name, options):
    one = optim.SGD([core.Parameter(np.ones(1))], lr=0.3)
    two = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.3)
    mine = getattr(optim.lr_scheduler, name)(one, **options)
    theirs = getattr(torch.optim.lr_scheduler, name)(two, **options)
    for _ in range(12):
        assert np.allclose(mine.get_last_lr(), theirs.get_last_lr())
        two.step()
        mine.step()
        theirs.step()


def test_lenet_trains_alike():
    model, reference = lenet(nn), lenet(torch.nn)
    assert repr(model) == repr(reference).replace(", ceil_mode=False", "").replace(
        ", dilation=1", ""
    )
    model.load_state_dict({n: t.detach().numpy() for n, t in reference.state_dict().items()})
    one = optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    two = torch.optim.SGD(reference.parameters(), lr=0.02, momentum=0.9)
    rng = np.random.default_rng(0)
    for _ in range(10):
        x = rng.random((32, 1, 28, 28), dtype=np.float32)
        y = rng.integers(0, 10, 32)
        one.zero_grad()
        loss = F.cross_entropy(model(core.tensor(x)), core.tensor(y))
        loss.backward()
        one.step()
        two.zero_grad()
        other = torch.nn.functional.cross_entropy(reference(torch.tensor(x)), torch.tensor(y))
        other.backward()
        two.step()
        assert np.isclose(loss.item(), other.item(), rtol=1e-4)
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert np.allclose(p.array, q.detach().numpy(), atol=1e-4), name
