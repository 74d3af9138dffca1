"""Views, parts, borders and products: what is shared, what is refused, which dtypes come back."""

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core import functions_shape as functions
from holdfast.core.backend import BFLOAT16
from holdfast.core.gradcheck import check_gradients, check_second_gradients
from holdfast.core.higher import grad
from holdfast.core.primitive import registry
from holdfast.errors import ShapeError, UsageError

MINE = [
    "reshape", "permute", "broadcast", "flip", "diagonal", "diag_embed", "unfold", "overlap_add",
    "concatenate", "split", "stack", "unbind", "roll", "tril", "triu", "pad", "border", "index",
    "place", "index_put", "gather", "deal", "scatter", "scatter_reduce", "matmul", "linear",
    "contract", "embedding",
]  # fmt: skip


def counted(*shape):
    return core.tensor(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("seed", range(3, 9))
def test_gradients_of_more_samples(name, seed):
    entry = registry()[name]
    arguments, options = entry.example(seed)
    check_gradients(entry.operation, arguments, options, seed=seed)
    if entry.second != "linear":
        check_second_gradients(entry.operation, arguments, options, seed=seed)


@pytest.mark.parametrize("name", MINE)
def test_a_gradient_of_each_can_be_differentiated(name):
    """The second derivative of the squared value, against that of the value by hand."""
    entry = registry()[name]
    assert entry.second is not None
    arguments, options = entry.example(5)

    def squared(*inputs):
        outs = entry.operation(*inputs, **options)
        return sum((out * out).sum() for out in (outs if isinstance(outs, tuple) else (outs,)))

    check_second_gradients(squared, arguments)


VIEWS = {
    "reshape": lambda x: x.reshape(3, 8),
    "view": lambda x: x.view(-1),
    "permute": lambda x: x.permute(2, 0, 1),
    "squeeze": lambda x: x[:1].squeeze(0),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "expand": lambda x: x[:, :1].expand(2, 3, 4),
    "split": lambda x: x.split(2, 1)[1],
    "chunk": lambda x: x.chunk(2)[1],
    "unbind": lambda x: x.unbind()[1],
    "unbind of a vector": lambda x: x[0, 0].unbind()[1],
    "narrow": lambda x: x.narrow(1, 1, 2),
    "select": lambda x: x.select(1, 1),
    "unfold": lambda x: x.unfold(2, 2, 1),
    "flip": lambda x: x.flip(0),
    "rot90": lambda x: x.rot90(1, (1, 2)),
    "diagonal": lambda x: x.diagonal(1, 1, 2),
    "slices": lambda x: x[:, 1:, ::2],
    "cut": lambda x: F.pad(x, (-1, -1)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_share_memory(name):
    x = counted(2, 3, 4)
    assert np.shares_memory(VIEWS[name](x).array, x.array)


def test_a_diagonal_can_be_written_to():
    x = core.zeros(3, 3)
    x.diagonal().fill_(2)
    assert x.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]


def test_the_gradient_of_parts_is_joined_once():
    x = core.randn(6, 4, requires_grad=True)
    parts = x.split([1, 2, 3])
    (parts[0].sum() * 1 + parts[2].sum() * 3).backward()
    assert x.grad[:, 0].tolist() == [1, 0, 0, 3, 3, 3]


def test_options_that_cannot_be_are_refused():
    x = counted(2, 3, 4)
    for wrong in (
        lambda: x.flatten(2, 1),
        lambda: x.unflatten(1, (2, 2)),
        lambda: x.permute(0, 1),
        lambda: x.permute(0, 0, 1),
        lambda: x.movedim((0, 1), 2),
        lambda: x.t(),
        lambda: x.repeat(2),
        lambda: x.split(0),
        lambda: x.split([1, 1], dim=1),
        lambda: x.chunk(0),
        lambda: x.narrow(0, 1, 2),
        lambda: x.roll((1, 2), 0),
        lambda: x.diag(),
        lambda: F.pad(x, (1,)),
        lambda: F.pad(x, (1, 1), "mirror"),
        lambda: F.pad(x, (1, 1), "reflect", value=1),
        lambda: functions.meshgrid(x[0, 0], indexing="yx"),
        lambda: functions.einsum("ij,jk", x),
        lambda: functions.einsum("ij", x),
        lambda: functions.einsum("i1k", x),
        lambda: functions.einsum("ijk->l", x),
        lambda: functions.einsum("ijk->ii", x),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_axes_that_are_not_there_are_index_errors_as_in_pytorch():
    x = counted(2, 3)
    for wrong in (
        lambda: x.unsqueeze(3),
        lambda: x.squeeze(2),
        lambda: x.transpose(0, 2),
        lambda: x.split(1, dim=2),
        lambda: x.unbind(-3),
        lambda: x.sort(2),
        lambda: x.gather(2, core.tensor([[0]])),
    ):
        with pytest.raises(IndexError, match="dim"):
            wrong()


def test_shapes_that_do_not_fit_are_named():
    x, y = core.zeros(2, 3), core.zeros(4, 5)
    for wrong, named in (
        (lambda: x.reshape(4), "reshape"),
        (lambda: x.expand(3, 3), "broadcast"),
        (lambda: functions.cat([x, y]), "concatenate"),
        (lambda: functions.stack([x, y]), "stack"),
        (lambda: x.unfold(1, 4, 1), "unfold"),
        (lambda: F.pad(x, (3, 0), "reflect"), "border"),
        (lambda: F.pad(x, (-2, -2)), "pad"),
        (lambda: x @ y, "matmul"),
        (lambda: x.mm(y[0]), "mm"),
        (lambda: x[None].bmm(y.expand(2, 4, 5)), "bmm"),
        (lambda: x[0].outer(y), "outer"),
        (lambda: x.inner(y), "inner"),
        (lambda: x[0].trace(), "trace"),
        (lambda: functions.tensordot(x, y), "tensordot"),
        (lambda: functions.einsum("ij,ij", x, y), "einsum"),
        (lambda: F.linear(x, y), "linear"),
        (lambda: F.linear(x, core.zeros(4, 3), core.zeros(3)), "linear"),
        (lambda: F.bilinear(x, x, y), "bilinear"),
    ):
        with pytest.raises(ShapeError, match=rf"^{named}: expected .* found .*\("):
            wrong()


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float64, np.int32])
def test_dtypes_are_kept(dtype):
    x = counted(2, 3, 4).to(dtype)
    for result in (
        x.mT @ x,
        functions.einsum("bij,bkj->bik", x, x),
        functions.cat([x, x]),
        x.flip(0),
        x.tril(),
        x.roll(1),
        x[:, [0, 2]],
        x.sort().values,
        x.topk(2).values,
        x.gather(1, core.tensor([[[0]]])),
        x.scatter_add(0, core.zeros(1, 3, 4, dtype=np.int64), x),
        x.index_add(0, core.tensor([1, 1]), x),
        x[0, 0].diag(),
        F.pad(x, (1, 1)),
        F.pad(x, (1, 1), "reflect"),
    ):
        assert result.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_16_bit_floats_are_multiplied_in_float32_and_rounded(dtype):
    ones = core.ones(1, 5000, dtype=dtype, requires_grad=True)
    weight = core.ones(2, 5000, dtype=dtype, requires_grad=True)
    bias = core.ones(2, dtype=dtype, requires_grad=True)
    assert (ones @ weight.T).float().tolist() == [[4992.0 if dtype == BFLOAT16 else 5000.0] * 2]
    rows = core.ones(3000, 3, dtype=dtype)
    y = F.linear(rows, core.ones(2, 3, dtype=dtype), bias)
    y.sum().backward()
    assert y.dtype == bias.grad.dtype == dtype
    assert bias.grad.float().tolist() == [3008.0 if dtype == BFLOAT16 else 3000.0] * 2
    F.linear(ones, weight).sum().backward()
    assert weight.grad.dtype == dtype


def test_einsum_needs_no_more_than_products_of_matrices():
    """Two operands become one batched product: no array over all labels is ever made."""
    x, y = core.ones(64, 64, 64), core.ones(64, 64, 64)
    assert functions.einsum("bij,bjk->bik", x, y)[0, 0, 0].item() == 64
    assert functions.einsum("abc,abd,aed->ace", x, y, x)[0, 0, 0].item() == 64 * 64


def test_hessian_vector_product_through_linear_and_padding():
    layer = nn.Linear(6, 3)

    def loss(x, w):
        return (F.linear(F.pad(x, (1, 1), "reflect"), w) ** 3).sum()

    x = core.randn(2, 4, dtype=np.float64)
    check_second_gradients(loss, (x, layer.weight.detach().double()))
    leaf = x.requires_grad_()
    (first,) = grad(loss(leaf, layer.weight.double()), leaf, create_graph=True)
    (second,) = grad((first * first).sum(), leaf)
    assert second.shape == x.shape
