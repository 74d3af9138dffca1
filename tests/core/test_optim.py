"""Optimizers against plain references: their steps, groups, state and errors."""

import json

import numpy as np
import pytest

from holdfast import core, nn, optim
from holdfast.core import norms, random
from holdfast.errors import CheckpointMismatch, GradientError, UsageError


def sgd_reference(
    w, grads, lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False
):
    m = None
    for g in grads:
        g = (-g if maximize else g) + weight_decay * w
        if momentum:
            m = g.copy() if m is None else momentum * m + (1 - dampening) * g
            g = g + momentum * m if nesterov else m
        w = w - lr * g
    return w


def adam_reference(
    w, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, decoupled=False, amsgrad=False
):
    m = v = largest = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        if decoupled:
            w = w * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        largest = np.maximum(largest, v)
        mean = m / (1 - betas[0] ** t)
        square = (largest if amsgrad else v) / (1 - betas[1] ** t)
        w = w - lr * mean / (np.sqrt(square) + eps)
    return w


def yogi_reference(
    w, grads, lr=1e-2, betas=(0.9, 0.999), eps=1e-3, initial_accumulator_value=1e-6, weight_decay=0
):
    """Zaheer et al. (2018), Algorithm 2."""
    m, v = np.zeros_like(w), np.full_like(w, initial_accumulator_value)
    for g in grads:
        g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = v - (1 - betas[1]) * np.sign(v - g**2) * g**2
        w = w - lr * m / (np.sqrt(v) + eps)
    return w


def lion_reference(w, grads, lr=1e-4, betas=(0.9, 0.99), weight_decay=0):
    """Chen et al. (2023), Algorithm 2."""
    m = np.zeros_like(w)
    for g in grads:
        c = betas[0] * m + (1 - betas[0]) * g
        w = w - lr * (np.sign(c) + weight_decay * w)
        m = betas[1] * m + (1 - betas[1]) * g
    return w


