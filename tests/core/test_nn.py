"""Layers and losses against plain loops, and what a module is."""

from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as public_F
from holdfast import core, nn
from holdfast.core.errors import ShapeError
from holdfast.core.gradcheck import check_gradients
from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.ops import conv, pool
from holdfast.errors import CheckpointMismatch, UsageError


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
    st.tuples(st.integers(0, 3), st.integers(0, 3)), st.booleans(), st.booleans(),
    st.tuples(st.integers(0, 4), st.integers(0, 4)),
)  # fmt: skip
def test_conv2d_is_the_plain_loop_and_its_gradient(
    batch, channels, outputs, kernel, stride, dilation, padding, bias, tiny_blocks, extra
):
    rng = np.random.default_rng(0)
    sizes = zip(dilation, kernel, padding, strict=True)
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in sizes]
    x = rng.normal(size=(batch, channels, least[0] + extra[0], least[1] + extra[1]))
    weight = rng.normal(size=(outputs, channels, *kernel))
    b = rng.normal(size=outputs) if bias else None
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    before = conv.BLOCK_BYTES["numpy"]
    conv.BLOCK_BYTES["numpy"] = 200 if tiny_blocks else before
    try:
        out = conv.conv2d(core.tensor(x), core.tensor(weight), b, **options)
        assert np.allclose(out.array, naive_conv2d(x, weight, b, **options))
        check_gradients(conv.conv2d, (x, weight, b), options)
    finally:
        conv.BLOCK_BYTES["numpy"] = before


@settings(deadline=None, max_examples=40)
@given(pairs, st.none() | pairs, st.booleans(), st.sampled_from(["max", "avg"]), pairs)
def test_pooling_is_the_plain_loop_and_its_gradient(kernel, stride, padded, kind, extra):
    x = np.random.default_rng(0).permutation(2 * 3 * 8 * 9).reshape(2, 3, 8, 9) / 10
    x = x[:, :, : 5 + extra[0], : 6 + extra[1]]
    padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
    operation = pool.max_pool2d if kind == "max" else pool.avg_pool2d
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


def test_bad_input_is_refused_by_name():
    x = core.zeros(4, 3)
    with pytest.raises(ShapeError, match=r"linear: .*\(4, 3\), weight of shape \(2, 5\)"):
        F.linear(x, core.zeros(2, 5))
    with pytest.raises(ShapeError, match=r"cross_entropy: .*target of shape \(3,\)"):
        F.cross_entropy(x, core.tensor([0, 1, 2]))
    with pytest.raises(UsageError, match=r"classes 0 to 2 .* target holds 0 to 3"):
        F.cross_entropy(x, core.tensor([0, 1, 2, 3]))
    with pytest.raises(UsageError, match="integers; found float32"):
        F.cross_entropy(x, core.zeros(4))
    with pytest.raises(UsageError, match="'mean', 'sum' or 'none'; found 'max'"):
        F.mse_loss(x, x, reduction="max")
    with pytest.raises(ShapeError, match="one shape"):
        F.mse_loss(x, core.zeros(4, 1))
    with pytest.raises(UsageError, match="apply sigmoid"):
        F.binary_cross_entropy(x + 2, x)
    images = core.zeros(1, 2, 4, 4)
    with pytest.raises(ShapeError, match=r"conv2d: .*weight of shape \(1, 3, 2, 2\)"):
        F.conv2d(images, core.zeros(1, 3, 2, 2))
    with pytest.raises(ShapeError, match="no smaller than the kernel"):
        F.conv2d(images, core.zeros(1, 2, 5, 5))
    with pytest.raises(ShapeError, match="no smaller than the kernel"):
        F.max_pool2d(images, 5)
    with pytest.raises(ShapeError, match="half the kernel"):
        F.avg_pool2d(images, 2, padding=2)
    with pytest.raises(ShapeError, match=r"x \(N, C, H, W\)"):
        F.max_pool2d(x, 2)
    with pytest.raises(ShapeError, match="probability"):
        F.dropout(x, 1.5)


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


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.Tanh(), nn.Dropout(0.1), nn.Linear(120, 10, bias=False),
        nn.Softmax(dim=1),
    )  # fmt: skip


def test_a_network_prints_as_pytorch_prints_it():
    assert repr(lenet()) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))\n"
        "  (1): ReLU()\n"
        "  (2): MaxPool2d(kernel_size=2, stride=2, padding=0)\n"
        "  (3): Conv2d(6, 16, kernel_size=(5, 5), stride=(1, 1))\n"
        "  (4): ReLU()\n"
        "  (5): AvgPool2d(kernel_size=2, stride=2, padding=0)\n"
        "  (6): Flatten(start_dim=1, end_dim=-1)\n"
        "  (7): Linear(in_features=400, out_features=120, bias=True)\n"
        "  (8): Tanh()\n"
        "  (9): Dropout(p=0.1)\n"
        "  (10): Linear(in_features=120, out_features=10, bias=False)\n"
        "  (11): Softmax(dim=1)\n"
        ")"
    )
    assert repr(nn.Conv2d(1, 2, 3, dilation=2, bias=False)).endswith("dilation=(2, 2), bias=False)")
    nested = nn.Sequential(OrderedDict(body=nn.Sequential(nn.ReLU()), head=nn.Sigmoid()))
    assert repr(nested) == (
        "Sequential(\n  (body): Sequential(\n    (0): ReLU()\n  )\n  (head): Sigmoid()\n)"
    )


