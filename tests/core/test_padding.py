"""The layers that put a border around images, and what rearranges channels."""

import numpy as np
import pytest

import holdfast as hf
from holdfast import nn
from holdfast.errors import ShapeError, UsageError
from holdfast.nn import functional as F

IMAGE = hf.arange(4.0).reshape(1, 1, 4)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.ZeroPad1d((1, 2)), [0, 0, 1, 2, 3, 0, 0]),
        (nn.ConstantPad1d((2, -1), 7), [7, 7, 0, 1, 2]),
        (nn.ReflectionPad1d(2), [2, 1, 0, 1, 2, 3, 2, 1]),
        (nn.ReplicationPad1d([1, 2]), [0, 0, 1, 2, 3, 3, 3]),
        (nn.CircularPad1d((1, 2)), [3, 0, 1, 2, 3, 0, 1]),
    ],
)
def test_what_a_border_holds(layer, expected):
    assert layer(IMAGE)[0, 0].tolist() == expected
    assert layer(IMAGE[0])[0].tolist() == expected


@pytest.mark.parametrize("kind", ["Zero", "Constant", "Reflection", "Replication", "Circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_widths_begin_at_the_last_axis(kind, axes):
    value = (1.5,) if kind == "Constant" else ()
    widths = (1, 0, 2, 1, 0, 2)[: 2 * axes]
    layer = getattr(nn, f"{kind}Pad{axes}d")(widths, *value)
    shape = (3, 4, 5)[-axes:]
    wider = tuple(n + widths[-2 - 2 * i] + widths[-1 - 2 * i] for i, n in enumerate(shape))
    assert layer(hf.zeros(2, 3, *shape)).shape == (2, 3, *wider)
    assert layer.padding == widths
    every = getattr(nn, f"{kind}Pad{axes}d")(1, *value)
    assert every.padding == (1,) * (2 * axes)
    with pytest.raises(UsageError, match=f"one width, or {2 * axes}"):
        getattr(nn, f"{kind}Pad{axes}d")((1, 2, 3), *value)


def test_how_they_are_printed():
    assert repr(nn.CircularPad2d(1)) == "CircularPad2d((1, 1, 1, 1))"
    assert repr(nn.ConstantPad1d((1, 2), 3.5)) == "ConstantPad1d(padding=(1, 2), value=3.5)"
    assert repr(nn.ZeroPad1d(2)) == "ZeroPad1d((2, 2))"
    assert repr(nn.ChannelShuffle(2)) == "ChannelShuffle(groups=2)"


def test_channels_are_interleaved():
    x = hf.arange(6.0).reshape(1, 6, 1)
    assert nn.ChannelShuffle(2)(x)[0, :, 0].tolist() == [0, 3, 1, 4, 2, 5]
    with pytest.raises(ShapeError, match="4 x C"):
        F.channel_shuffle(x, 4)


def test_distances_of_all_pairs():
    x = hf.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [0.0, 0.0]], requires_grad=True)
    found = F.pdist(x)
    assert np.allclose(found.array, [5, 1, 0, 18**0.5, 5, 1])
    found.sum().backward()
    assert np.isfinite(x.grad.array).all()
    assert F.pdist(x, p=0).tolist() == [2, 1, 0, 2, 2, 1]
    assert F.pdist(x[:1]).shape == (0,)
    with pytest.raises(ShapeError, match=r"\(N, M\)"):
        F.pdist(x[0])
    with pytest.raises(UsageError, match="0 or more"):
        F.pdist(x, p=-1)


def test_multilabel_margin_loss_of_the_example_in_its_paper_and_errors():
    x = hf.tensor([[0.1, 0.2, 0.4, 0.8]])
    y = hf.tensor([[3, 0, -1, 1]])
    assert np.isclose(F.multilabel_margin_loss(x, y).item(), 0.85)
    assert np.isclose(nn.MultiLabelMarginLoss(reduction="none")(x[0], y[0]).item(), 0.85)
    for wrong in (y + 1, y - 1, y.float()):
        with pytest.raises(UsageError, match="target holds classes, 0 to 3"):
            F.multilabel_margin_loss(x, wrong)
