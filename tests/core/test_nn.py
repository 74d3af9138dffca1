"""Layers and losses against plain loops, and what a module is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as public_F
from holdfast import core, nn
from holdfast.core.gradcheck import check_gradients
from holdfast.core.nn import functional as F
from holdfast.errors import ShapeError, UsageError


def naive_conv2d(x, weight, bias, stride, padding, dilation):
    x = np.pad(x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2))
    kh, kw = weight.shape[2:]
    oh = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    out = np.zeros((x.shape[0], weight.shape[0], oh, ow))
    for y in range(oh):
        for z in range(ow):
            window = x[
                :, :,
                y * stride[0] : y * stride[0] + dilation[0] * (kh - 1) + 1 : dilation[0],
                z * stride[1] : z * stride[1] + dilation[1] * (kw - 1) + 1 : dilation[1],
            ]  # fmt: skip
            out[:, :, y, z] = np.einsum("ncij,ocij->no", window, weight)
    return out if bias is None else out + bias[:, None, None]


pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), pairs, pairs, pairs,
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans(),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)  # fmt: skip
def test_conv2d_is_the_plain_loop_and_its_gradient(
    batch, channels, outputs, kernel, stride, dilation, padding, bias, extra
):
    rng = np.random.default_rng(0)
    sizes = zip(dilation, kernel, padding, strict=True)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in sizes]
    x = rng.normal(size=(batch, channels, least[0] + extra[0], least[1] + extra[1]))
    weight = rng.normal(size=(outputs, channels, *kernel))
    b = rng.normal(size=outputs) if bias else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    bs = None if b is None else core.tensor(b)
    out = F.conv2d(core.tensor(x), core.tensor(weight), bs, **options)
    assert np.allclose(out.array, naive_conv2d(x, weight, b, **options))
    check_gradients(F.conv2d, (x, weight, b), options)


@settings(deadline=None, max_examples=40)
@given(pairs, st.none() | pairs, st.booleans(), st.sampled_from(["max", "avg"]), pairs)
def test_pooling_is_the_plain_loop_and_its_gradient(kernel, stride, padded, kind, extra):
    x = np.random.default_rng(0).permutation(2 * 3 * 8 * 9).reshape(2, 3, 8, 9) / 10
    x = x[:, :, : 5 + extra[0], : 6 + extra[1]]
    padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
    operation = F.max_pool2d if kind == "max" else F.avg_pool2d
    options = {"kernel_size": kernel, "stride": stride, "padding": padding}
    out = operation(core.tensor(x), **options).array
    wide = np.pad(
        x, ((0, 0), (0, 0), (padding[0],) * 2, (padding[1],) * 2),
        constant_values=-np.inf if kind == "max" else 0,
    )  # fmt: skip
    step = stride or kernel
    for (y, z), found in np.ndenumerate(out[0, 0]):
        window = wide[:, :, y * step[0] :, z * step[1] :][:, :, : kernel[0], : kernel[1]]
        expected = window.max((2, 3)) if kind == "max" else window.mean((2, 3))
        assert np.allclose(out[:, :, y, z], expected), found
    check_gradients(operation, (x,), options)


def test_of_equal_values_the_first_gets_the_gradient():
    x = core.zeros(1, 1, 4, 4, requires_grad=True)
    F.max_pool2d(x, 2).sum().backward()
    assert x.grad[0, 0].tolist() == [[1, 0, 1, 0], [0] * 4, [1, 0, 1, 0], [0] * 4]
    y = core.ones(1, 1, 3, 3, requires_grad=True)
    F.max_pool2d(y, 1).sum().backward()
    assert y.grad.sum().item() == 9


def test_images_of_any_layout_give_the_same():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 2, 6, 6)).astype(np.float32)
    w = rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    inner = np.ascontiguousarray(x.transpose(2, 1, 3, 0)).transpose(3, 1, 0, 2)
    results = []
    for layout in (x, inner):
        a, b = core.Tensor(layout, requires_grad=True), core.tensor(w, requires_grad=True)
        y = F.max_pool2d(F.relu(F.conv2d(a, b, padding=1)), 2).flatten(1)
        y.backward(np.linspace(0, 1, y.numel()).reshape(y.shape))
        results.append((y.array, a.grad.array, b.grad.array))
    for first, second in zip(*results, strict=True):
        assert np.allclose(first, second, atol=1e-5)


def test_losses_by_their_formulas():
    logits = np.array([[1.0, 2.0, 0.5], [0.1, -1.0, 3.0]])
    classes = core.tensor([1, 2])
    expected = np.log(np.exp(logits).sum(1)) - logits[[0, 1], [1, 2]]
    x = core.tensor(logits)
    assert np.allclose(F.cross_entropy(x, classes, reduction="none").array, expected)
    assert np.isclose(F.cross_entropy(x, classes).item(), expected.mean())
    assert np.isclose(nn.CrossEntropyLoss(reduction="sum")(x, classes).item(), expected.sum())
    assert np.isclose(F.cross_entropy(x * 1000, classes).item(), 0)
    p, t = np.array([0.2, 0.7]), np.array([0.0, 1.0])
    each = -(t * np.log(p) + (1 - t) * np.log(1 - p))
    assert np.isclose(nn.BCELoss()(core.tensor(p), core.tensor(t)).item(), each.mean())
    z = core.tensor(np.log(p / (1 - p)))
    assert np.isclose(nn.BCEWithLogitsLoss()(z, core.tensor(t)).item(), each.mean())
    assert F.binary_cross_entropy(core.tensor([0.0, 1.0]), core.tensor([1.0, 1.0])).item() == 50.0
    assert np.isclose(nn.MSELoss()(core.tensor(p), core.tensor(t)).item(), ((p - t) ** 2).mean())


ROWS, IMAGES = core.zeros(4, 3), core.zeros(1, 2, 4, 4)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: F.linear(ROWS, core.zeros(2, 5)), r"linear: .*\(4, 3\).*\(2, 5\)"),
        (lambda: F.cross_entropy(ROWS, core.tensor([0, 1, 2])), r"cross_entropy: .*\(3,\)"),
        (lambda: F.cross_entropy(ROWS, core.tensor([0, 1, 2, 3])), "0 to 2"),
        (lambda: F.mse_loss(ROWS, ROWS, reduction="max"), "found 'max'"),
        (lambda: F.conv2d(IMAGES, core.zeros(1, 3, 2, 2)), r"conv2d: .*\(1, 3, 2, 2\)"),
        (lambda: F.conv2d(IMAGES, core.zeros(1, 2, 5, 5)), "conv2d: .*no smaller than the kernel"),
        (lambda: F.max_pool2d(IMAGES, 5), "max_pool2d: .*no smaller than the kernel"),
        (lambda: F.avg_pool2d(IMAGES, 2, padding=2), "avg_pool2d: .*half"),
        (lambda: F.dropout(ROWS, 1.5), "dropout: .*probability"),
    ],
)
def test_bad_input_is_refused_by_name(call, said):
    with pytest.raises((ShapeError, UsageError), match=said):
        call()


def test_softmax_takes_its_axis_by_place():
    x = core.tensor([[1.0, 2.0], [3.0, 5.0]])
    assert np.allclose(F.softmax(x, 0).sum(dim=0).array, 1)
    assert np.allclose(F.log_softmax(x, 1).exp().sum(dim=1).array, 1)


def test_dropout_drops_scales_and_rests():
    core.manual_seed(0)
    x = core.ones(10_000, requires_grad=True)
    y = F.dropout(x, 0.25)
    kept = y.array != 0
    assert 0.72 < kept.mean() < 0.78
    assert np.allclose(y.array[kept], 4 / 3)
    y.sum().backward()
    assert np.array_equal(x.grad.array, y.array)
    assert F.dropout(x, 0.25, training=False) is x
    assert F.dropout(x, 1.0).sum().item() == 0
    layer = nn.Dropout(0.5)
    assert layer.eval()(x) is x
    assert layer.train()(x) is not x


def test_the_public_faces_are_these():
    assert public_F.conv2d is F.conv2d
    from holdfast import optim
    from holdfast.core import nn as inner
    from holdfast.core import optim as inner_optim

    assert nn.Linear is inner.Linear
    assert set(optim.__all__) == set(inner_optim.__all__)
