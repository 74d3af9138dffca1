"""Inference plans: the same outputs as the model's, in fewer steps."""

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.plan import Plan, trace
from holdfast.core.plan.chains import WRITERS
from holdfast.core.plan.encoding import decoded, encoded
from holdfast.core.primitive import registry
from holdfast.errors import CheckpointMismatch, UsageError


def normal(*shape, seed=0):
    return core.tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Dropout(),
        nn.Linear(84, 10),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.BatchNorm2d(8)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        return F.relu(self.last(self.again(x)) + x), x.mean(dim=(2, 3))


def agree(model, *inputs, tolerance=1e-5):
    model.eval()
    plan = trace(model, *inputs)
    with core.no_grad():
        expected = model(*inputs)
    for _ in range(2):  # the second time in memory that is used again
        found = plan(*inputs)
        pairs = (
            zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
        )
        for a, b in pairs:
            assert a.shape == b.shape
            assert a.dtype == b.dtype
            assert np.allclose(a.array, b.array, rtol=tolerance, atol=tolerance)
    return plan


def kinds_of(plan):
    return [inner.primitive for step in plan.program.steps for inner in step.chain or (step,)]


def test_a_convolutional_network():
    plan = agree(lenet(), normal(4, 1, 28, 28))
    assert "dropout" not in kinds_of(plan)
    assert "conv2d" in str(plan)


def test_the_largest_of_windows_is_taken_before_relu():
    """As long as nobody else reads what ReLU makes."""

    class Forked(nn.Module):
        def forward(self, x):
            y = (x * 2).relu()
            z = F.adaptive_max_pool2d((x - 1).relu(), 2)
            return F.max_pool2d(y, 3, 2, 1, ceil_mode=True), y.sum(), z

    plan = agree(lenet(), normal(4, 1, 28, 28))
    assert kinds_of(plan)[:3] == ["conv2d", "max_pool2d", "relu"]
    x = normal(2, 3, 7, 6)
    x.array[0, 1] = np.nan
    x.array[1, :, 3:] = -np.inf
    model = Forked()
    plan = trace(model, x)
    for found, expected in zip(plan(x), model(x), strict=True):
        assert np.array_equal(found.array, expected.array, equal_nan=True)
    assert kinds_of(plan) == [
        *("mul", "relu", "sub", "adaptive_max_pool2d", "relu", "max_pool2d", "sum")
    ]


def test_batch_norms_vanish_in_convolutions():
    model = Residual()
    for _ in range(3):  # statistics worth folding
        model(normal(4, 3, 6, 6) * 3 + 1)
    plan = agree(model, normal(4, 3, 6, 6), tolerance=1e-4)
    assert not [name for name in kinds_of(plan) if "norm" in name]
    assert not model.training


def test_chains_are_one_step_and_run_block_by_block():
    def gated(x, bias):
        return ((x + bias).tanh() * x.sigmoid() * 2.0).exp(), x.sum()

    x, bias = normal(300, 700), normal(700, seed=1)
    plan = trace(gated, x, bias)
    assert max(len(step.chain) for step in plan.program.steps) >= 5
    for shape in ((300, 700), (7, 3, 5), (2, 90_000), (4,), ()):
        y = normal(*shape, seed=2)
        b = normal(shape[-1], seed=3) if shape else normal(seed=3)
        found, expected = trace(gated, y, b)(y, b), gated(y, b)
        for a, e in zip(found, expected, strict=True):
            assert np.allclose(a.array, e.array, rtol=1e-5)


def test_a_chain_keeps_the_order_of_memory_and_broadcasts():
    x = core.tensor(np.asfortranarray(normal(50, 60).array))
    rows = normal(50, 1, seed=1)
    plan = trace(lambda x, r: ((x * r).tanh() + r).relu(), x, rows)
    expected = ((x * rows).tanh() + rows).relu()
    assert np.allclose(plan(x, rows).array, expected.array)
    assert plan(x, rows).array.strides == x.array.strides


