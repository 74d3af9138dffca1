"""Losses: their values by hand, their edges, dtypes, errors and second derivatives."""

import math

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.backend import BFLOAT16
from holdfast.errors import ShapeError, UsageError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def log_softmax(x):
    apart = x - x.max(axis=1, keepdims=True)
    return apart - np.log(np.exp(apart).sum(axis=1, keepdims=True))


def test_cross_entropy_by_hand():
    x, target = normal(6, 4), np.array([0, 3, 1, 1, 2, 0])
    weight = np.array([1.0, 0.5, 2.0, 3.0])
    logs = log_softmax(x)
    kept = target != 1
    each = -weight[target] * logs[np.arange(6), target]
    smooth = -(logs * weight).sum(axis=1) / 4
    expected = np.where(kept, 0.9 * each + 0.1 * smooth, 0).sum() / weight[target[kept]].sum()
    found = F.cross_entropy(
        core.tensor(x),
        core.tensor(target),
        core.tensor(weight),
        ignore_index=1,
        label_smoothing=0.1,
    )
    assert np.isclose(found.item(), expected)


def test_cross_entropy_of_far_logits_is_finite():
    x = core.tensor([[1e4, -1e4, 0.0], [0.0, 0.0, -1e4]], requires_grad=True)
    loss = F.cross_entropy(x, core.tensor([1, 0]), reduction="none")
    assert np.allclose(loss.array, [2e4, math.log(2)])
    loss.sum().backward()
    assert np.allclose(x.grad.array, [[1, -1, 0], [-0.5, 0.5, 0]])


def test_one_row_of_nan_leaves_the_others():
    x = core.tensor([[np.nan, 0.0], [1.0, 2.0]])
    each = F.cross_entropy(x, core.tensor([0, 1]), reduction="none").array
    assert np.isnan(each[0])
    assert np.isclose(each[1], math.log1p(math.exp(-1)))


@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_the_mean_of_what_is_ignored_is_nan(loss):
    x = core.tensor(normal(3, 2), requires_grad=True)
    ignored = core.tensor([-100, -100, -100])
    assert math.isnan(loss(x, ignored).item())
    assert loss(x, ignored, reduction="sum").item() == 0
    assert loss(x, ignored, reduction="none").tolist() == [0, 0, 0]
    for reduction in ("sum", "mean"):
        x.grad = None
        loss(x, ignored, reduction=reduction).backward()
        assert x.grad.tolist() == [[0, 0]] * 3
    empty = core.tensor(np.zeros((0, 2)))
    assert math.isnan(loss(empty, core.tensor(np.zeros(0, np.int64))).item())


def test_nll_loss_passes_over_impossible_classes_that_are_ignored():
    x = core.tensor([[-np.inf, 0.0], [0.0, -1.0]])
    assert F.nll_loss(x, core.tensor([0, 1]), ignore_index=0).item() == 1.0


def test_the_mean_of_nothing_is_nan():
    for name in ("mse_loss", "l1_loss", "binary_cross_entropy", "kl_div"):
        empty = core.tensor(np.zeros((0, 3)))
        assert math.isnan(getattr(F, name)(empty, empty).item())


def test_certain_probabilities_cost_at_most_a_hundred():
    x = core.tensor([0.0, 1.0, 1.0], requires_grad=True)
    each = F.binary_cross_entropy(x, core.tensor([1.0, 0.0, 1.0]), reduction="none")
    assert each.tolist() == [100, 100, 0]
    each.sum().backward()
    assert np.isfinite(x.grad.array).all()


def test_logits_do_not_overflow():
    x = core.tensor([1000.0, -1000.0])
    assert F.binary_cross_entropy_with_logits(x, core.tensor([0.0, 1.0])).item() == 1000
    assert F.soft_margin_loss(x, core.tensor([-1.0, 1.0])).item() == 1000


def test_smooth_losses_meet_at_their_bounds():
    x, zero = core.tensor([0.5, -2.0]), core.zeros(2)
    assert F.huber_loss(x, zero, reduction="none").tolist() == [0.125, 1.5]
    assert F.smooth_l1_loss(x, zero, beta=0.5, reduction="none").tolist() == [0.25, 1.75]
    assert F.smooth_l1_loss(x, zero, beta=0.0, reduction="none").tolist() == [0.5, 2.0]


def test_kl_div_of_itself_is_nothing():
    p = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(p), -1e9)
    value = F.kl_div(core.tensor(logs), core.tensor(p), reduction="batchmean")
    assert value.item() == 0