def lamb_reference(w, grads, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0, adapt=True):
    """You et al. (2020), Algorithm 2, with phi the identity."""
    m = v = np.zeros_like(w)
    for t, g in enumerate(grads, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        r = (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        d = r + weight_decay * w
        lengths = np.linalg.norm(w), np.linalg.norm(d)
        ratio = lengths[0] / lengths[1] if adapt and all(lengths) else 1.0
        w = w - lr * ratio * d
    return w


def lars_reference(w, grads, lr, momentum=0.9, weight_decay=0, trust_coefficient=0.001, adapt=True):
    """You, Gitman and Ginsburg (2017), Algorithm 1."""
    v = np.zeros_like(w)
    for g in grads:
        lengths = np.linalg.norm(w), np.linalg.norm(g)
        divisor = lengths[1] + weight_decay * lengths[0]
        local = trust_coefficient * lengths[0] / divisor if adapt and lengths[0] and divisor else 1
        v = momentum * v + lr * local * (g + weight_decay * w)
        w = w - v
    return w


def adamw_reference(w, grads, **options):
    return adam_reference(w, grads, decoupled=True, **options)


CASES = [
    (optim.SGD, sgd_reference, {"lr": 0.1}),
    (optim.SGD, sgd_reference, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd_reference, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (optim.SGD, sgd_reference, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    (optim.SGD, sgd_reference, {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    (
        optim.SGD,
        sgd_reference,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    (optim.Adam, adam_reference, {"lr": 0.01}),
    (optim.Adam, adam_reference, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.99)}),
    (optim.Adam, adam_reference, {"lr": 0.01, "amsgrad": True}),
    (optim.AdamW, adamw_reference, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-6}),
    (optim.Yogi, yogi_reference, {}),
    (optim.Yogi, yogi_reference, {"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    (optim.Yogi, yogi_reference, {"initial_accumulator_value": 0, "eps": 1e-2}),
    (optim.Lion, lion_reference, {}),
    (optim.Lion, lion_reference, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.95, 0.98)}),
    (optim.LAMB, lamb_reference, {}),
    (optim.LAMB, lamb_reference, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.9)}),
    (optim.LAMB, lamb_reference, {"lr": 0.01, "weight_decay": 0.1, "adapt": False}),
    (optim.LARS, lars_reference, {"lr": 1.0}),
    (optim.LARS, lars_reference, {"lr": 5.0, "weight_decay": 0.1, "momentum": 0.5}),
    (optim.LARS, lars_reference, {"lr": 0.1, "trust_coefficient": 0.1, "weight_decay": 0.01}),
    (optim.LARS, lars_reference, {"lr": 0.01, "weight_decay": 0.1, "adapt": False}),
]


@pytest.mark.parametrize(("kind", "reference", "options"), CASES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("block", [128, norms.BLOCK_BYTES])
def test_100_steps_follow_the_reference(
    kind, reference, options, dtype, tolerance, block, monkeypatch
):
    monkeypatch.setattr(norms, "BLOCK_BYTES", block)
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape).astype(dtype) for shape in ((5, 9), (7,), (40,))]
    starts.append(np.zeros(3, dtype))  # as a bias begins
    params = [core.Parameter(start.copy()) for start in starts]
    opt = kind(params, **options)
    gradients = [rng.normal(size=(100, *s.shape)).astype(dtype) for s in starts]
    for step in range(100):
        for p, own in zip(params, gradients, strict=True):
            p.grad = core.tensor(own[step])
        opt.step()
    for p, start, own in zip(params, starts, gradients, strict=True):
        expected = reference(start.astype(np.float64), own.astype(np.float64), **options)
        assert p.array.dtype == dtype
        error = np.linalg.norm(p.array - expected)
        assert error <= tolerance * np.linalg.norm(expected)
    padding = np.ones(opt.arena.weights.size, bool)
    for at in opt.arena.slices:
        padding[at] = False
    assert not opt.arena.weights[padding].any()


EVERY = [
    optim.Adadelta,
    optim.Adagrad,
    optim.Adam,
    optim.AdamW,
    optim.Adamax,
    optim.LAMB,
    optim.LARS,
    optim.Lion,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.SGD,
    optim.Yogi,
]
USED = {
    optim.Adam: {"amsgrad": True},
    optim.RMSprop: {"centered": True, "momentum": 0.9},
    optim.SGD: {"momentum": 0.9, "dampening": 0.1},
}


def test_every_optimizer_is_tested():
    public = {v for v in vars(optim).values() if isinstance(v, type)}
    assert public == {*EVERY, optim.Optimizer}


def train(opt, params, steps):
    for step in steps:
        opt.zero_grad()
        for p in params if step % 3 else params[:1]:
            (p * p * (step + 1)).sum().backward()
        opt.step()


def copied(state):
    """Return a state as a checkpoint has it: arrays, and JSON."""
    rest = {name: value for name, value in state.items() if name != "state"}
    arrays = {name: array.copy() for name, array in state["state"].items()}
    return {**json.loads(json.dumps(rest)), "state": arrays}


@pytest.mark.parametrize("kind", EVERY)
def test_state_is_plain_and_resumes_exactly(kind):
    def begin(values, lr):
        params = [core.Parameter(value.copy()) for value in values]
        groups = [{"params": params[:1], "weight_decay": 0.1}, {"params": params[1:], "lr": lr}]
        return params, kind(groups, lr=0.02, **USED.get(kind, {}))

    starts = [np.linspace(-1, 1, 11, dtype=np.float32), np.linspace(1, 2, 5, dtype=np.float32)]
    params, opt = begin(starts, 0.01)
    train(opt, params, range(7))
    saved = copied(opt.state_dict())
    others, other = begin([p.array for p in params], 1.0)
    other.load_state_dict(saved)
    assert [group["lr"] for group in other.param_groups] == [0.02, 0.01]
    train(opt, params, range(7, 14))
    train(other, others, range(7, 14))
    for p, q in zip(params, others, strict=True):
        assert np.array_equal(p.array, q.array)
    held = opt.state_dict()["state"]
    assert all(np.shares_memory(held[n], a) for n, a in opt.state_dict()["state"].items())


def test_wrong_states_are_refused_and_nothing_changes():
    p, q = (core.Parameter(np.ones(4, np.float32)) for _ in range(2))
    opt = optim.SGD([{"params": [p]}, {"params": [q], "lr": 0.2}], lr=0.1, momentum=0.9)
    good = opt.state_dict()
    groups = good["param_groups"]
    for change, message in [
        ({"kind": "Adam"}, "state of 'Adam', the optimizer is 'SGD'"),
        ({"state": {}}, r"holds \['momentum'\] with these settings; found \[\]"),
        ({"state": {"momentum": np.zeros(3, np.float32)}}, "another model"),
        ({"state": {"momentum": np.zeros(32)}}, "another model"),
        ({"param_groups": groups[:1]}, r"groups of \[1, 1\] parameters here; found \[1\]"),
        ({"numbers": [[0]]}, "another model"),
    ]:
        with pytest.raises(CheckpointMismatch, match=message):
            opt.load_state_dict({**good, **change})
    with pytest.raises(CheckpointMismatch, match="lacks numbers"):
        opt.load_state_dict({k: v for k, v in good.items() if k != "numbers"})
    assert [group["lr"] for group in opt.param_groups] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (optim.SGD, {"lr": -1}, "lr is a number from 0 up; found -1"),
        (optim.SGD, {"lr": float("nan")}, "lr is a number from 0 up; found nan"),
        (optim.SGD, {"nesterov": True}, "nesterov needs a momentum"),
        (optim.SGD, {"momentum": -1}, "momentum is a number"),
        (optim.Adam, {"betas": (1.0, 0.9)}, "betas lie from 0"),
        (optim.Adam, {"eps": -1}, "eps is a number"),
        (optim.Adadelta, {"rho": 1.5}, "rho lies from 0 to 1"),
        (optim.Adagrad, {"lr_decay": -1}, "lr_decay is a number"),
        (optim.RMSprop, {"alpha": -1}, "alpha is a number"),
        (optim.NAdam, {"momentum_decay": -1}, "momentum_decay is a number"),
        (optim.Lion, {"betas": (0.9, -0.1)}, "betas lie from 0"),
        (optim.LARS, {"lr": 1, "trust_coefficient": -1}, "trust_coefficient is a number"),
    ],
)
def test_bad_settings_are_refused(kind, options, message):
    p = core.Parameter(np.ones(1))
    with pytest.raises(UsageError, match=message):
        kind([p], **options)
    good = kind([core.Parameter(np.ones(1))], lr=0.1)
    with pytest.raises(UsageError, match=message):
        good.add_param_group({"params": [p], **options})


