"""Functions of a user's own, Jacobians and the like, and small layers, beside PyTorch's."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast as hf
from holdfast import autograd, nn
from holdfast.func import functional_call
from holdfast.nn import functional as F

torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)
pytestmark = pytest.mark.parity


def of(library):
    """Return the same classes, written once, for one library or the other."""
    Function = library.autograd.Function

    class Leaky(Function):
        @staticmethod
        def forward(ctx, x, slope):
            ctx.slope = slope
            ctx.save_for_backward(x)
            return x.clamp(min=0) + slope * x.clamp(max=0)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            found = g.clone()
            found[x < 0] = ctx.slope * g[x < 0]
            return found, None

    class Softplus(Function):
        @staticmethod
        def forward(x, beta):
            return (1 + (x * beta).exp()).log() / beta, (x * beta).sigmoid()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs, output[1])
            ctx.mark_non_differentiable(output[1])

        @staticmethod
        def backward(ctx, g, unused):
            assert not unused.any()
            x, beta, _ = ctx.saved_tensors
            needs_x, needs_beta = ctx.needs_input_grad
            value = (1 + (x * beta).exp()).log() / beta
            by_beta = (g * (x * (x * beta).sigmoid() - value) / beta).sum() if needs_beta else None
            return g * (x * beta).sigmoid() if needs_x else None, by_beta

    class Linear(Function):
        @staticmethod
        def forward(ctx, x, weight, bias=None):
            ctx.save_for_backward(x, weight, bias)
            out = x.mm(weight.t())
            return out if bias is None else out + bias.unsqueeze(0).expand_as(out)

        @staticmethod
        def backward(ctx, g):
            x, weight, bias = ctx.saved_tensors
            by_x = g.mm(weight) if ctx.needs_input_grad[0] else None
            by_weight = g.t().mm(x) if ctx.needs_input_grad[1] else None
            by_bias = g.sum(0) if bias is not None and ctx.needs_input_grad[2] else None
            return by_x, by_weight, by_bias

    class Exp(Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    return Leaky, Softplus, Linear, Exp


OURS, THEIRS = of(hf), of(torch)


def beside(which, use, *arrays, tolerance=1e-5):
    both(lambda *a: use(OURS[which], *a), lambda *a: use(THEIRS[which], *a), *arrays,
         tolerance=tolerance)  # fmt: skip


def test_functions():
    beside(0, lambda f, x: f.apply(x, 0.1), normal(3, 4))
    beside(1, lambda f, x, b: f.apply(x, b)[0], normal(3, 4), np.float32(1.5).reshape(()))
    x, weight, bias = normal(5, 3), normal(2, 3, seed=1), normal(2, seed=2)
    beside(2, lambda f, *a: f.apply(*a), x, weight, bias)
    beside(2, lambda f, x, w: f.apply(x, w, None), x, weight)
    beside(3, lambda f, x: f.apply(x * 2) * x, x)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
def test_functions_twice(which):
    def twice(library, function):
        def run(x, w):
            inputs = ((x, 0.1), (x, w.sum()), (x, w), (x * w[0],))[which]
            found = function.apply(*inputs)
            out = found[0] if isinstance(found, tuple) else found
            (g,) = library.autograd.grad((out**2).sum(), x, create_graph=True)
            return g

        return run

    both(twice(hf, OURS[which]), twice(torch, THEIRS[which]), normal(4, 3), normal(2, 3, seed=1))


CASES = {
    "one": (lambda x: x**3, lambda a: a[0]),
    "two": (lambda x, y: (x * y.sum(), (y.exp() * 2).sum()), lambda a: a),
    "matrix": (lambda x: (x.unsqueeze(1) * x).tanh(), lambda a: a[0]),
    "tuple": (lambda x: x.sin(), lambda a: a[:1]),
    "list": (lambda x, y: (x.sum() * y, x), lambda a: a),
}
SCALARS = {
    "cubes": (lambda x: (x**3).sum(), lambda a: a[0]),
    "mixed": (lambda x, y: (x.sin() * y.sum()).sum() + (y**2).prod(), lambda a: a),
    "tuple": (lambda x: x.exp().sum(), lambda a: a[:1]),
    "apart": (lambda x, y: (x**2).sum() + y.sum(), lambda a: a),
}
INPUTS = normal(3), normal(2, seed=1)


def equal(mine, other):
    if isinstance(other, tuple):
        assert isinstance(mine, tuple)
        assert len(mine) == len(other)
        for a, b in zip(mine, other, strict=True):
            equal(a, b)
        return
    assert mine.shape == tuple(other.shape)
    assert mine.requires_grad == other.requires_grad
    assert np.allclose(mine.array, other.detach().numpy(), rtol=1e-5, atol=1e-5)


def pair(pick, requires_grad=False):
    ours = tuple(hf.tensor(a, requires_grad=requires_grad) for a in INPUTS)
    theirs = tuple(torch.tensor(a, requires_grad=requires_grad) for a in INPUTS)
    return pick(ours), pick(theirs)


def like(library, results, seed=3):
    """Return random tensors of the shapes of the results."""
    rng = np.random.default_rng(seed)
    several = isinstance(results, tuple)
    made = tuple(
        library.tensor(rng.standard_normal(tuple(r.shape)).astype(np.float32))
        for r in (results if several else (results,))
    )
    return made if several else made[0]


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_jacobians(name, graph):
    function, pick = CASES[name]
    ours, theirs = pair(pick, graph)
    mine, other = autograd.functional, torch.autograd.functional
    equal(mine.jacobian(function, ours, graph), other.jacobian(function, theirs, graph))
    args = ours if isinstance(ours, tuple) else (ours,)
    out = function(*args)
    a, b = like(hf, out), like(torch, out)
    equal(mine.vjp(function, ours, a, graph), other.vjp(function, theirs, b, graph))
    a, b = like(hf, ours), like(torch, theirs)
    equal(mine.jvp(function, ours, a, graph), other.jvp(function, theirs, b, graph))


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", ["cubes", "mixed", "tuple"])
def test_hessians(name, graph):
    function, pick = SCALARS[name]
    ours, theirs = pair(pick, graph)
    mine, other = autograd.functional, torch.autograd.functional
    equal(mine.hessian(function, ours, graph), other.hessian(function, theirs, graph))
    a, b = like(hf, ours), like(torch, theirs)
    equal(mine.vhp(function, ours, a, graph), other.vhp(function, theirs, b, graph))
    equal(mine.hvp(function, ours, a, graph), other.hvp(function, theirs, b, graph))


def test_a_hessian_with_parts_that_are_zero():
    function, pick = SCALARS["apart"]
    ours, theirs = pair(pick)
    mine, other = autograd.functional, torch.autograd.functional
    equal(mine.hessian(function, ours), other.hessian(function, theirs))
    a, b = like(hf, ours), like(torch, theirs)
    equal(mine.vhp(function, ours, a), other.vhp(function, theirs, b))


def test_backward_of_several():
    def run(library):
        x = library.tensor(INPUTS[0], requires_grad=True)
        y = library.tensor(INPUTS[1], requires_grad=True)
        h = x * y.sum()
        library.autograd.backward([h, (h**2).sum()], [library.tensor(normal(3, seed=5)), None])
        return x.grad, y.grad

    equal(run(hf), run(torch))


@pytest.mark.parametrize("kind", ["Zero", "Constant", "Reflection", "Replication", "Circular"])
@pytest.mark.parametrize("axes", [1, 2, 3])
def test_borders(kind, axes):
    value = (0.5,) if kind == "Constant" else ()
    name, shape = f"{kind}Pad{axes}d", (4, 5, 3)[-axes:]
    for widths in (1, 2, (1, 2, 0, 3, 2, 1)[: 2 * axes], (0, 1, 2, 0, 1, 1)[: 2 * axes]):
        mine = getattr(nn, name)(widths, *value)
        other = getattr(torch.nn, name)(widths, *value)
        assert repr(mine) == repr(other)
        both(mine, other, normal(2, 3, *shape))
        both(mine, other, normal(3, *shape))


def test_shuffled_channels_and_pairwise_distances():
    for shape in ((2, 6, 3), (2, 6, 3, 4), (1, 6, 2, 2, 2)):
        for groups in (1, 2, 3, 6):
            both(nn.ChannelShuffle(groups), torch.nn.ChannelShuffle(groups), normal(*shape))
    for p in (0, 1, 1.5, 2.0, 3, np.inf):
        both(lambda x, p=p: F.pdist(x, p), lambda x, p=p: torch.pdist(x, p), normal(6, 4),
             tolerance=1e-4)  # fmt: skip
    repeated = normal(3, 4)[[0, 1, 0, 2]]
    both(F.pdist, torch.pdist, repeated)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_multilabel_margin_loss(reduction):
    target = np.array([[3, 0, -1, 1], [-1, 0, 1, 2], [0, 1, 2, 3], [2, 2, -1, -1]])
    mine = nn.MultiLabelMarginLoss(reduction=reduction)
    other = torch.nn.MultiLabelMarginLoss(reduction=reduction)
    both(mine, other, normal(4, 4), target)
    both(mine, other, normal(4), target[0])


def test_functional_call():
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    buffers = {name: value.numpy().copy() for name, value in theirs.named_buffers()}
    names = [name for name, _ in theirs.named_parameters()]

    def run(library, call, module):
        def function(x, *parameters):
            given = dict(zip(names, parameters, strict=True))
            given |= {name: library.tensor(value) for name, value in buffers.items()}
            return call(module, given, (x,)) + given["1.running_mean"]

        return function

    arrays = [normal(*p.shape, seed=i) for i, p in enumerate(theirs.parameters())]
    mine, other = run(hf, functional_call, ours), run(torch, torch.func.functional_call, theirs)
    both(mine, other, normal(6, 3), *arrays, tolerance=1e-4)


def test_vectors():
    x = normal(9)
    ours, theirs = nn.Linear(2, 3), torch.nn.Linear(2, 3)
    nn.utils.vector_to_parameters(hf.tensor(x), ours.parameters())
    torch.nn.utils.vector_to_parameters(torch.tensor(x), theirs.parameters())
    assert np.array_equal(ours.weight.array, theirs.weight.detach().numpy())
    mine = nn.utils.parameters_to_vector(ours.parameters())
    other = torch.nn.utils.parameters_to_vector(theirs.parameters())
    assert np.array_equal(mine.array, other.detach().numpy())
