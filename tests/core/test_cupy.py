"""The same source on a GPU: every primitive and a training step, beside the CPU."""

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn, optim
from holdfast.core.backend import to_device, to_host
from holdfast.core.primitive import registry

pytestmark = pytest.mark.gpu
cupy = pytest.importorskip(
    "cupy", reason="runs on an NVIDIA GPU through CuPy: pip install 'holdfast[cuda13]'"
)


def run(entry, arguments, options, device):
    arrays = [
        to_device(a, device) if isinstance(a, np.ndarray | np.generic) else a for a in arguments
    ]
    leaves = [
        core.Tensor(a, requires_grad=True) if getattr(a, "dtype", np.dtype(int)).kind == "f" else a
        for a in arrays
    ]
    given = entry.operation(*leaves, **options)
    outs = given if isinstance(given, tuple) else (given,)
    assert all(out.device == device for out in outs)
    floats = [out.sum() for out in outs if out.requires_grad]
    if floats:
        sum(floats).backward()
    grads = [leaf.grad for leaf in leaves if isinstance(leaf, core.Tensor)]
    return [to_host(t.array) for t in (*outs, *grads) if t is not None]


@pytest.mark.parametrize("name", sorted(registry()))
def test_primitives_agree_with_the_cpu(name):
    arguments, options = registry()[name].example(0)
    on_cpu = run(registry()[name], arguments, options, "cpu")
    on_gpu = run(registry()[name], arguments, options, "cuda")
    for a, b in zip(on_cpu, on_gpu, strict=True):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam])
def test_training_agrees_with_the_cpu(make):
    results = []
    for device in ("cpu", "cuda"):
        core.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(4 * 4 * 4, 10),
        ).to(device)  # fmt: skip
        opt = make(net.parameters(), lr=0.01)
        x = core.randn(16, 1, 8, 8).to(device)
        y = core.tensor(np.arange(16) % 10, device=device)
        for _ in range(5):
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
        results.append(to_host(opt.arena.weights))
    assert np.allclose(*results, rtol=1e-4, atol=1e-5)
