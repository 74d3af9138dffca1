"""Tensors out of nothing beside PyTorch's: values, shapes and dtypes."""

import numpy as np
import pytest

from holdfast import core
from holdfast.core import creation, sampling

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

VALUES = {
    "tensor of floats": lambda k: k.tensor([[1.0, 2], [3, 4]]),
    "tensor of integers": lambda k: k.tensor([1, 2]),
    "tensor of truth": lambda k: k.tensor([True, False]),
    "tensor of a number": lambda k: k.tensor(2.5),
    "tensor of an array": lambda k: k.tensor(np.arange(3.0)),
    "as_tensor": lambda k: k.as_tensor([1, 2.5]),
    "as_tensor of integers": lambda k: k.as_tensor(np.arange(3, dtype=np.int32)),
    "zeros": lambda k: k.zeros(2, 3),
    "zeros of a tuple": lambda k: k.zeros((2, 3)),
    "zeros without axes": lambda k: k.zeros(()),
    "ones": lambda k: k.ones(3, requires_grad=True),
    "full": lambda k: k.full((2,), 2.5),
    "full of integers": lambda k: k.full((2, 1), 7),
    "full of truth": lambda k: k.full((2,), True),
    "zeros_like": lambda k: k.zeros_like(k.tensor([1, 2])),
    "ones_like": lambda k: k.ones_like(k.tensor([[1.5]])),
    "full_like": lambda k: k.full_like(k.tensor([[1.5]]), 3),
    "full_like of integers": lambda k: k.full_like(k.tensor([1]), 3),
    "arange": lambda k: k.arange(5),
    "arange from": lambda k: k.arange(2, 8),
    "arange by steps": lambda k: k.arange(1, 2.5, 0.5),
    "arange by tenths": lambda k: k.arange(0, 1, 0.1),
    "arange backwards": lambda k: k.arange(5, 0, -2),
    "arange of one float": lambda k: k.arange(3.0),
    "arange of nothing": lambda k: k.arange(0),
    "linspace": lambda k: k.linspace(-1, 1, 7),
    "linspace of one": lambda k: k.linspace(3, 10, 1),
    "linspace of none": lambda k: k.linspace(3, 10, 0),
    "logspace": lambda k: k.logspace(-1, 1, 5),
    "logspace of base 2": lambda k: k.logspace(0, 3, 4, base=2),
    "eye": lambda k: k.eye(3),
    "eye that is not square": lambda k: k.eye(2, 4),
    "new_zeros": lambda k: k.tensor([1, 2]).new_zeros(2, 3),
    "new_ones": lambda k: k.tensor([1.5]).new_ones((2,)),
    "new_full": lambda k: k.tensor([1.5]).new_full((2, 2), 3),
    "new_tensor": lambda k: k.tensor([1.5]).new_tensor([1.0, 2.0]),
}


class Ours:
    """One namespace of both modules, as PyTorch has it."""

    def __getattr__(self, name):
        return getattr(creation if hasattr(creation, name) else sampling, name)


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    mine, theirs = VALUES[name](Ours()), VALUES[name](torch)
    assert mine.shape == tuple(theirs.shape)
    assert f"torch.{mine.dtype}" == str(theirs.dtype)
    assert mine.requires_grad == theirs.requires_grad
    assert np.allclose(mine.array, theirs.detach().numpy(), rtol=1e-6, atol=1e-6)


DRAWN = {
    "rand": lambda k: k.rand(2, 3),
    "randn": lambda k: k.randn((2, 3), dtype=k.float64 if k is torch else np.float64),
    "randint": lambda k: k.randint(5, (2, 3)),
    "randint between": lambda k: k.randint(2, 5, size=(4,)),
    "randperm": lambda k: k.randperm(6),
    "rand_like": lambda k: k.rand_like(k.zeros(2, 3)),
    "randn_like": lambda k: k.randn_like(k.zeros(2)),
    "randint_like": lambda k: k.randint_like(k.zeros(2, 3), 5),
    "bernoulli": lambda k: k.bernoulli(k.full((2, 3), 0.5)),
    "normal": lambda k: k.normal(0.0, 1.0, (2, 3)),
    "normal of tensors": lambda k: k.normal(k.zeros(2, 3), k.ones(3)),
    "normal of a mean": lambda k: k.normal(k.zeros(2, 3)),
    "multinomial": lambda k: k.multinomial(k.ones(5), 3),
    "multinomial of rows": lambda k: k.multinomial(k.ones(2, 5), 7, replacement=True),
}


@pytest.mark.parametrize("name", DRAWN)
def test_shapes_and_dtypes_of_what_is_drawn(name):
    core.manual_seed(0)
    mine, theirs = DRAWN[name](Ours()), DRAWN[name](torch)
    assert mine.shape == tuple(theirs.shape)
    assert f"torch.{mine.dtype}" == str(theirs.dtype)
