"""Choosing, putting, sorting and counting beside PyTorch's."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core
from holdfast.core import functions_shape as ours
from holdfast.core.ops.index import put

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)

ROWS = np.array([2, 0, 2, -1])
GRID = np.array([[0, 1], [3, 3]])
MASK = np.array([[True, False, True, True], [False, False, True, False], [True, True, False, True]])


def kind(x):
    return core if isinstance(x, core.Tensor) else torch


INDICES = {
    "an integer": lambda i: 1,
    "integers": lambda i: (1, -1),
    "all integers": lambda i: (1, 2, 3),
    "a slice": lambda i: slice(1, None),
    "steps": lambda i: (slice(None), slice(None, None, 2), slice(1, 4, 3)),
    "ellipsis": lambda i: (..., 1),
    "new axes": lambda i: (None, 1, None, ..., None),
    "a list": lambda i: [0, 2, 2],
    "a tuple of lists": lambda i: ([0, 2, 2], [1, 0, 1]),
    "rows": lambda i: i(ROWS),
    "a number as a tensor": lambda i: i(np.array(1)),
    "columns": lambda i: (slice(None), i(ROWS)),
    "the last axis": lambda i: (..., i(GRID)),
    "a grid": lambda i: i(GRID % 3),
    "rows and columns": lambda i: (i(ROWS), i(ROWS)),
    "broadcast": lambda i: (i(ROWS[:, None]), i(ROWS[:2])),
    "apart": lambda i: (i(ROWS), slice(None), i(ROWS)),
    "apart with a slice": lambda i: (i(GRID % 3), slice(1, None), i(GRID)),
    "an integer beside": lambda i: (0, slice(None), i(ROWS)),
    "an integer behind": lambda i: (i(ROWS), slice(None), 2),
    "an integer between": lambda i: (i(ROWS), 1, i(ROWS)),
    "slices and a grid": lambda i: (slice(0, 2), i(GRID), slice(None, None, 2)),
    "a new axis and rows": lambda i: (None, i(ROWS)),
    "a new axis between": lambda i: (i(ROWS), None, i(ROWS)),
    "a mask of two axes": lambda i: i(MASK),
    "a mask of one axis": lambda i: i(MASK[:, 0]),
    "a mask behind": lambda i: (slice(None), i(MASK[0])),
    "a mask and an integer": lambda i: (i(MASK), 1),
    "a mask and rows": lambda i: (i(MASK[:, 0]), i(ROWS[:2])),
    "a list of truth": lambda i: [True, False, True],
    "nothing": lambda i: i(np.zeros(0, np.int64)),
    "true": lambda i: True,
    "false": lambda i: False,
    "an empty mask": lambda i: i(np.zeros((3, 4), bool)),
}


@pytest.mark.parametrize("name", INDICES)
def test_index(name):
    def chosen(x):
        return x[INDICES[name](kind(x).tensor)] * 2

    both(chosen, chosen, normal(3, 4, 5))


@pytest.mark.parametrize("name", INDICES)
def test_index_put_beside_assignment(name):
    """What stays where, and the gradients, when a value is put at an index."""

    def changed(x, value):
        at = INDICES[name](kind(x).tensor)
        if isinstance(x, core.Tensor):
            return put(x, at, value) * 2
        x = x.clone()
        x[at] = value
        return x * 2

    both(changed, changed, normal(3, 4, 5), np.asarray(normal(1)))


FUNCTIONS = {
    "gather": lambda k, x, y, i: k.gather(x, 1, i),
    "gather of fewer": lambda k, x, y, i: x.gather(-1, i[:2, :1]),
    "gather of more": lambda k, x, y, i: x.gather(1, k.cat([i, i], 1)),
    "take_along_dim": lambda k, x, y, i: k.take_along_dim(x[:3], i, dim=1),
    "take_along_dim, one row for all": lambda k, x, y, i: x.take_along_dim(i[:1], 1),
    "take_along_dim of all": lambda k, x, y, i: x.take_along_dim(i),
    "take": lambda k, x, y, i: k.take(x, i + 2),
    "index_select": lambda k, x, y, i: k.index_select(x, 0, i[0]),
    "index_select behind": lambda k, x, y, i: x.index_select(-1, i[0]),
    "masked_select": lambda k, x, y, i: k.masked_select(x, x > 0),
    "masked_select, one row for all": lambda k, x, y, i: x.masked_select(x[0] > 0),
    "scatter": lambda k, x, y, i: k.scatter(x, 0, i[:1], y[:1, :3]),
    "scatter of fewer": lambda k, x, y, i: x.scatter(1, i[:, :1], y[:3, :1]),
    "scatter of a number": lambda k, x, y, i: x.scatter(1, i, 2.5),
    "scatter_add": lambda k, x, y, i: k.scatter_add(x, 1, i, y[:3, :3]) * 2,
    "scatter_add of fewer": lambda k, x, y, i: x.scatter_add(0, i[:2, :2], y[:2, :2]) * 2,
    "index_add": lambda k, x, y, i: k.index_add(x, 0, i[0, :3], y[:3]) * 2,
    "index_add, scaled": lambda k, x, y, i: x.index_add(1, i[0], y[:, :3], alpha=-2) * 2,
    "index_copy": lambda k, x, y, i: k.index_copy(x, 0, i[0, :2], y[:2]) * 2,
    "index_copy behind": lambda k, x, y, i: x.index_copy(-1, i[0, :2], y[:, :2]) * 2,
    "index_fill": lambda k, x, y, i: k.index_fill(x, 1, i[0], 3.0) * 2,
    "index_put": lambda k, x, y, i: x.index_put((i[0], i[0]), y[0, :3]) * 2,
    "index_put, added": lambda k, x, y, i: x.index_put((i[0] * 0,), y[:3], accumulate=True) * 2,
    "index_put, one value added": lambda k, x, y, i: (
        x.index_put((i[0] * 0,), y[0, 0], accumulate=True) * 2
    ),
    "sort": lambda k, x, y, i: k.sort(x).values * y,
    "sort down the columns": lambda k, x, y, i: x.sort(0, descending=True)[0] * y,
    "msort": lambda k, x, y, i: k.msort(x) * y,
    "argsort": lambda k, x, y, i: k.argsort(x, 1, True),
    "topk": lambda k, x, y, i: k.topk(x, 2).values * y[:, :2],
    "topk of almost all": lambda k, x, y, i: x.topk(4, dim=-1).values * 2,
    "topk, smallest": lambda k, x, y, i: x.topk(1, dim=0, largest=False)[0] * 2,
    "topk's places": lambda k, x, y, i: x.topk(2, dim=0)[1],
    "topk of none": lambda k, x, y, i: x.topk(0).values,
    "kthvalue": lambda k, x, y, i: k.kthvalue(x, 2).values * 2,
    "kthvalue, kept": lambda k, x, y, i: x.kthvalue(3, dim=0, keepdim=True)[0] * 2,
    "kthvalue's places": lambda k, x, y, i: x.kthvalue(3, 1)[1],
    "nonzero": lambda k, x, y, i: k.nonzero(i),
    "nonzero as a tuple": lambda k, x, y, i: i.nonzero(as_tuple=True)[1],
    "argwhere": lambda k, x, y, i: k.argwhere(x > 0),
    "unique": lambda k, x, y, i: k.unique(i),
    "unique's inverse": lambda k, x, y, i: i.unique(return_inverse=True)[1],
    "unique's counts": lambda k, x, y, i: k.unique(i, return_inverse=True, return_counts=True)[2],
    "unique rows": lambda k, x, y, i: k.cat([i, i]).unique(dim=0),
    "unique rows' inverse": lambda k, x, y, i: k.cat([i, i]).unique(dim=0, return_inverse=True)[1],
    "unique_consecutive": lambda k, x, y, i: k.unique_consecutive(i // 2),
    "unique_consecutive's counts": lambda k, x, y, i: (i // 2).unique_consecutive(
        return_inverse=True, return_counts=True
    )[2],
    "unique_consecutive's inverse": lambda k, x, y, i: (i // 2).unique_consecutive(
        return_inverse=True
    )[1],
    "bincount": lambda k, x, y, i: k.bincount(i[0]),
    "bincount with weights": lambda k, x, y, i: i[0].bincount(y[0, :3].detach(), minlength=6),
    "searchsorted": lambda k, x, y, i: k.searchsorted(x[0].detach().sort()[0], y.detach()),
    "searchsorted from the right": lambda k, x, y, i: k.searchsorted(i[1].sort()[0], i, right=True),
    "searchsorted, side": lambda k, x, y, i: k.searchsorted(i[1].sort()[0], i, side="right"),
    "searchsorted by rows": lambda k, x, y, i: k.searchsorted(x.detach().sort(1)[0], y.detach()),
    "bucketize": lambda k, x, y, i: k.bucketize(y.detach(), x[0].detach().sort()[0]),
    "bucketize from the right": lambda k, x, y, i: k.bucketize(i, i[1].sort()[0], right=True),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function = FUNCTIONS[name]
    indices = np.array([[2, 0, 1], [3, 1, 0], [0, 2, 3]])
    both(
        lambda x, y, i: function(ours, x, y, i), lambda x, y, i: function(torch, x, y, i),
        normal(4, 5), normal(4, 5, seed=1), indices,
    )  # fmt: skip


@pytest.mark.parametrize("reduce", ["sum", "mean", "amax", "amin"])
@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("ties", [True, False])
def test_scatter_reduce(reduce, include_self, ties):
    x, y = normal(4, 5), normal(6, 5, seed=1)
    if ties:
        # Without self PyTorch still counts a tie with it, and loses that share of the gradient.
        x, y = np.round(x) + (0 if include_self else 0.5), np.round(y)

    def reduced(x, y, i):
        return x.scatter_reduce(0, i, y, reduce, include_self=include_self) * 2

    both(reduced, reduced, x, y, np.random.default_rng(0).integers(0, 4, (6, 5)))


@pytest.mark.parametrize("descending", [True, False])
def test_sorting_is_stable_and_puts_nan_where_pytorch_does(descending):
    x = np.array([[1, 2, 1, np.nan, 2, 0], [3, 3, 3, 1, 1, 1]], np.float32)
    mine = core.tensor(x).sort(1, descending, stable=True)
    theirs = torch.tensor(x).sort(dim=1, descending=descending, stable=True)
    assert np.array_equal(mine.values.array, theirs.values.numpy(), equal_nan=True)
    assert np.array_equal(mine.indices.array, theirs.indices.numpy())
    mine, theirs = core.tensor(x).topk(2), torch.tensor(x).topk(2)
    assert np.array_equal(mine.values.array, theirs.values.numpy(), equal_nan=True)


IN_PLACE = {
    "scatter_": lambda x, y, i: x.scatter_(1, i, y[:3, :3]),
    "scatter_ of a number": lambda x, y, i: x.scatter_(1, i, 1.5),
    "scatter_add_": lambda x, y, i: x.scatter_add_(1, i, y[:3, :3]),
    "index_add_": lambda x, y, i: x.index_add_(0, i[0], y[:3], alpha=2),
    "index_copy_": lambda x, y, i: x.index_copy_(0, i[0], y[:3]),
    "index_fill_": lambda x, y, i: x.index_fill_(0, i[0], 3),
    "index_put_": lambda x, y, i: x.index_put_((i[0],), y[:3]),
    "index_put_ added": lambda x, y, i: x.index_put_((i[0],), y[:3], accumulate=True),
    "tril_": lambda x, y, i: x.tril_(-1) + 0 * y,
    "triu_": lambda x, y, i: x.triu_(1) + 0 * y,
}


@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("graph", [True, False])
def test_in_place(name, graph):
    def changed(x, y, i):
        x = x * 2 if graph else x.detach().clone()
        y = y if graph else y.detach()
        IN_PLACE[name](x, y, i)
        return x * 3

    indices = np.array([[2, 0, 1], [3, 1, 0], [0, 2, 3]])
    both(changed, changed, normal(4, 5), normal(4, 5, seed=1), indices)


@pytest.mark.parametrize("padding", [None, 2, -1])
def test_embedding(padding):
    reference = torch.nn.functional.embedding
    both(
        lambda i, w: F.embedding(i, w, padding), lambda i, w: reference(i, w, padding),
        np.array([[0, 2, 4, 2], [2, 2, 1, 0]]), normal(5, 3),
    )  # fmt: skip


@pytest.mark.parametrize(("rows", "tokens", "width"), [(40, 900, 16), (600, 900, 16), (9, 900, 3)])
def test_embedding_of_many(rows, tokens, width):
    reference = torch.nn.functional.embedding
    indices = np.minimum(np.random.default_rng(0).zipf(1.3, tokens) - 1, rows - 1)
    both(F.embedding, reference, indices, normal(rows, width), tolerance=1e-4)


BAGS = [
    (np.array([[0, 2, 4], [2, 2, 1]]), None, {}),
    (np.array([0, 2, 4, 2, 2, 1, 0]), np.array([0, 2, 2, 5]), {}),
    (np.array([0, 2, 4, 2, 2, 1, 0]), np.array([0, 2, 7]), {"include_last_offset": True}),
    (np.array([[0, 2, 4], [2, 2, 2]]), None, {"padding_idx": 2}),
    (np.array([0, 2, 4, 2, 2, 1, 0]), np.array([0, 3, 5]), {"padding_idx": -1}),
]


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize(("indices", "offsets", "options"), BAGS)
def test_embedding_bag(indices, offsets, options, mode):
    def of(function, make):
        starts = None if offsets is None else make(offsets)
        return lambda i, w: function(i, w, offsets=starts, mode=mode, **options)

    both(
        of(F.embedding_bag, core.tensor), of(torch.nn.functional.embedding_bag, torch.tensor),
        indices, normal(5, 3),
    )  # fmt: skip
    if mode == "sum":
        both(
            lambda i, w, s: F.embedding_bag(
                i, w, None if offsets is None else core.tensor(offsets), mode="sum",
                per_sample_weights=s, **options,
            ),
            lambda i, w, s: torch.nn.functional.embedding_bag(
                i, w, None if offsets is None else torch.tensor(offsets), mode="sum",
                per_sample_weights=s, **options,
            ),
            indices, normal(5, 3), normal(*indices.shape, seed=1),
        )  # fmt: skip


@pytest.mark.parametrize("classes", [-1, 6])
def test_one_hot(classes):
    both(
        lambda i: F.one_hot(i, classes), lambda i: torch.nn.functional.one_hot(i, classes),
        np.array([[0, 2, 4], [2, 2, 1]]),
    )  # fmt: skip
