"""Normalisations beside PyTorch's: values, gradients, running numbers."""

import ml_dtypes
import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core, nn

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)


def function(name, **options):
    """Return ours and PyTorch's, with these options."""
    mine, reference = getattr(F, name), getattr(torch.nn.functional, name)
    return (lambda *a: mine(*a, **options)), (lambda *a: reference(*a, **options))


@pytest.mark.parametrize(
    ("shape", "sizes"), [((5, 8), (8,)), ((2, 3, 4), (3, 4)), ((7,), (7,)), ((700, 260), (260,))]
)
@pytest.mark.parametrize("parts", ["", "w", "wb"])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_layer_norm(shape, sizes, parts, eps):
    arrays = [normal(*sizes, seed=i + 1) for i, _ in enumerate(parts)]

    def options(F):
        return lambda x, *a: F.layer_norm(x, sizes, *a, eps=eps)

    x = 3 * normal(*shape) + 2
    both(options(F), options(torch.nn.functional), x, *arrays, tolerance=5e-5)


@pytest.mark.parametrize(("shape", "sizes"), [((5, 8), (8,)), ((2, 3, 4), (3, 4))])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("eps", [None, 0.1])
def test_rms_norm(shape, sizes, weighted, eps):
    arrays = [normal(*sizes, seed=1)] if weighted else []

    def options(F):
        return lambda x, *a: F.rms_norm(x, sizes, *a, eps=eps)

    both(options(F), options(torch.nn.functional), normal(*shape), *arrays)


SHAPES = [(6, 4), (6, 4, 5), (3, 4, 5, 6), (2, 4, 3, 2, 3), (1, 4, 9), (40, 4, 70)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("parts", ["", "wb"])
def test_batch_norm(shape, training, parts):
    arrays = [normal(4, seed=i + 1) for i, _ in enumerate(parts)]
    running = [normal(4, seed=3), np.abs(normal(4, seed=4)) + 0.5]
    mine = [core.tensor(a.copy()) for a in running]
    theirs = [torch.tensor(a.copy()) for a in running]
    both(
        lambda x, *a: F.batch_norm(x, *mine, *a, training=training, momentum=0.3, eps=1e-3),
        lambda x, *a: torch.nn.functional.batch_norm(
            x, *theirs, *a, training=training, momentum=0.3, eps=1e-3
        ),
        2 * normal(*shape) + 1,
        *arrays,
        tolerance=3e-5,
    )
    for a, b in zip(mine, theirs, strict=True):
        assert np.allclose(a.array, b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [(2, 1, 3, 0), (0, 2, 3, 1), (3, 2, 1, 0)])
def test_batch_norm_of_what_lies_otherwise(order):
    back = tuple(np.argsort(order))

    def lay(x):
        return core.Tensor(np.ascontiguousarray(x.transpose(order)).transpose(back), True)

    x, g = normal(3, 4, 5, 6), normal(3, 4, 5, 6, seed=1)
    mine, theirs = lay(x), torch.tensor(x, requires_grad=True)
    out = F.batch_norm(mine, None, None, training=True)
    assert out.array.strides == mine.array.strides
    out.backward(g)
    expected = torch.nn.functional.batch_norm(theirs, None, None, training=True)
    expected.backward(torch.tensor(g))
    assert np.allclose(out.array, expected.detach().numpy(), atol=1e-5)
    assert np.allclose(mine.grad.array, theirs.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(3, 6), (3, 6, 5), (2, 6, 3, 4), (2, 6, 40, 40)])
@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("parts", ["", "wb"])
def test_group_norm(shape, groups, parts):
    arrays = [normal(6, seed=i + 1) for i, _ in enumerate(parts)]
    both(
        lambda x, *a: F.group_norm(x, groups, *a),
        lambda x, *a: torch.nn.functional.group_norm(x, groups, *a),
        normal(*shape) + 1,
        *arrays,
        tolerance=1e-4,
    )


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 4, 3, 4), (2, 4, 3, 2, 3)])
@pytest.mark.parametrize(("running", "stats"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("parts", ["", "wb"])
def test_instance_norm(shape, running, stats, parts):
    arrays = [normal(4, seed=i + 1) for i, _ in enumerate(parts)]
    held = [normal(4, seed=3), np.abs(normal(4, seed=4)) + 0.5]
    mine = [core.tensor(a.copy()) if running else None for a in held]
    theirs = [torch.tensor(a.copy()) if running else None for a in held]
    both(
        lambda x, *a: F.instance_norm(x, *mine, *a, use_input_stats=stats, momentum=0.3),
        lambda x, *a: torch.nn.functional.instance_norm(
            x, *theirs, *a, use_input_stats=stats, momentum=0.3
        ),
        normal(*shape) + 1,
        *arrays,
        tolerance=5e-5,
    )
    for a, b in zip(mine, theirs, strict=True):
        assert not running or np.allclose(a.array, b.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 7, 3), (2, 7, 3, 4), (2, 7, 2, 3, 2)])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_local_response_norm(shape, size):
    both(*function("local_response_norm", size=size, alpha=0.5, beta=0.6, k=2), normal(*shape))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_normalize(p, dim):
    both(*function("normalize", p=p, dim=dim), normal(3, 4, 5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "batch_norm", "group_norm"])
