"""One function of ours beside one of PyTorch's: values and gradients."""

import numpy as np
import pytest

from holdfast import core

torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)


def both(function, reference, *arrays, tolerance=1e-5):
    """Compare value and gradients by every floating array, under one random cotangent."""
    ours = [
        core.Tensor(a.copy(), requires_grad=True) if a.dtype.kind == "f" else core.tensor(a)
        for a in arrays
    ]
    theirs = [torch.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays]
    mine, other = function(*ours), reference(*theirs)
    assert mine.shape == tuple(other.shape)
    assert np.allclose(mine.array, other.detach().numpy(), rtol=tolerance, atol=tolerance)
    if not mine.requires_grad:
        return
    g = np.random.default_rng(1).standard_normal(mine.shape).astype(mine.dtype)
    mine.backward(g)
    other.backward(torch.tensor(g))
    for a, b in zip(ours, theirs, strict=True):
        if a.requires_grad and b.grad is not None:
            expected = b.grad.numpy()
            assert np.allclose(a.grad.array, expected, rtol=tolerance, atol=tolerance)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