def test_names_order_and_sharing():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 3)
            self.scale = nn.Parameter(core.ones(1))
            self.second = nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.register_buffer("mean", core.zeros(3))

    model = Tied()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["scale", "first.weight", "first.bias", "second.bias"]
    assert [name for name, _ in model.named_buffers()] == ["mean"]
    assert list(model.state_dict()) == [
        "scale", "mean", "first.weight", "first.bias", "second.weight", "second.bias",
    ]  # fmt: skip
    assert [name for name, _ in model.named_modules()] == ["", "first", "second"]
    assert len(list(model.buffers())) == 1
    model.to(np.float64)
    assert model.second.weight is model.first.weight
    assert model.mean.dtype == np.float64
    model.mean = core.ones(3)
    assert model.state_dict()["mean"].tolist() == [1.0] * 3
    del model.scale
    with pytest.raises(AttributeError, match="Tied has no attribute 'scale'"):
        model.scale  # noqa: B018


def test_parts_need_the_base_class_first():
    class Hasty(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(TypeError, match="super"):
        Hasty()
    with pytest.raises(TypeError, match="define it"):
        nn.Module()(1)


def test_state_goes_over_by_name_and_misfits_are_named():
    core.manual_seed(1)
    one, two = lenet(), lenet()
    assert not np.array_equal(one[0].weight.array, two[0].weight.array)
    assert two.load_state_dict(one.state_dict()) == ([], [])
    assert np.array_equal(one[0].weight.array, two[0].weight.array)
    two.load_state_dict({name: t.array for name, t in one.state_dict().items()})
    state = {"0.weight": core.zeros(6, 1, 5, 5), "extra": core.zeros(1)}
    with pytest.raises(CheckpointMismatch, match=r"missing: 0\.bias, 3\.weight.*unexpected: extra"):
        two.load_state_dict(state)
    assert two[0].weight.array.any()
    missing, unexpected = two.load_state_dict(state, strict=False)
    assert "0.bias" in missing
    assert unexpected == ["extra"]
    assert not two[0].weight.array.any()
    wrong = {**one.state_dict(), "0.bias": core.zeros(7)}
    with pytest.raises(CheckpointMismatch, match=r"0\.bias: the model has shape \(6,\)"):
        two.load_state_dict(wrong, strict=False)


def test_modes_freezing_dtype_and_apply():
    model = lenet()
    assert model.eval().training is False
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.train().modules())
    model.requires_grad_(False)
    assert not model(core.zeros(2, 1, 28, 28)).requires_grad
    model.requires_grad_(True).to(np.float64)
    assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)}
    model.apply(lambda m: init.zeros_(m.weight) if isinstance(m, nn.Linear) else None)
    assert not model[7].weight.array.any()
    assert len(model) == 12
    assert [type(m).__name__ for m in model][:2] == ["Conv2d", "ReLU"]
    out = model(core.zeros(2, 1, 28, 28, dtype=np.float64))
    out.sum().backward()
    assert model[0].weight.grad is not None
    model.zero_grad()
    assert model[0].weight.grad is None


def test_initial_weights_have_pytorchs_spread():
    core.manual_seed(3)
    layer = nn.Linear(400, 300)
    bound = 1 / np.sqrt(400)
    assert np.abs(layer.weight.array).max() <= bound
    assert np.isclose(layer.weight.array.std(), bound / np.sqrt(3), rtol=0.02)
    assert np.abs(layer.bias.array).max() <= bound
    w = core.zeros(300, 400)
    assert np.isclose(init.xavier_uniform_(w).array.std(), np.sqrt(2 / 700), rtol=0.02)
    assert np.isclose(init.xavier_normal_(w).array.std(), np.sqrt(2 / 700), rtol=0.02)
    deep = init.kaiming_normal_(w, nonlinearity="relu").array.std()
    assert np.isclose(deep, np.sqrt(2 / 400), rtol=0.02)
    wide = init.kaiming_normal_(w, mode="fan_out", nonlinearity="tanh").array.std()
    assert np.isclose(wide, 5 / 3 / np.sqrt(300), rtol=0.02)
    assert init.constant_(w, 2).array.min() == 2
    assert init.ones_(w).array.max() == 1
    assert init.fans(core.zeros(8, 4, 3, 3)) == (36, 72)
    with pytest.raises(UsageError, match="two or more axes"):
        init.fans(core.zeros(3))
    with pytest.raises(UsageError, match="unknown nonlinearity"):
        init.gain("swish")
    with pytest.raises(UsageError, match="fan_in"):
        init.kaiming_normal_(w, mode="fan")


def test_the_public_faces_are_these():
    assert public_F.conv2d is F.conv2d
    from holdfast import optim
    from holdfast.core import nn as inner
    from holdfast.core import optim as inner_optim

    assert nn.Linear is inner.Linear
    assert set(optim.__all__) == set(inner_optim.__all__)