@pytest.mark.parametrize("name", sorted(WRITERS))
def test_every_step_that_writes_in_place(name):
    """Behind a product, whose memory it may take: alone, with a number, and with itself."""
    operation = registry()[name].operation
    try:
        operation(core.ones(1), core.ones(1))
        uses = [lambda h: operation(h, 2.0), lambda h: operation(2.0, h), lambda h: operation(h, h)]
    except TypeError:
        uses = [operation]
    x = core.tensor(np.abs(normal(5, 5).array) + 0.5)
    for use in uses:
        plan = trace(lambda x, use=use: use(x @ x), x)
        assert np.allclose(plan(x).array, use(x @ x).array, rtol=1e-6)


def test_one_tensor_may_be_two_inputs():
    x = normal(3)
    plan = trace(lambda a, b: a - b, x, x)
    assert np.array_equal(plan(normal(3, seed=1), core.zeros(3)).array, normal(3, seed=1).array)


def test_what_depends_on_no_input_is_computed_once():
    weight = normal(5, 3)
    plan = trace(lambda x: x @ (weight.transpose(0, 1) * 2).exp(), normal(2, 3))
    assert kinds_of(plan) == ["matmul"]


def test_outputs_that_are_held_are_left_alone():
    plan = trace(lambda x: (x * 2).tanh(), normal(100))
    first = plan(normal(100))
    before = first.array.copy()
    plan(normal(100, seed=5))
    assert np.array_equal(first.array, before)


def test_other_inputs_are_refused():
    plan = trace(lambda x: x.exp(), normal(3, 4))
    with pytest.raises(UsageError, match=r"input 0: .* float32 of shape \(3, 4\); found float32"):
        plan(normal(2, 4))
    with pytest.raises(UsageError, match="takes 1 inputs"):
        plan(normal(3, 4), normal(3, 4))
    with pytest.raises(UsageError, match=r"reads values|output 0"):
        trace(lambda x: core.tensor([float(x.array.sum())]), normal(3))


def test_changes_in_place_make_new_values():
    def gathered(x):
        y = core.zeros(2, 4)
        y += x
        y.mul_(2).add_(1)
        y[0] = x[1]
        z = core.zeros(2, 4)
        return y, z.copy_(x)

    plan = trace(gathered, normal(2, 4))
    x = normal(2, 4, seed=1)
    for found, expected in zip(plan(x), gathered(x), strict=True):
        assert np.array_equal(found.array, expected.array)


def test_mixed_precision_inside_and_outside():
    layer = nn.Linear(8, 4)

    def inside(x):
        with core.autocast("cpu"):
            return layer(x).relu()

    x = normal(3, 8)
    with core.autocast("cpu"):
        outside = trace(lambda x: layer(x).relu(), x)
    for plan in (trace(inside, x), outside):
        y = normal(3, 8, seed=1)
        assert kinds_of(plan).count("cast") == 1  # of the input; weights are constants
        assert np.array_equal(plan(y).array, inside(y).detach().array)


def test_decisions_by_values_are_refused():
    x = normal(3)
    for model in (lambda x: x * 2 if x.sum() > 0 else x, lambda x: x * x.max().item()):
        with pytest.raises(UsageError, match="reads values that come from its inputs"):
            trace(model, x)
    assert trace(lambda x: x * float(core.ones(1)), x)(x).shape == (3,)
    with pytest.raises(UsageError, match="output 0 of the model is a list"):
        trace(lambda x: [x], x)
    assert trace(lambda x: x + 1, x.array)(x.array).shape == (3,)


def test_a_program_survives_its_encoding():
    model = lenet().eval()
    x = normal(4, 1, 28, 28)
    plan = trace(model, x)
    structure, arrays = encoded(plan.program)
    assert "0.weight" in arrays
    again = Plan(decoded(structure, arrays))
    assert np.array_equal(again(x).array, plan(x).array)
    with pytest.raises(CheckpointMismatch, match="format"):
        decoded({**structure, "format": 0}, arrays)
    with pytest.raises(CheckpointMismatch, match=r"lacks the arrays 0\.weight"):
        decoded(structure, {k: v for k, v in arrays.items() if k != "0.weight"})


def test_indices_slices_and_casts_survive_too():
    at = np.array([2, 0])
    plan = trace(lambda x: x[:, None, 1:, at].double()[..., 0], normal(3, 4, 5))
    again = Plan(decoded(*encoded(plan.program)))
    x = normal(3, 4, 5, seed=1)
    assert np.array_equal(again(x).array, plan(x).array)