def test_bad_parameters_are_refused():
    p, q = core.Parameter(np.ones(1)), core.Parameter(np.ones(1))
    with pytest.raises(UsageError, match="no parameters"):
        optim.SGD([])
    with pytest.raises(UsageError, match="takes a list of parameters"):
        optim.SGD(p)
    with pytest.raises(UsageError, match="found a Tensor"):
        optim.SGD([core.ones(2)])
    with pytest.raises(UsageError, match='needs "params"'):
        optim.SGD([{"lr": 0.1}])
    with pytest.raises(UsageError, match="more than one parameter group"):
        optim.SGD([{"params": [p, q]}, {"params": p}])


def test_parameters_without_a_gradient_are_left_alone():
    used, unused = core.Parameter(np.ones(3)), core.Parameter(np.ones(3))
    opt = optim.SGD([used, unused], lr=0.1, momentum=0.9, weight_decay=0.5)
    used.sum().backward()
    opt.step()
    assert (used.array != 1).all()
    assert (unused.array == 1).all()
    assert opt.state_dict()["numbers"] == [[0], [1]]
    used.requires_grad = False
    opt.step()
    assert opt.state_dict()["numbers"] == [[0], [1]]


def test_an_optimizer_updates_only_its_own_part_of_an_arena():
    one, two = core.Parameter(np.ones(3)), core.Parameter(np.ones(3))
    core.Arena([one, two])
    opt = optim.SGD([two], lr=0.1)
    (one.sum() + two.sum()).backward()
    opt.step()
    assert (one.array == 1).all()
    assert np.allclose(two.array, 0.9)
    opt.zero_grad()
    assert one.grad is not None
    assert two.grad is None


