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


def lenet(kind):
    return kind.Sequential(
        kind.Conv2d(1, 6, 5, padding=2), kind.ReLU(), kind.MaxPool2d(2),
        kind.Conv2d(6, 16, 5), kind.ReLU(), kind.MaxPool2d(2), kind.Flatten(),
        kind.Linear(400, 120), kind.ReLU(), kind.Linear(120, 84), kind.ReLU(),
        kind.Linear(84, 10),
    )  # fmt: skip


def test_lenet_trains_alike():
    model, reference = lenet(nn), lenet(torch.nn)
    assert repr(model) == repr(reference)
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