def test_dtypes(name, dtype):
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    x, g = normal(6, 8) + 1, normal(6, 8, seed=1)
    options = {
        "layer_norm": ((8,),),
        "rms_norm": ((8,),),
        "batch_norm": (None, None, None, None, True),
        "group_norm": (2,),
    }[name]
    mine = core.Tensor(x.astype(kind), requires_grad=True)
    theirs = torch.tensor(mine.array.astype(np.float64), requires_grad=True)
    out = getattr(F, name)(mine, *options)
    other = getattr(torch.nn.functional, name)(theirs, *options)
    g = g.astype(kind)
    out.backward(g)
    other.backward(torch.tensor(g.astype(np.float64)))
    assert out.dtype == kind
    # PyTorch's 16-bit group_norm keeps its means in 16 bits: float64 is the better judge.
    near = {"float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-12}[dtype]
    for a, b in ((out, other), (mine.grad, theirs.grad)):
        assert np.allclose(a.array.astype(np.float64), b.detach().numpy(), atol=near, rtol=near)


LAYERS = [
    ("BatchNorm1d", (4,), {}, (6, 4)),
    ("BatchNorm1d", (4,), {"momentum": None}, (6, 4, 3)),
    ("BatchNorm2d", (4,), {"momentum": 0.3, "eps": 1e-3}, (3, 4, 5, 2)),
    ("BatchNorm2d", (4,), {"affine": False}, (3, 4, 5, 2)),
    ("BatchNorm2d", (4,), {"track_running_stats": False}, (3, 4, 5, 2)),
    ("BatchNorm2d", (4,), {"bias": False}, (3, 4, 5, 2)),
    ("BatchNorm3d", (4,), {}, (2, 4, 3, 2, 2)),
    ("InstanceNorm1d", (4,), {}, (3, 4, 5)),
    ("InstanceNorm1d", (4,), {"affine": True}, (4, 5)),
    ("InstanceNorm2d", (4,), {"affine": True, "track_running_stats": True}, (3, 4, 5, 2)),
    ("InstanceNorm3d", (4,), {"track_running_stats": True}, (2, 4, 3, 2, 2)),
    ("GroupNorm", (2, 4), {}, (3, 4, 5)),
    ("GroupNorm", (2, 4), {"affine": False, "eps": 0.1}, (3, 4)),
    ("LayerNorm", (4,), {}, (3, 4)),
    ("LayerNorm", ((3, 4),), {"bias": False}, (2, 3, 4)),
    ("LayerNorm", ([3, 4],), {"elementwise_affine": False}, (2, 3, 4)),
    ("RMSNorm", (4,), {}, (3, 4)),
    ("RMSNorm", ((3, 4),), {"eps": 0.1, "elementwise_affine": False}, (2, 3, 4)),
    ("LocalResponseNorm", (3,), {"k": 2.0}, (2, 5, 4)),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS)
def test_layers(name, arguments, options, shape):
    """Two batches in training, then one in evaluation, with PyTorch's state loaded."""
    mine, theirs = (
        getattr(nn, name)(*arguments, **options),
        getattr(torch.nn, name)(*arguments, **options),
    )
    assert repr(mine) == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for parameter in theirs.parameters():
        parameter.data.normal_()
    mine.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    for seed in range(3):
        if seed == 2:
            mine.eval()
            theirs.eval()
        both(mine, theirs, normal(*shape, seed=seed) + seed, tolerance=3e-5)
        for key, held in theirs.state_dict().items():
            assert np.allclose(mine.state_dict()[key].array, held.numpy(), atol=1e-5), key
    for (key, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert np.allclose(p.grad.array, q.grad.numpy(), rtol=1e-4, atol=1e-4), key
