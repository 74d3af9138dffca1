"""Convolutions by a plain loop, in blocks of any size and every layout; dtypes and errors."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.gradcheck import check_gradients
from holdfast.core.ops import columns
from holdfast.core.ops.windows import Axis, convolved
from holdfast.errors import ShapeError, UsageError

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
SPREAD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def plain(x, weight, stride, padding, dilation, groups):
    """Convolve by a loop over windows."""
    axes = x.ndim - 2
    kernel = weight.shape[2:]
    x = np.pad(x, [(0, 0), (0, 0), *[(p, p) for p in padding]])
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    counts = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], spans, stride, strict=True)]
    out = np.zeros((x.shape[0], weight.shape[0], *counts))
    inputs, outputs = weight.shape[1], weight.shape[0] // groups
    for at in itertools.product(*map(range, counts)):
        place = [
            slice(a * s, a * s + n, d)
            for a, s, n, d in zip(at, stride, spans, dilation, strict=True)
        ]
        window = x[:, :, *place]
        for group in range(groups):
            part = window[:, group * inputs : (group + 1) * inputs]
            rows = slice(group * outputs, (group + 1) * outputs)
            of_windows = tuple(range(1, axes + 2))
            out[(slice(None), rows, *at)] = np.tensordot(
                part, weight[rows], axes=(of_windows, of_windows)
            )
    return out


@st.composite
def convolutions(draw):
    """Draw shapes and options of a convolution, and in what pieces it is to be worked."""
    axes = draw(st.integers(1, 3))

    def numbers(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(axes))

    kernel, stride, dilation = numbers(1, 3), numbers(1, 3), numbers(1, 2)
    padding, extra = numbers(0, 2), numbers(0, 3)
    groups = draw(st.integers(1, 2))
    inputs, outputs = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    image = tuple(
        max(1, d * (k - 1) + 1 - 2 * p) + e
        for d, k, p, e in zip(dilation, kernel, padding, extra, strict=True)
    )
    x = draw(st.sampled_from([1, 2, 5])), inputs, *image
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return x, (outputs, inputs // groups, *kernel), options


@settings(deadline=None, max_examples=80)
@given(convolutions(), st.booleans(), st.sampled_from([1, 1000]), st.booleans())
def test_convolution_is_the_plain_loop_and_its_gradient(case, bias, narrow, tiny):
    shape, kernel, options = case
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=shape), rng.normal(size=kernel)
    b = rng.normal(size=kernel[0]) if bias else None
    convolve = CONVOLVE[len(shape) - 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "NARROW", narrow)  # rows one by one, or all axes unrolled
        if tiny:
            patch.setitem(columns.BLOCK_BYTES, "numpy", 200)
            patch.setattr(columns, "ENOUGH", 1)
        given = [None if a is None else core.tensor(a) for a in (x, weight, b)]
        out = convolve(*given, **options)
        expected = plain(x, weight, **options)
        if bias:
            expected += b.reshape(-1, *(1,) * (len(shape) - 2))
        assert np.allclose(out.array, expected)
        check_gradients(convolve, (x, weight, b), options)


@settings(deadline=None, max_examples=40)
@given(convolutions(), st.sampled_from([1, 1000]), st.booleans())
def test_transposed_convolution_is_the_transpose(case, narrow, tiny):
    """Inner products agree: of a convolution with g, and of x with the transpose of g."""
    shape, kernel, options = case
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=shape), rng.normal(size=kernel)
    axes = len(shape) - 2
    forward = plain(x, weight, **options)
    g = rng.normal(size=forward.shape)
    spans = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(
            forward.shape[2:], *(options[o] for o in ("stride", "padding", "dilation")), kernel[2:],
            strict=True,
        )
    ]  # fmt: skip
    extra = [n - span for n, span in zip(shape[2:], spans, strict=True)]
    too_much = any(
        e >= max(s, d)
        for e, s, d in zip(extra, options["stride"], options["dilation"], strict=True)
    )
    if min(spans) < 1 or min(extra) < 0 or too_much:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "NARROW", narrow)
        if tiny:
            patch.setitem(columns.BLOCK_BYTES, "numpy", 200)
            patch.setattr(columns, "ENOUGH", 1)
        back = SPREAD[axes](core.tensor(g), core.tensor(weight), output_padding=extra, **options)
        assert np.isclose((back.array * x).sum(), (g * forward).sum())
        check_gradients(SPREAD[axes], (g, weight), {"output_padding": extra, **options})


def test_rows_lie_in_memory_one_after_the_other():
    x, weight = core.zeros(64, 3, 8, 8), core.zeros(5, 3, 3, 3)
    out = F.conv2d(x, weight)
    assert out.array.transpose(2, 1, 3, 0).flags.c_contiguous  # (H, C, W, N)
    single = F.conv2d(x[:1], weight)
    assert single.array.flags.c_contiguous  # rows of one image are too narrow


def test_columns_share_the_rows_that_windows_overlap_in():
    geometry = columns.Geometry.over(convolved("", (6, 5), (3, 2), 1, 0, 1), 1, 4, 32)
    padded = np.zeros((6, 4, 5, 32))
    ((rows, first, block),) = geometry.blocks(padded)
    assert (rows, first) == (slice(0, 4), slice(0, 4))
    assert block.shape == (4, 1, 3 * 4 * 2, 4 * 32)
    assert np.shares_memory(block[0], block[1])


def test_a_batch_without_images_has_an_output_without_images():
    x = core.zeros(0, 2, 6, 6, requires_grad=True)
    weight = core.ones(3, 2, 3, 3, requires_grad=True)
    out = F.conv2d(x, weight)
    assert out.shape == (0, 3, 4, 4)
    out.sum().backward()
    assert x.grad.shape == x.shape
    assert weight.grad.sum().item() == 0


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("batch", [1, 40])
def test_16_bit_floats_are_added_up_in_float32(dtype, batch):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(batch, 8, 6, 6)), rng.normal(size=(4, 8, 3, 3)), rng.normal(size=4)
    short = [core.Tensor(a.astype(dtype), requires_grad=True) for a in arrays]
    wide = [core.Tensor(t.array.astype(np.float32), requires_grad=True) for t in short]
    for operation, options in [(F.conv2d, {"padding": 1}), (F.conv_transpose2d, {"stride": 2})]:
        if operation is F.conv_transpose2d:
            short[1], wide[1] = (
                core.Tensor(np.swapaxes(t.array, 0, 1).copy(), requires_grad=True)
                for t in (short[1], wide[1])
            )
        mine, other = operation(*short, **options), operation(*wide, **options)
        assert mine.dtype == dtype
        assert np.array_equal(mine.array, other.array.astype(dtype))
        mine.backward(np.ones(mine.shape, dtype))
        other.backward(np.ones(other.shape, np.float32))
        for a, b in zip(short, wide, strict=True):
            assert a.grad.dtype == dtype
            assert np.array_equal(a.grad.array, b.grad.array.astype(dtype))
            a.grad = b.grad = None


def test_images_may_be_without_a_batch():
    x, weight = core.randn(2, 6, 5), core.randn(3, 2, 3, 3)
    assert F.conv2d(x, weight, padding="same").shape == (3, 6, 5)
    assert np.allclose(F.conv2d(x, weight).array, F.conv2d(x.unsqueeze(0), weight).array[0])
    assert F.conv_transpose2d(x, core.randn(2, 3, 2, 2), stride=2).shape == (3, 12, 10)
    assert F.unfold(x, 2).shape == (8, 20)
    assert F.fold(F.unfold(x, 2), (6, 5), 2).shape == (2, 6, 5)


X, W = core.zeros(1, 4, 6, 6), core.zeros(6, 4, 3, 3)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: F.conv2d(core.zeros(2, 2), W), r"conv2d: expected x \(N, C, H, W\)"),
        (lambda: F.conv2d(X, core.zeros(6, 4, 3)), r"conv2d: .*weight of shape \(6, 4, 3\)"),
        (lambda: F.conv2d(X, W, core.zeros(5)), r"conv2d: .*bias of shape \(5,\)"),
        (lambda: F.conv2d(X, core.zeros(6, 3, 3, 3)), r"conv2d: expected x of 3 channels"),
        (lambda: F.conv2d(X, W, groups=4), "conv2d: groups divides"),
        (lambda: F.conv2d(X, W, stride=0), "stride and dilation are at least 1"),
        (
            lambda: F.conv2d(X, W, stride=(1, 2, 3)),
            r"stride=\(1, 2, 3\): expected one number, or 2",
        ),
        (lambda: F.conv2d(X, W, padding=-1), "padding is at least 0"),
        (lambda: F.conv2d(X, W, padding="some"), "'same' or 'valid'; found 'some'"),
        (lambda: F.conv2d(X, W, stride=2, padding="same"), "needs a stride of 1"),
        (lambda: F.conv2d(X, W, dilation=3), "no smaller than the kernel"),
        (lambda: F.conv_transpose2d(X, W), "conv_transpose2d: expected x of 6 channels"),
        (
            lambda: F.conv_transpose2d(X, core.zeros(4, 1, 3, 3), output_padding=1),
            "output_padding is smaller than stride or dilation",
        ),
        (
            lambda: F.conv_transpose2d(X, core.zeros(4, 1, 1, 1), padding=3),
            "an image left within the padding",
        ),
        (lambda: F.fold(core.zeros(1, 8, 5), (3, 3), 2), r"fold: expected columns \(N, C x 4, 4\)"),
        (lambda: F.unfold(core.zeros(4, 4), 2), "unfold: expected images"),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: groups divides"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "padding_mode is one of zeros"),
        (lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same"), "needs a stride of 1"),
        (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), "padding_mode is 'zeros'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, said):
    with pytest.raises((ShapeError, UsageError), match=said):
        call()


@given(
    st.integers(1, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 3), st.integers(1, 3)
)
def test_met_elements_and_windows_are_those_of_the_definition(size, kernel, stride, border, hole):
    output = (size + 2 * border - hole * (kernel - 1) - 1) // stride + 1
    if output < 1:
        return
    axis = Axis(size, kernel, stride, border, border, hole, output)
    for offset in range(kernel):
        windows, elements = axis.met(offset)
        expected = [
            (w, w * stride + offset * hole - border)
            for w in range(output)
            if 0 <= w * stride + offset * hole - border < size
        ]
        found = zip(range(output)[windows], range(size)[elements], strict=True)
        assert list(found) == expected


def test_depthwise_layers_have_a_kernel_for_each_channel():
    layer = nn.Conv2d(8, 16, 3, groups=8, padding=1)
    assert layer.weight.shape == (16, 1, 3, 3)
    assert layer(core.zeros(2, 8, 5, 5)).shape == (2, 16, 5, 5)
    assert "groups=8" in repr(layer)
    bound = 1 / 3  # 1 / sqrt of the elements that one output is made of
    assert np.abs(layer.weight.array).max() <= bound
    assert np.abs(layer.bias.array).max() <= bound


def test_a_gradient_penalty_through_a_discriminator():
    """The gradient of a gradient's norm, by central differences."""
    rng = np.random.default_rng(0)

    def penalty(x, weight, other):
        h = F.max_pool2d(F.conv2d(x, weight, stride=2, padding=1).tanh(), 2)
        y = F.avg_pool2d(F.interpolate(F.conv2d(h, other), scale_factor=2, mode="bilinear"), 2)
        (g,) = core.grad(y.square().sum(), x, create_graph=True)
        return ((g * g).sum((1, 2, 3)).sqrt() - 1).square().sum()

    def first(x, weight, other):
        """Stand in for the penalty where nothing is to be differentiated."""
        return penalty(x.detach().requires_grad_(), weight, other).detach()

    x, weight = rng.normal(size=(3, 2, 9, 9)), rng.normal(size=(4, 2, 4, 4)) / 4
    other = rng.normal(size=(2, 4, 1, 1))
    leaves = [core.Tensor(a, requires_grad=True) for a in (x, weight, other)]
    penalty(*leaves).backward()
    for i in (1, 2):
        direction = rng.normal(size=leaves[i].shape)
        moved = []
        for sign in (1, -1):
            arrays = [leaf.array for leaf in leaves]
            arrays[i] = arrays[i] + sign * 1e-6 * direction
            moved.append(first(*(core.Tensor(a) for a in arrays)).item())
        slope = (moved[0] - moved[1]) / 2e-6
        assert np.isclose((leaves[i].grad.array * direction).sum(), slope, rtol=1e-5)
