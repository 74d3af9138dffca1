"""Pooling, interpolation and pixel shuffling beside PyTorch's: values and gradients."""

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

IMAGES = {1: (3, 2, 9), 2: (3, 2, 9, 8), 3: (3, 2, 9, 8, 6)}
WINDOWS = [
    {"kernel_size": 2},
    {"kernel_size": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 2, "stride": 1},
    {"kernel_size": 2, "stride": 3},
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"kernel_size": 4, "stride": 4, "padding": 2, "ceil_mode": True},
]


def with_ties(*shape):
    """Values of which many are equal, as after a ReLU."""
    return np.maximum(np.round(2 * normal(*shape)), 0)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("options", [*WINDOWS, {"kernel_size": 2, "dilation": 2, "padding": 1}])
def test_max_pool(axes, options):
    name = f"max_pool{axes}d"
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    x = with_ties(*IMAGES[axes])
    both(lambda t: ours(t, **options), lambda t: reference(t, **options), x)
    both(lambda t: ours(t, **options), lambda t: reference(t, **options), x[0])
    _, places = ours(core.tensor(x), **options, return_indices=True)
    _, expected = reference(torch.tensor(x), **options, return_indices=True)
    assert places.dtype == np.int64
    assert np.array_equal(places.array, expected.numpy())


@pytest.mark.parametrize("options", WINDOWS)
@pytest.mark.parametrize(
    ("axes", "extra"),
    [
        *[(axes, {}) for axes in (1, 2, 3)],
        *[(axes, {"count_include_pad": False}) for axes in (1, 2, 3)],
        *[(axes, {"divisor_override": 3}) for axes in (2, 3)],
    ],
)
def test_avg_pool(axes, options, extra):
    name, options = f"avg_pool{axes}d", {**options, **extra}
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    both(lambda t: ours(t, **options), lambda t: reference(t, **options), normal(*IMAGES[axes]))
    both(lambda t: ours(t, **options), lambda t: reference(t, **options), normal(*IMAGES[axes][1:]))


@pytest.mark.parametrize("options", [{"kernel_size": (3, 2), "stride": (2, 3), "padding": (1, 1)}])
@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_a_number_for_each_axis(name, options):
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    both(lambda t: ours(t, **options), lambda t: reference(t, **options), with_ties(3, 2, 9, 8))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 11, (3, 1, 2), (4, None, 2), (9, 8, 6)])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["avg", "max"])
def test_adaptive_pool(kind, axes, size):
    name = f"adaptive_{kind}_pool{axes}d"
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    size = size if isinstance(size, int) else size[:axes]
    x = with_ties(*IMAGES[axes])
    both(lambda t: ours(t, size), lambda t: reference(t, size), x)
    if kind == "max":
        _, places = ours(core.tensor(x), size, return_indices=True)
        assert np.array_equal(places.array, reference(torch.tensor(x), size, True)[1].numpy())


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3])
@pytest.mark.parametrize("options", [{"kernel_size": 3}, {"kernel_size": 2, "stride": 3}])
@pytest.mark.parametrize("axes", [1, 2])
def test_lp_pool(axes, norm_type, options):
    name = f"lp_pool{axes}d"
    ours, reference = getattr(F, name), getattr(torch.nn.functional, name)
    x = np.abs(normal(*IMAGES[axes])) + 0.1
    both(lambda t: ours(t, norm_type, **options), lambda t: reference(t, norm_type, **options), x)


RESIZED = [
    {"scale_factor": 2},
    {"scale_factor": 3},
    {"scale_factor": 1.7},
    {"scale_factor": 0.4},
    {"scale_factor": 1.05},
    {"scale_factor": 1.7, "recompute_scale_factor": True},
    {"scale_factor": "uneven"},
    {"size": 13},
    {"size": 4},
    {"size": 1},
]
MODES = [
    *[("nearest", n) for n in (1, 2, 3)],
    *[("nearest-exact", n) for n in (1, 2, 3)],
    *[("area", n) for n in (1, 2, 3)],
    *[("linear", 1), ("bilinear", 2), ("trilinear", 3), ("bicubic", 2)],
]


CORNERS = [
    *[(mode, axes, None) for mode, axes in MODES],
    *[(mode, axes, True) for mode, axes in MODES if "linear" in mode or mode == "bicubic"],
]