def test_groups_have_settings_of_their_own():
    params = [core.Parameter(np.ones(3)) for _ in range(4)]
    opt = optim.SGD([{"params": params[:2], "lr": 0.5}, {"params": iter(params[2:3])}], lr=0.1)
    assert [g["lr"] for g in opt.param_groups] == [0.5, 0.1]
    assert opt.lr == 0.5
    with pytest.raises(AttributeError):
        opt.lr = 1.0

    def step():
        for p in params:
            p.grad = core.ones(3).to(np.float64)
        opt.step()
        return [p.array[0] for p in params]

    assert np.allclose(step(), [0.5, 0.5, 0.9, 1])
    opt.add_param_group({"params": params[3], "momentum": 0.5, "name": "head"})
    opt.param_groups[1]["lr"] = 0.2
    assert np.allclose(step(), [0, 0, 0.7, 0.9])
    assert np.allclose(step(), [-0.5, -0.5, 0.5, 0.75])
    opt.param_groups[1]["momentum"] = 0.5  # from now on
    assert np.allclose(step(), [-1, -1, 0.3, 0.575])
    assert opt.state_dict()["param_groups"][2]["params"] == [3]
    assert "Parameter Group 2: 1 parameters" in repr(opt)
    assert "name: head" in repr(opt)


def test_an_arena_given_to_a_job_does_not_grow():
    p, q = core.Parameter(np.ones(3)), core.Parameter(np.ones(3))
    opt = optim.SGD([p])
    opt.arena.rehome(gradients=np.zeros(8))
    with pytest.raises(UsageError, match="cannot grow any more"):
        opt.add_param_group({"params": [q]})
    assert len(opt.param_groups) == 1


def test_what_an_arena_cannot_take_in_is_refused():
    opt = optim.SGD([core.Parameter(np.ones(3))])
    elsewhere = core.Parameter(np.ones(3))
    core.Arena([elsewhere])
    for p, message in (
        (core.Parameter(np.ones(3, np.float32)), "one dtype; found float32, float64"),
        (elsewhere, "lie in another arena already"),
    ):
        with pytest.raises(UsageError, match=message):
            opt.add_param_group({"params": p})
    assert len(opt.param_groups) == len(opt.arena.parameters) == 1


def test_the_optimizer_reads_the_sums():
    p = core.Parameter(np.ones(8, np.float32))
    opt = optim.SGD([p], lr=1.0)
    sums = np.full(16, 0.25, np.float32)
    sums.flags.writeable = False  # it may be every rank's
    opt.arena.rehome(sums=sums)
    p.sum().backward()
    opt.step()
    assert p.tolist() == [0.75] * 8


@pytest.mark.parametrize("kind", EVERY)
def test_gradients_are_not_written_to(kind):
    for maximize in (False, True):
        p = core.Parameter(np.ones(20, np.float32))
        options = USED.get(kind, {})
        opt = kind([p], lr=0.1, weight_decay=0.1, maximize=maximize, **options)
        sums = np.linspace(-1, 1, 32, dtype=np.float32)
        sums.flags.writeable = False
        opt.arena.rehome(sums=sums)
        p.sum().backward()
        opt.step()
        moved = (p.array[0] > 1) != (p.array[19] > 1)
        assert moved


