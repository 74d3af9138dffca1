"""Pooling and resampling: what the definition says, any layout, dtypes, errors."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.gradcheck import check_gradients
from holdfast.core.ops.interpolate import KINDS, Taps
from holdfast.core.ops.layout import memory_order, ordered, resized
from holdfast.errors import ShapeError, UsageError

TAKEN = st.sampled_from([1, 2, 3])


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["max", "avg"]), st.tuples(TAKEN, TAKEN), st.tuples(TAKEN, TAKEN),
    st.booleans(), st.booleans(), st.tuples(st.integers(4, 9), st.integers(4, 9)),
)  # fmt: skip
def test_windows_are_those_of_the_definition(kind, kernel, stride, padded, ceil_mode, image):
    x = np.random.default_rng(0).permutation(6 * image[0] * image[1]) / 10
    x = x.reshape(2, 3, *image)
    padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
    options = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    operation = F.max_pool2d if kind == "max" else F.avg_pool2d
    out = operation(core.tensor(x), **options).array
    for y, z in np.ndindex(out.shape[2:]):
        spans, inside = [], []
        for at, n, k, s, p in zip((y, z), image, kernel, stride, padding, strict=True):
            start, stop = at * s - p, min(at * s - p + k, n + p)
            assert start < n  # no window begins beyond the image
            spans.append(stop - start)
            inside.append(slice(max(start, 0), min(stop, n)))
        window = x[:, :, *inside]
        expected = (
            window.max((2, 3)) if kind == "max" else window.sum((2, 3)) / (spans[0] * spans[1])
        )
        assert np.allclose(out[:, :, y, z], expected)
    check_gradients(operation, (x,), options)


def test_of_equal_values_the_first_row_by_row_is_taken():
    x = core.tensor([[[[0.0, 1.0], [1.0, 1.0]]]], requires_grad=True)
    out, places = F.max_pool2d(x, 2, return_indices=True)
    out.sum().backward()
    assert x.grad.tolist() == [[[[0, 1], [0, 0]]]]
    assert places.tolist() == [[[[1]]]]
    flat = core.zeros(1, 1, 5, 5, requires_grad=True)
    F.max_pool2d(flat, 3, stride=1).sum().backward()
    assert flat.grad.sum().item() == 9
    assert flat.grad[0, 0, :3, :3].tolist() == [[1.0] * 3] * 3


def test_not_a_number_is_never_lost():
    x = core.tensor([[[1.0, float("nan"), 3.0, 2.0]]])
    out, places = F.max_pool1d(x, 2, return_indices=True)
    assert np.isnan(out.array[0, 0, 0])
    assert places.tolist() == [[[1, 2]]]


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, 3, 2, 1),
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda x: F.adaptive_avg_pool2d(x, (4, 3)),
    ],
)
def test_values_and_gradients_keep_the_order_of_memory(operation):
    rng = np.random.default_rng(0)
    x = core.Tensor(rng.normal(size=(6, 3, 6, 4)).transpose(3, 1, 0, 2), requires_grad=True)
    plain = core.Tensor(np.ascontiguousarray(x.array), requires_grad=True)
    out, expected = operation(x), operation(plain)
    assert memory_order(out.array) == memory_order(x.array)
    g = rng.normal(size=out.shape)
    out.backward(g)
    expected.backward(g)
    assert np.allclose(out.array, expected.array)
    assert np.allclose(x.grad.array, plain.grad.array)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_floats_are_added_up_in_float32(dtype):
    x = core.tensor(np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(dtype))
    wide = core.tensor(x.array.astype(np.float32))
    for operation in (
        lambda t: F.avg_pool2d(t, 4),
        lambda t: F.max_pool2d(t, 3, 2),
        lambda t: F.adaptive_avg_pool2d(t, 3),
        lambda t: F.interpolate(t, size=(5, 11), mode="bicubic"),
    ):
        out = operation(x)
        assert out.dtype == dtype
        assert np.array_equal(out.array, operation(wide).array.astype(dtype))


def test_integers_are_pooled_and_resampled_as_they_are():
    x = core.tensor(np.arange(-16, 0).reshape(1, 1, 4, 4))
    assert F.max_pool2d(x, 2, padding=1).tolist() == [
        [[[-16, -14, -13], [-8, -6, -5], [-4, -2, -1]]]
    ]
    assert F.interpolate(x, scale_factor=0.5).tolist() == [[[[-16, -14], [-8, -6]]]]


@given(st.sampled_from(sorted(KINDS)), st.integers(1, 9), st.integers(1, 12))
def test_transposed_taps_are_the_transposed_matrix(kind, old, new):
    taps = KINDS[kind](old, new, old / new)

    def matrix(taps, size):
        found = np.zeros((taps.places.shape[1], size))
        weights = np.ones(taps.places.shape) if taps.weights is None else taps.weights
        for places, row in zip(taps.places, weights, strict=True):
            np.add.at(found, (np.arange(len(places)), places), row)
        return found

    forward = matrix(taps, old)
    assert np.allclose(forward.sum(axis=1), 1)  # each new element is a mean
    assert np.allclose(matrix(taps.transposed(old), new), forward.T)


def test_doubling_by_the_nearest_gathers_two_elements_for_a_gradient():
    back = KINDS["nearest"](3, 6, 0.5).transposed(3)
    assert back.places.tolist() == [[0, 2, 4], [1, 3, 5]]
    assert back.weights is None
    assert isinstance(back, Taps)


def test_layouts():
    x = np.zeros((2, 3, 4)).transpose(1, 2, 0)
    assert memory_order(x) == (2, 0, 1)
    assert memory_order(resized(x, 1, 7)) == (2, 0, 1)
    assert resized(x, 1, 7).shape == (3, 7, 2)
    assert ordered(x, (2, 0, 1)) is x
    assert memory_order(ordered(x, (0, 1, 2))) == (0, 1, 2)


def test_pixels_are_shuffled_and_back():
    x = core.arange(2 * 8 * 3 * 2).reshape(2, 8, 3, 2)
    assert F.pixel_shuffle(x, 2).shape == (2, 2, 6, 4)
    assert F.pixel_shuffle(x, 2)[0, 0, :2, :2].tolist() == [[0, 6], [12, 18]]
    assert np.array_equal(F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2).array, x.array)


X = core.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: F.max_pool2d(X, 5), "max_pool2d: expected images no smaller than the kernel"),
        (lambda: F.max_pool2d(core.zeros(4, 4), 2), r"max_pool2d: expected x \(N, C, H, W\)"),
        (lambda: F.max_pool2d(X, 2, padding=2), "max_pool2d: padding is at most half"),
        (lambda: F.avg_pool2d(X, 2, stride=0), "avg_pool2d: .*at least 1"),
        (lambda: F.avg_pool2d(X, (2, 2, 2)), "kernel_size=.*expected one number, or 2"),
        (lambda: F.adaptive_avg_pool2d(X, 0), "output_size is at least 1"),
        (lambda: F.adaptive_max_pool2d(X, (1, 2, 3)), "expected one number, or 2"),
        (
            lambda: F.adaptive_max_pool2d(core.zeros(2, 4), 1),
            "adaptive_max_pool2d: expected images",
        ),
        (lambda: F.interpolate(X, 2, mode="sinc"), "mode is one of nearest"),
        (lambda: F.interpolate(X, 2, mode="trilinear"), "is for images of"),
        (lambda: F.interpolate(X, 2, align_corners=True), "align_corners is for modes"),
        (lambda: F.interpolate(X), "give either size or scale_factor"),
        (lambda: F.interpolate(X.long(), 2, mode="bilinear"), "only floats are interpolated"),
        (lambda: F.interpolate(X, 2, 2.0), "give either size or scale_factor"),
        (lambda: F.interpolate(X, scale_factor=0.1), "a size of at least 1"),
        (lambda: F.interpolate(X, scale_factor=-1), "scale_factor is above 0"),
        (
            lambda: F.interpolate(X, scale_factor=(1.0, 2.0, 3.0)),
            "scale_factor is one number, or 2",
        ),
        (lambda: F.interpolate(X, 8, recompute_scale_factor=True), "needs scale_factor"),
        (lambda: F.pixel_shuffle(X, 2), "pixel_shuffle: expected"),
        (lambda: F.pixel_unshuffle(X, 3), "pixel_unshuffle: expected"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(call, said):
    with pytest.raises((ShapeError, UsageError), match=said):
        call()


def test_layers_say_what_they_are():
    assert repr(nn.MaxPool2d(2)) == (
        "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)"
    )
    assert repr(nn.AdaptiveAvgPool2d(1)) == "AdaptiveAvgPool2d(output_size=1)"
    assert repr(nn.Upsample(scale_factor=2)) == "Upsample(scale_factor=2.0, mode='nearest')"
    out, places = nn.MaxPool2d(2, return_indices=True)(X)
    assert out.shape == places.shape == (1, 2, 2, 2)