@pytest.mark.parametrize("options", RESIZED)
@pytest.mark.parametrize(("mode", "axes", "align_corners"), CORNERS)
def test_interpolate(mode, axes, options, align_corners):
    arguments = {"mode": mode, "align_corners": align_corners, **options}
    if options.get("scale_factor") == "uneven":
        arguments["scale_factor"] = (2.5, 1.05, 0.7)[:axes]
    x, reference = normal(*IMAGES[axes]), torch.nn.functional.interpolate
    stays = options.get("scale_factor") in (1.05, "uneven" if axes > 1 else 1.05)
    if stays and (mode, axes, align_corners) in ONE_SIDED:
        mine = F.interpolate(core.tensor(x), **arguments).array
        assert np.allclose(mine, reference(torch.tensor(x), **arguments).numpy(), atol=1e-5)
        return
    both(lambda t: F.interpolate(t, **arguments), lambda t: reference(t, **arguments), x)


ONE_SIDED = [("bicubic", 2, None), ("nearest", 1, None), ("nearest", 3, None)]
"""Where PyTorch resamples an axis whose size stays, but copies its gradient."""


def test_pixel_shuffle():
    there = torch.nn.functional
    for shape in [(2, 18, 3, 4), (18, 3, 4), (2, 3, 9, 1, 2)]:
        both(lambda t: F.pixel_shuffle(t, 3), lambda t: there.pixel_shuffle(t, 3), normal(*shape))
    for shape in [(2, 3, 9, 6), (3, 9, 6)]:
        both(
            lambda t: F.pixel_unshuffle(t, 3),
            lambda t: there.pixel_unshuffle(t, 3),
            normal(*shape),
        )


def squared(f, x, grad):
    (g,) = grad(f(x * x).tanh().sum(), x)
    return (g * g).sum()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("max_pool2d", {"kernel_size": 2}),
        ("max_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1}),
        ("avg_pool2d", {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False}),
        ("adaptive_avg_pool2d", {"output_size": (4, 3)}),
        ("adaptive_avg_pool2d", {"output_size": 1}),
        ("adaptive_max_pool2d", {"output_size": (4, 3)}),
        ("lp_pool2d", {"norm_type": 2, "kernel_size": 2}),
        ("interpolate", {"scale_factor": 2, "mode": "bilinear"}),
        ("interpolate", {"size": 5}),
        ("unfold", {"kernel_size": 2}),
        ("pixel_unshuffle", {"downscale_factor": 2}),
    ],
)
def test_second_derivatives(name, options):
    mine, theirs = getattr(F, name), getattr(torch.nn.functional, name)
    both(
        lambda t: squared(
            lambda u: mine(u, **options), t, lambda y, u: core.grad(y, u, create_graph=True)
        ),
        lambda t: squared(
            lambda u: theirs(u, **options),
            t,
            lambda y, u: torch.autograd.grad(y, u, create_graph=True),
        ),
        normal(2, 3, 6, 8).astype(np.float64),
    )


LAYERS = [
    ("MaxPool1d", (2,), {}, 1),
    ("MaxPool2d", (3, 2), {"padding": 1, "ceil_mode": True}, 2),
    ("MaxPool2d", ((3, 2),), {"dilation": 2}, 2),
    ("MaxPool3d", (2,), {}, 3),
    ("AvgPool1d", (2,), {}, 1),
    ("AvgPool2d", (3, 2, 1), {"count_include_pad": False}, 2),
    ("AvgPool2d", ((3, 2),), {"divisor_override": 5}, 2),
    ("AvgPool3d", (2,), {}, 3),
    ("AdaptiveAvgPool1d", (3,), {}, 1),
    ("AdaptiveAvgPool2d", ((3, None),), {}, 2),
    ("AdaptiveAvgPool3d", (1,), {}, 3),
    ("AdaptiveMaxPool1d", (3,), {}, 1),
    ("AdaptiveMaxPool2d", ((3, 4),), {}, 2),
    ("AdaptiveMaxPool3d", (2,), {}, 3),
    ("LPPool1d", (3, 2), {}, 1),
    ("LPPool2d", (1.0, 2), {"ceil_mode": True}, 2),
    ("Upsample", (), {"scale_factor": 2}, 2),
    ("Upsample", ((5, 3),), {"mode": "bilinear", "align_corners": True}, 2),
    ("Upsample", (), {"scale_factor": (2, 1.5, 1), "mode": "trilinear"}, 3),
    ("UpsamplingNearest2d", (), {"scale_factor": 2}, 2),
    ("UpsamplingBilinear2d", (7,), {}, 2),
    ("PixelShuffle", (1,), {}, 2),
    ("PixelUnshuffle", (1,), {}, 2),
]


@pytest.mark.parametrize(("name", "arguments", "options", "axes"), LAYERS)
def test_layers(name, arguments, options, axes):
    ours, theirs = (getattr(kind, name)(*arguments, **options) for kind in (nn, torch.nn))
    assert repr(ours) == repr(theirs)
    both(ours, theirs, np.abs(normal(*IMAGES[axes])) + 0.1)
