"""Products of matrices, einsum and the layers made of them beside PyTorch's."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core import functions_shape as ours
from holdfast.core.higher import grad

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

SHAPES = [
    ((4,), (4,)),
    ((3, 4), (4,)),
    ((4,), (4, 5)),
    ((3, 4), (4, 5)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 5)),
    ((2, 3, 4), (4, 5)),
    ((3, 4), (2, 4, 5)),
    ((2, 3, 4), (2, 4, 5)),
    ((2, 1, 3, 4), (6, 4, 5)),
    ((0, 4), (4, 5)),
    ((3, 0), (0, 5)),
    ((2, 3, 0), (0, 5)),
]


@pytest.mark.parametrize(("left", "right"), SHAPES)
def test_matmul(left, right):
    both(
        lambda x, y: x @ y, lambda x, y: x @ y, normal(*left), normal(*right, seed=1),
        tolerance=1e-4,
    )  # fmt: skip


def test_matmul_of_transposed_views():
    both(
        lambda x, y: x.mT @ y.mT, lambda x, y: x.mT @ y.mT,
        normal(2, 3, 4), normal(2, 5, 3, seed=1), tolerance=1e-4,
    )  # fmt: skip


PRODUCTS = {
    "mm": (lambda k, x, y: k.mm(x, y), (3, 4), (4, 2)),
    "bmm": (lambda k, x, y: k.bmm(x, y), (5, 3, 4), (5, 4, 2)),
    "mv": (lambda k, x, y: k.mv(x, y), (3, 4), (4,)),
    "dot": (lambda k, x, y: k.dot(x, y), (4,), (4,)),
    "outer": (lambda k, x, y: k.outer(x, y), (4,), (3,)),
    "ger": (lambda k, x, y: x.ger(y), (4,), (3,)),
    "inner": (lambda k, x, y: k.inner(x, y), (4,), (4,)),
    "inner of matrices": (lambda k, x, y: x.inner(y), (2, 3, 4), (5, 4)),
    "inner with a number": (lambda k, x, y: x.inner(y), (2, 3), ()),
    "matmul": (lambda k, x, y: k.matmul(x, y), (2, 3, 4), (4, 2)),
    "addmm": (lambda k, x, y: k.addmm(x[0], x, y, beta=2, alpha=0.5), (4, 4), (4, 4)),
    "addmm of a row": (lambda k, x, y: x[0, :3].addmm(x, y), (2, 4), (4, 3)),
    "addmm without": (lambda k, x, y: k.addmm(x, x, y, beta=0), (4, 4), (4, 4)),
    "addmv": (lambda k, x, y: k.addmv(x[0], x, y, alpha=2), (4, 4), (4,)),
    "addr": (lambda k, x, y: k.addr(x[0], x[1], y, beta=3), (2, 4), (4,)),
    "baddbmm": (lambda k, x, y: k.baddbmm(x, x, y, beta=2, alpha=-1), (2, 4, 4), (2, 4, 4)),
    "trace": (lambda k, x, y: k.trace(x) + y, (3, 4), ()),
    "tensordot": (lambda k, x, y: k.tensordot(x, y), (2, 3, 4), (3, 4, 5)),
    "tensordot, outer": (lambda k, x, y: k.tensordot(x, y, dims=0), (2, 3), (4,)),
    "tensordot of axes": (
        lambda k, x, y: k.tensordot(x, y, dims=([0, -1], [2, 0])),
        (2, 3, 4),
        (4, 5, 2),
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name):
    function, left, right = PRODUCTS[name]
    both(
        lambda x, y: function(ours, x, y), lambda x, y: function(torch, x, y),
        normal(*left), np.asarray(normal(*right, seed=1)), tolerance=1e-4,
    )  # fmt: skip


EQUATIONS = [
    ("ij,jk->ik", (2, 3), (3, 4)),
    ("ij,jk", (2, 3), (3, 4)),
    ("kj,ji", (2, 3), (3, 4)),
    ("ij,jk->ki", (2, 3), (3, 4)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("ij,ij->ij", (2, 3), (2, 3)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("i,j->ij", (2,), (3,)),
    ("i,j->ji", (2,), (3,)),
    ("bij,bjk->bik", (5, 2, 3), (5, 3, 4)),
    ("bhqd,bhkd->bhqk", (2, 3, 4, 5), (2, 3, 6, 5)),
    ("bqhd,bkhd->bhqk", (2, 4, 3, 5), (2, 6, 3, 5)),
    ("...ij,...jk->...ik", (5, 2, 3), (5, 3, 4)),
    ("...ij,...jk->...ik", (5, 2, 3), (3, 4)),
    ("...ij,...jk", (6, 1, 2, 3), (5, 3, 4)),
    ("i...,i...->...", (3, 2, 4), (3, 4)),
    ("i...->...", (3, 2, 4)),
    ("...i->...", (3, 2, 4)),
    ("...i->i", (3, 2, 4)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iij->j", (3, 3, 2)),
    ("iji->ij", (3, 2, 3)),
    ("iii->i", (3, 3, 3)),
    ("iij,jk->ik", (3, 3, 2), (2, 4)),
    ("ij->ji", (2, 3)),
    ("ij", (2, 3)),
    ("ba", (2, 3)),
    ("ij->", (2, 3)),
    ("ijk->k", (2, 3, 4)),
    ("ij,k->", (2, 3), (4,)),
    ("ij,kl->il", (2, 3), (4, 5)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 5)),
    ("bn,anm,bm->ba", (2, 3), (4, 3, 5), (2, 5)),
    ("a,b,c,d->dbca", (2,), (3,), (4,), (2,)),
    ("ij,ij,ij->j", (2, 3), (2, 3), (2, 3)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ij,ij->i", (2, 1), (2, 3)),
    ("ij,ij->ij", (2, 1), (1, 3)),
    ("iJ,Jk->ik", (2, 3), (3, 4)),
    (" i j , j k -> i k ", (2, 3), (3, 4)),
    ("bci,bcj,bck->bijk", (2, 3, 2), (2, 3, 4), (2, 3, 5)),
    ("ij,jk->ik", (0, 3), (3, 4)),
    ("ij,jk->ik", (2, 0), (0, 4)),
    (",ij->ij", (), (2, 3)),
]


@pytest.mark.parametrize("case", EQUATIONS, ids=str)
def test_einsum(case):
    equation, *shapes = case
    operands = [np.asarray(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
    both(
        lambda *a: ours.einsum(equation, *a) * 2, lambda *a: torch.einsum(equation, *a) * 2,
        *operands, tolerance=1e-4,
    )  # fmt: skip


LABELS = [([0, 1], [1, 2], [2, 0]), ([..., 1], [1, 2], [..., 2]), ([0, 1], [1, 2])]


@pytest.mark.parametrize("labels", LABELS)
def test_einsum_of_lists_of_labels(labels):
    first, *rest = labels
    both(
        lambda x, y: ours.einsum(x, first, y, *rest), lambda x, y: torch.einsum(x, first, y, *rest),
        normal(2, 3), normal(3, 4, seed=1), tolerance=1e-4,
    )  # fmt: skip


def test_second_derivatives_of_einsum():
    arrays = [normal(2, 3).astype(np.float64), normal(3, 3, seed=1).astype(np.float64)]
    mine = [core.Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    results = []
    for k, differentiate, (x, y) in ((ours, grad, mine), (torch, torch.autograd.grad, theirs)):
        loss = (k.einsum("ij,jk,lk,ii->il", x, y, x, x @ x.T) ** 2).sum()
        first = differentiate(loss, [x, y], create_graph=True)
        second = differentiate(sum((part**2).sum() for part in first), [x, y])
        results.append([part.tolist() for part in second])
    for a, b in zip(*results, strict=True):
        assert np.allclose(a, b, rtol=1e-9)


@pytest.mark.parametrize("shape", [(5, 7), (7,), (2, 3, 7), (2, 0, 7), (0, 7)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(shape, bias):
    arrays = [normal(*shape), normal(4, 7, seed=1), *[normal(4, seed=2)] * bias]
    both(F.linear, torch.nn.functional.linear, *arrays)


def test_linear_takes_names():
    x, w, b = normal(5, 7), normal(4, 7, seed=1), normal(4, seed=2)
    named = torch.nn.functional.linear
    both(
        lambda x, w, b: F.linear(input=x, weight=w, bias=b),
        lambda x, w, b: named(input=x, weight=w, bias=b),
        x, w, b,
    )  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(), (5,), (2, 5)])
def test_bilinear(batch, bias):
    arrays = [normal(*batch, 3), normal(*batch, 4, seed=1), normal(2, 3, 4, seed=2)]
    arrays += [normal(2, seed=3)] * bias
    both(F.bilinear, torch.nn.functional.bilinear, *arrays)


LAYERS = [
    ("Linear", (4, 3), {}),
    ("Linear", (4, 3), {"bias": False}),
    ("Bilinear", (4, 3, 2), {}),
    ("Identity", (54,), {"unused": 0.1}),
    ("Embedding", (6, 3), {}),
    ("Embedding", (6, 3), {"padding_idx": -2}),
    ("EmbeddingBag", (6, 3), {"mode": "sum"}),
    ("EmbeddingBag", (6, 3), {"mode": "max", "padding_idx": 1}),
]


@pytest.mark.parametrize(("name", "sizes", "options"), LAYERS)
def test_layers(name, sizes, options):
    layer, other = getattr(nn, name)(*sizes, **options), getattr(torch.nn, name)(*sizes, **options)
    assert repr(layer) == repr(other)
    if name == "Embedding" and options:
        assert not layer.weight.array[4].any()
    layer.load_state_dict({n: t.detach().numpy() for n, t in other.state_dict().items()})
    inputs = {
        "Linear": [normal(5, 4)],
        "Bilinear": [normal(5, 4), normal(5, 3, seed=1)],
        "Identity": [normal(2)],
    }.get(name, [np.array([[0, 4, 1], [4, 4, 5]])])
    both(lambda *a: layer(*a), lambda *a: other(*a), *inputs)
    if name != "Identity":
        layer(*map(core.tensor, inputs)).sum().backward()
        other.zero_grad()
        layer.zero_grad()
        layer(*map(core.tensor, inputs)).sum().backward()
        other(*map(torch.tensor, inputs)).sum().backward()
        assert np.allclose(layer.weight.grad.array, other.weight.grad.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
@pytest.mark.parametrize(("left", "right"), [((3, 40), (40, 5)), ((2, 3, 40), (2, 40, 5))])
def test_products_of_16_bit_floats(kind, left, right):
    x, y = torch.tensor(normal(*left)), torch.tensor(normal(*right, seed=1))
    x, y = (t.to(getattr(torch, kind)) for t in (x, y))
    dtype = np.dtype(np.float16) if kind == "float16" else core.backend.BFLOAT16
    mine = [core.tensor(t.float().numpy()).to(dtype) for t in (x, y)]
    product = mine[0] @ mine[1]
    assert product.dtype == dtype
    expected = (x.float() @ y.float()).to(getattr(torch, kind)).float().numpy()
    assert np.array_equal(product.float().array, expected) or np.allclose(
        product.float().array, expected, rtol=2**-7, atol=1e-3
    )
