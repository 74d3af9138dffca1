"""Convolutions, transposed ones, unfolding and their layers beside PyTorch's.

Values and gradients agree within 1e-4 absolute and relative, in float32.
"""

import itertools

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

TOLERANCE = 1e-4

CONVOLUTIONS = [
    ("conv1d", (3, 2, 9), (4, 2, 3), {}),
    ("conv1d", (3, 2, 9), (4, 2, 3), {"stride": 2, "padding": 1}),
    ("conv1d", (3, 2, 12), (4, 2, 3), {"dilation": 3, "padding": "same"}),
    ("conv1d", (3, 4, 9), (6, 2, 4), {"groups": 2, "padding": "same"}),
    ("conv1d", (2, 9), (4, 2, 3), {"padding": "valid"}),
    ("conv1d", (1, 1, 1), (1, 1, 1), {}),
    ("conv2d", (3, 2, 8, 7), (4, 2, 3, 3), {}),
    ("conv2d", (3, 2, 8, 7), (4, 2, 3, 2), {"stride": 2}),
    ("conv2d", (3, 2, 8, 7), (4, 2, 3, 3), {"padding": (2, 1), "stride": (1, 3)}),
    ("conv2d", (3, 2, 9, 9), (4, 2, 3, 3), {"dilation": 2, "padding": 3}),
    ("conv2d", (40, 2, 9, 9), (4, 2, 3, 3), {"dilation": (1, 2), "padding": 3}),
    ("conv2d", (40, 2, 9, 9), (4, 2, 3, 3), {"dilation": (2, 1), "stride": (2, 3)}),
    ("conv2d", (16, 1, 28, 28), (6, 1, 5, 5), {"padding": 2}),
    ("conv2d", (1, 3, 12, 12), (2, 3, 1, 1), {}),
    ("conv2d", (30, 3, 12, 12), (2, 3, 1, 1), {}),
    ("conv2d", (30, 3, 12, 12), (2, 3, 1, 1), {"stride": 2}),
    ("conv2d", (30, 3, 12, 12), (2, 3, 4, 1), {"padding": (1, 0)}),
    ("conv2d", (30, 4, 12, 12), (2, 2, 1, 1), {"groups": 2}),
    ("conv2d", (30, 4, 12, 12), (6, 2, 3, 1), {"groups": 2}),
    ("conv2d", (9, 3, 11, 5), (2, 3, 4, 2), {"stride": 3, "dilation": (2, 1), "padding": (3, 0)}),
    ("conv2d", (5, 6, 8, 8), (6, 1, 3, 3), {"groups": 6, "padding": 1}),
    ("conv2d", (50, 6, 8, 8), (12, 1, 3, 3), {"groups": 6, "stride": 2, "padding": 1}),
    ("conv2d", (50, 6, 8, 8), (9, 2, 4, 3), {"groups": 3, "padding": "same"}),
    ("conv2d", (2, 3, 8, 7), (4, 3, 4, 4), {"padding": "same", "dilation": (1, 2)}),
    ("conv2d", (3, 8, 7), (4, 3, 3, 3), {"padding": "same"}),
    ("conv2d", (2, 3, 4, 4), (4, 3, 4, 4), {"stride": 5}),
    ("conv2d", (20, 3, 9, 9), (4, 3, 2, 2), {"stride": 4}),
    ("conv2d", (20, 40, 9, 9), (30, 40, 3, 3), {"padding": 1}),
    ("conv3d", (2, 2, 5, 6, 4), (3, 2, 3, 3, 2), {}),
    ("conv3d", (30, 2, 5, 6, 4), (3, 2, 3, 3, 2), {"padding": (1, 0, 1), "stride": (2, 1, 2)}),
    ("conv3d", (2, 4, 5, 6, 4), (4, 2, 2, 3, 2), {"groups": 2, "dilation": (1, 2, 1)}),
    ("conv3d", (30, 2, 5, 6, 4), (3, 2, 3, 3, 2), {"padding": "same", "dilation": (2, 1, 1)}),
    ("conv3d", (2, 5, 6, 4), (3, 2, 3, 3, 2), {}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize(("name", "x", "weight", "options"), CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution(name, x, weight, options, bias):
    arrays = [normal(*x), normal(*weight, seed=1) / 3]
    if bias:
        arrays.append(normal(weight[0], seed=2))
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    both(
        lambda *a: ours(*a, **options), lambda *a: reference(*a, **options), *arrays,
        tolerance=TOLERANCE,
    )  # fmt: skip


TRANSPOSED = [
    ("conv_transpose1d", (3, 2, 5), (2, 4, 3), {}),
    ("conv_transpose1d", (3, 4, 5), (4, 3, 4), {"stride": 3, "groups": 2, "output_padding": 2}),
    ("conv_transpose1d", (2, 5), (2, 4, 3), {"dilation": 2, "padding": 1}),
    ("conv_transpose2d", (3, 2, 5, 4), (2, 4, 3, 3), {}),
    ("conv_transpose2d", (3, 2, 5, 4), (2, 4, 4, 4), {"stride": 2, "padding": 1}),
    ("conv_transpose2d", (40, 8, 4, 4), (8, 6, 4, 4), {"stride": 2, "padding": 1}),
    ("conv_transpose2d", (40, 8, 1, 1), (8, 6, 4, 4), {}),
    ("conv_transpose2d", (40, 2, 5, 4), (2, 3, 3, 2), {"stride": (2, 3), "output_padding": (1, 2)}),
    ("conv_transpose2d", (20, 4, 5, 4), (4, 3, 3, 2), {"groups": 2, "dilation": (1, 2)}),
    ("conv_transpose2d", (20, 2, 5, 4), (2, 3, 3, 2), {"dilation": (3, 1), "padding": 1}),
    ("conv_transpose2d", (2, 5, 4), (2, 3, 2, 2), {"stride": 2}),
    ("conv_transpose2d", (6, 2, 5, 4), (2, 3, 1, 1), {"stride": 3, "output_padding": 2}),
    ("conv_transpose3d", (2, 2, 3, 2, 4), (2, 3, 2, 3, 2), {"stride": (1, 2, 2)}),
    ("conv_transpose3d", (30, 2, 3, 2, 4), (2, 3, 2, 3, 2), {"padding": (1, 1, 0), "stride": 2}),
]


@pytest.mark.parametrize(("name", "x", "weight", "options"), TRANSPOSED)
@pytest.mark.parametrize("bias", [True, False])
def test_transposed_convolution(name, x, weight, options, bias):
    arrays = [normal(*x), normal(*weight, seed=1) / 3]
    if bias:
        arrays.append(normal(weight[1] * options.get("groups", 1), seed=2))
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    both(
        lambda *a: ours(*a, **options), lambda *a: reference(*a, **options), *arrays,
        tolerance=TOLERANCE,
    )  # fmt: skip


UNFOLDS = [
    {"kernel_size": 3},
    {"kernel_size": (2, 3), "stride": 2},
    {"kernel_size": (3, 2), "padding": (1, 0), "dilation": (1, 2), "stride": (1, 2)},
    {"kernel_size": 2, "padding": 1, "stride": 3},
]


@pytest.mark.parametrize("options", UNFOLDS)
@pytest.mark.parametrize("shape", [(2, 3, 7, 6), (3, 7, 6)])
def test_unfold_and_fold(options, shape):
    there, reference = torch.nn.functional.unfold, torch.nn.functional.fold
    x = normal(*shape)
    both(lambda t: F.unfold(t, **options), lambda t: there(t, **options), x)
    columns = there(torch.tensor(x), **options).numpy()
    both(
        lambda t: F.fold(t, output_size=(7, 6), **options),
        lambda t: reference(t, output_size=(7, 6), **options),
        columns,
    )


def penalty(conv, x, weight, bias, grad):
    """A gradient penalty: how far the gradient by x is from length 1."""
    (g,) = grad(conv(x, weight, bias).tanh().sum(), x)
    return ((g * g).sum() - 1) ** 2


PENALTIES = [
    ("conv1d", (3, 2, 9), (4, 2, 3), {"stride": 2, "padding": 1}),
    ("conv2d", (3, 4, 6, 5), (6, 2, 3, 2), {"groups": 2, "dilation": (1, 2)}),
    ("conv2d", (30, 2, 6, 5), (3, 2, 4, 3), {"padding": "same"}),
    ("conv3d", (2, 2, 4, 5, 4), (3, 2, 2, 3, 2), {"padding": 1}),
    ("conv_transpose1d", (3, 2, 5), (2, 4, 3), {"stride": 2, "output_padding": 1}),
    ("conv_transpose2d", (3, 4, 3, 4), (4, 3, 4, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("conv_transpose3d", (2, 2, 3, 2, 3), (2, 3, 2, 3, 2), {"stride": (1, 2, 1)}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@pytest.mark.parametrize(("name", "x", "weight", "options"), PENALTIES)
def test_gradient_penalty(name, x, weight, options):
    outputs = weight[0] if "transpose" not in name else weight[1] * options.get("groups", 1)
    arrays = normal(*x), normal(*weight, seed=1) / 3, normal(outputs, seed=2)
    mine, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    both(
        lambda *a: penalty(
            lambda *b: mine(*b, **options), *a, lambda y, t: core.grad(y, t, create_graph=True)
        ),
        lambda *a: penalty(
            lambda *b: theirs(*b, **options),
            *a,
            lambda y, t: torch.autograd.grad(y, t, create_graph=True),
        ),
        *[a.astype(np.float64) for a in arrays],
    )


LAYERS = [
    ("Conv1d", (2, 4, 3), {"stride": 2, "padding": 1}, (3, 2, 9)),
    ("Conv2d", (2, 4, (3, 2)), {"padding": "same", "dilation": 2, "bias": False}, (3, 2, 9, 8)),
    ("Conv2d", (4, 4, 3), {"groups": 4, "padding": 1}, (3, 4, 9, 8)),
    ("Conv3d", (2, 4, 2), {"padding": (1, 0, 1)}, (3, 2, 4, 5, 3)),
    ("ConvTranspose1d", (2, 4, 3), {"stride": 2}, (3, 2, 5)),
    ("ConvTranspose2d", (4, 6, 4, 2, 1), {"groups": 2, "bias": False}, (3, 4, 3, 3)),
    ("ConvTranspose2d", (4, 6, 3, 2, 1, 1), {"dilation": 2}, (3, 4, 3, 3)),
    ("ConvTranspose3d", (2, 4, 2), {"stride": (1, 2, 2)}, (3, 2, 2, 3, 2)),
    *[
        (f"Conv{n}d", (2, 4, 3), {"padding": padding, "padding_mode": mode}, shape)
        for (n, shape), mode, padding in itertools.product(
            ((1, (3, 2, 6)), (2, (3, 2, 6, 5)), (3, (3, 2, 6, 5, 7))),
            ("reflect", "replicate", "circular"),
            (2, "same"),
        )
    ],
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "options", "x"), LAYERS)
def test_layers(name, arguments, options, x):
    ours, theirs = (getattr(kind, name)(*arguments, **options) for kind in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    state = {n: t.detach().numpy() for n, t in theirs.state_dict().items()}
    assert {n: t.shape for n, t in ours.state_dict().items()} == {
        n: t.shape for n, t in state.items()
    }
    ours.load_state_dict(state)
    both(ours, theirs, normal(*x), tolerance=TOLERANCE)
    for (n, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert np.allclose(p.grad.array, q.grad.numpy(), rtol=1e-4, atol=1e-4), n


def test_weights_begin_within_the_same_bounds():
    for name, arguments in [("Conv2d", (6, 300, 5)), ("ConvTranspose2d", (6, 300, 5))]:
        ours, theirs = (getattr(kind, name)(*arguments) for kind in (nn, torch.nn))
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert np.isclose(np.abs(p.array).max(), q.detach().abs().max(), rtol=0.3)


def test_a_transposed_layer_makes_the_size_it_is_asked_for():
    ours, theirs = (kind.ConvTranspose2d(2, 3, 3, stride=2) for kind in (nn, torch.nn))
    ours.load_state_dict({n: t.detach().numpy() for n, t in theirs.state_dict().items()})
    both(
        lambda x: ours(x, output_size=(10, 9)),
        lambda x: theirs(x, output_size=(10, 9)),
        normal(2, 2, 4, 4),
        tolerance=TOLERANCE,
    )