def test_triplets_under_another_distance():
    far = nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: (a - b).abs().sum(-1))
    a, b, c = (core.tensor([[v]]) for v in (0.0, 1.0, 5.0))
    assert far(a, b, c).item() == 0
    assert far(a, c, b).item() == 5


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16])
def test_sixteen_bits_add_up_in_float32(dtype):
    x = core.tensor(np.ones((64, 64), np.float32)).to(dtype).requires_grad_()
    zero = core.tensor(np.zeros((64, 64), np.float32)).to(dtype)
    loss = F.mse_loss(x, zero)  # a bfloat16 that counts in ones stops at 256
    assert (loss.dtype, float(loss)) == (dtype, 1.0)
    loss.backward()
    assert x.grad.dtype == dtype
    flat = F.cross_entropy(zero, core.tensor(np.zeros(64, np.int64)))
    assert flat.dtype == dtype
    assert math.isclose(float(flat), math.log(64), rel_tol=0.01)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (F.mse_loss, {}),
        (F.binary_cross_entropy_with_logits, {}),
        (F.cross_entropy, {"label_smoothing": 0.1}),
    ],
)
def test_second_derivatives_are_those_of_the_gradient(loss, options):
    x, v, step = normal(3, 4), normal(3, 4, seed=1), 1e-6
    target = core.tensor(np.random.default_rng(2).uniform(size=(3, 4)))
    if loss is F.cross_entropy:
        target = core.tensor([0, 3, 1])

    def gradient(at):
        t = core.tensor(at, requires_grad=True)
        return t, core.grad(loss(t, target, **options), t, create_graph=True)[0]

    t, slope = gradient(x)
    (found,) = core.grad((slope * core.tensor(v)).sum(), t)
    ahead, behind = (gradient(x + s * step * v)[1].detach().array for s in (1, -1))
    assert np.allclose(found.array, (ahead - behind) / (2 * step), atol=1e-8)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, t: F.cross_entropy(x, t.unsqueeze(1)), r"input of shape \(4, 3\)"),
        (lambda x, t: F.cross_entropy(x, x[:, :2]), r"target of shape \(4, 2\)"),
        (lambda x, t: F.cross_entropy(x, t, core.ones(4)), r"weight of shape \(4,\)"),
        (lambda x, t: F.nll_loss(x, t[:2]), r"target of shape \(2,\)"),
        (lambda x, t: F.l1_loss(x, x[:, :1]), r"input and target of one shape"),
        (lambda x, t: F.mse_loss(x, x, weight=x[0]), r"weight of shape \(3,\)"),
        (lambda x, t: F.cosine_embedding_loss(x, x, t[:2]), r"target of shape \(2,\)"),
    ],
)
def test_shapes_that_do_not_fit(call, said):
    with pytest.raises(ShapeError, match=said):
        call(core.tensor(normal(4, 3)), core.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x, t: F.cross_entropy(x, t + 1), "classes 0 to 2 are expected.*1 to 3"),
        (lambda x, t: F.nll_loss(x, t - 1), "nll_loss: classes 0 to 2.*-1 to 1"),
        (lambda x, t: F.cross_entropy(x, t.double()), "integers; found float64"),
        (lambda x, t: F.cross_entropy(x, t, reduction="all"), "found 'all'"),
        (lambda x, t: F.cross_entropy(x, t, label_smoothing=2.0), "from 0 to 1; found 2.0"),
        (lambda x, t: F.huber_loss(x, x, delta=0), "delta is positive; found 0"),
        (lambda x, t: F.smooth_l1_loss(x, x, beta=-1), "beta is not negative"),
        (lambda x, t: F.binary_cross_entropy(x + 9, x), "probabilities, 0 to 1"),
        (lambda x, t: F.gaussian_nll_loss(x, x, x[:, :2] ** 2), "var has the input's shape"),
        (lambda x, t: F.gaussian_nll_loss(x, x, -1.0), "a variance is negative"),
        (lambda x, t: F.multi_margin_loss(x, t, p=3), "p is 1 or 2; found 3"),
        (lambda x, t: F.triplet_margin_loss(x, x, x, margin=0), "margin is positive"),
        (lambda x, t: F.pairwise_distance(x, x, p=-1), "p is positive; found -1"),
        (lambda x, t: F.cosine_similarity(t, t), "vectors hold floats"),
    ],
)
def test_options_that_are_wrong(call, said):
    with pytest.raises(UsageError, match=said):
        call(core.tensor(normal(4, 3)), core.tensor([0, 1, 2, 0]))


def test_weights_of_losses_are_buffers():
    loss = nn.BCEWithLogitsLoss(pos_weight=core.tensor([2.0, 3.0]))
    assert list(loss.state_dict()) == ["pos_weight"]
    assert loss.weight is None
    assert list(nn.CrossEntropyLoss().state_dict()) == []