def test_without_eps_the_padding_stays_zero():
    params = [core.Parameter(np.ones(3)), core.Parameter(np.ones(3))]
    opt = optim.Adam(params, lr=0.1, eps=0)
    for p in params:
        p.grad = core.ones(3).to(np.float64)
    opt.step()
    assert np.allclose([p.tolist() for p in params], 0.9)
    assert np.isfinite(opt.arena.weights).all()


def test_a_closure_is_called_and_its_loss_returned():
    p = core.Parameter(np.ones(2))
    opt = optim.SGD([p], lr=0.25)

    def closure():
        opt.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with core.no_grad():
        assert opt.step(closure).item() == 2
    assert p.tolist() == [0.5, 0.5]
    assert opt.step() is None


def test_zero_grad_may_keep_zeros():
    p = core.Parameter(np.ones(2))
    opt = optim.SGD([p], lr=0.25)
    p.sum().backward()
    opt.zero_grad(set_to_none=False)
    assert p.grad.tolist() == [0, 0]
    opt.zero_grad()
    assert p.grad is None


def test_a_graph_from_before_a_step_is_refused():
    p, q = core.Parameter(np.ones(2)), core.Parameter(np.ones(2))
    opt = optim.SGD([p], lr=0.25)
    p.sum().backward()
    stale, fine = (p * p).sum(), (q * q).sum()
    opt.step()
    with pytest.raises(GradientError, match="changed in place"):
        stale.backward()
    fine.backward()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_weights_of_16_bits_are_computed_in_float32(name):
    p = core.Parameter(core.ones(100).to(name).array)
    opt = optim.AdamW([p], lr=0.01)
    assert {a.dtype for a in opt.state_dict()["state"].values()} == {p.dtype}
    for _ in range(10):
        p.grad = core.ones(100).to(name)
        opt.step()
    assert p.dtype == np.dtype(name)
    assert np.allclose(p.array.astype(np.float32), 0.9, atol=0.02)


def test_a_network_learns():
    core.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    x = core.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = core.tensor([[0.0], [1.0], [1.0], [0.0]])
    opt = optim.Adam(net.parameters(), lr=0.05)
    for _ in range(300):
        opt.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(net(x), y)
        loss.backward()
        opt.step()
    assert loss.item() < 0.01
    assert repr(opt).startswith("Adam (\nParameter Group 0: 4 parameters")


def test_the_random_state_is_json_and_resumes():
    core.manual_seed(7)
    core.rand(3)
    state = json.loads(json.dumps(random.get_state()))
    first = [core.rand(5).tolist(), core.randn(4).tolist(), nn.Linear(3, 3).weight.tolist()]
    random.set_state(state)
    assert first == [core.rand(5).tolist(), core.randn(4).tolist(), nn.Linear(3, 3).weight.tolist()]
    core.manual_seed(7)
    seven = core.rand(3).tolist()
    core.manual_seed(8)
    assert core.rand(3).tolist() != seven
    with pytest.raises(UsageError, match="non-negative"):
        core.manual_seed(-1)
    with pytest.raises(UsageError, match="'Philox' is expected; found 'PCG64'"):
        random.set_state({"bit_generator": "PCG64"})


def test_a_state_that_is_no_longer_used_is_not_saved():
    optimizer = optim.Adam([core.Parameter(np.ones(3, np.float32))])
    (group,) = optimizer.param_groups
    for amsgrad in (False, True, False):
        group["amsgrad"] = amsgrad
        (optimizer.parameters[0] * 2).sum().backward()
        optimizer.step()
    other = optim.Adam([core.Parameter(np.ones(3, np.float32))])
    other.load_state_dict(optimizer.state_dict())
    assert set(other.state_dict()["state"]) == {"mean", "square"}
