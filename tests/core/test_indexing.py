"""Choosing and putting, tables of rows, orders: behaviour, errors, and how gradients add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.backend import BFLOAT16
from holdfast.core.ops.accumulate import FEW_ELEMENTS, sum_rows
from holdfast.core.ops.index import assign, is_basic
from holdfast.errors import GradientError, ShapeError, UsageError


def counted(*shape):
    return core.tensor(np.arange(np.prod(shape), dtype=np.float32).reshape(shape))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 3, 40, 300, 70_000]),
    st.sampled_from([0, 1, 2, 50, 700]),
    st.sampled_from([1, 5, 8, 9, 33]),
    st.booleans(),
)
def test_rows_are_summed_where_they_fall(seed, count, size, width, skewed):
    rng = np.random.default_rng(seed)
    rows = (
        np.minimum(rng.zipf(1.4, size) - 1, count - 1) if skewed else rng.integers(count, size=size)
    )
    g = rng.standard_normal((size, width))
    expected = np.zeros((count, width))
    np.add.at(expected, rows, g)
    assert np.allclose(sum_rows(count, rows, g), expected)
    into = np.full((count, width), 7.0)
    assert sum_rows(count, rows, g, into) is into
    assert np.allclose(into, expected)
    assert np.array_equal(sum_rows(count, rows, g), into)  # the same bits again


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("width", [1, 4, FEW_ELEMENTS])
def test_rows_of_16_bit_floats_are_summed_in_float32(dtype, width):
    rows, g = np.zeros(5000 if width < 9 else 600, np.int64), None
    g = np.ones((len(rows), width), dtype)
    sums = sum_rows(1, rows, g)
    assert sums.dtype == dtype
    assert np.all(sums.astype(np.float32) == np.float32(len(rows)).astype(dtype).astype(np.float32))
    into = np.zeros((1, width), dtype)
    assert np.array_equal(sum_rows(1, rows, g, into), sums)


def test_integers_make_views_and_arrays_copies():
    x = counted(3, 4)
    assert np.shares_memory(x[1].array, x.array)
    assert np.shares_memory(x[..., 1:].array, x.array)
    assert not np.shares_memory(x[[1]].array, x.array)
    assert x[::-1].tolist() == x.flip(0).tolist()  # PyTorch refuses this one


def test_what_is_basic():
    assert is_basic(1)
    assert is_basic((1, slice(None), None, ..., np.int64(2)))
    assert not is_basic(True)
    assert not is_basic([1])
    assert not is_basic((0, np.array([1])))


def test_an_integer_beside_an_array_does_not_move_axes():
    """NumPy has (2, 3) here, since it counts the integer as an array."""
    x = counted(2, 3, 4)
    assert x[0, :, [1, 2]].shape == (3, 2)
    assert x.array[0, :, [1, 2]].shape == (2, 3)
    array = x.array.copy()
    assign(array, (0, slice(None), [1, 2]), np.arange(6).reshape(3, 2))
    assert array[0, :, 1:3].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_wrong_indices_say_so():
    x = counted(3, 4)
    for wrong, said in (
        (lambda: x[[0], [0], [0]], "3 axes is too long"),
        (lambda: x[core.tensor([True, False])], "mask of shape"),
        (lambda: x[core.tensor([0.5])], "integers and masks"),
        (lambda: x[[3]], "out of bounds"),
        (lambda: x.scatter_add(0, core.tensor([[3]]), core.ones(1, 1)), "out of range"),
        (lambda: x.scatter(0, core.tensor([[-4]]), 1.0), "out of range"),
        (lambda: F.embedding(core.tensor([3]), x), "out of range for 3 rows"),
        (lambda: F.embedding(core.tensor([-1]), x), "out of range for 3 rows"),
        (lambda: F.embedding(core.tensor([0.5]), x), "integers"),
    ):
        with pytest.raises(IndexError, match=said):
            wrong()
    for wrong in (
        lambda: x.gather(1, core.zeros(4, 1, dtype=np.int64)),
        lambda: x.scatter(1, core.zeros(3, 2, dtype=np.int64), core.ones(3, 1)),
        lambda: x.index_add(0, core.tensor([0]), core.ones(2, 4)),
        lambda: x.index_copy(0, core.tensor([0, 1]), core.ones(3, 4)),
    ):
        with pytest.raises(ShapeError):
            wrong()
    for wrong in (
        lambda: x.scatter(0, core.tensor([[0]]), 1.0, reduce="multiply"),
        lambda: x.scatter_reduce(0, core.tensor([[0]]), x, "prod"),
        lambda: x.topk(5),
        lambda: x.kthvalue(0),
        lambda: x.bincount(),
        lambda: x.index_select(0, core.tensor([[0]])),
        lambda: F.one_hot(x),
        lambda: F.one_hot(core.tensor([-1])),
        lambda: F.one_hot(core.tensor([3]), 3),
        lambda: F.embedding(core.tensor([0]), x, padding_idx=3),
        lambda: F.embedding_bag(core.tensor([0]), x),
        lambda: F.embedding_bag(core.tensor([[0]]), x, mode="median"),
        lambda: F.embedding_bag(core.tensor([[0]]), x, per_sample_weights=core.ones(1, 1)),
        lambda: nn.Embedding(3, 4, padding_idx=3),
        lambda: nn.Embedding.from_pretrained(core.ones(3)),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_an_element_chosen_twice_gets_both_gradients():
    x = core.zeros(3, 4, requires_grad=True)
    x[[0, 0, 2], 1].backward(core.tensor([1.0, 2.0, 4.0]))
    assert x.grad[:, 1].tolist() == [3.0, 0.0, 4.0]
    assert x.grad.sum().item() == 7.0


def test_gradients_of_a_selection_are_of_its_dtype():
    for dtype in (np.float16, BFLOAT16, np.float32, np.float64):
        x = core.ones(300, 20, dtype=dtype, requires_grad=True)
        x[np.arange(900) % 300].sum().backward()
        assert x.grad.dtype == dtype
        assert np.all(x.grad.float().array == 3)
        x.grad = None
        x.gather(0, core.zeros(900, 20, dtype=np.int64)).sum().backward()
        assert np.all(x.grad[0].float().array == 900)
        assert x.grad[1:].float().sum().item() == 0


def test_an_embedding_writes_its_gradient_into_the_arena():
    model = nn.Sequential(nn.Embedding(50, 12), nn.Linear(12, 2))
    arena = core.Arena(model.parameters())
    tokens = core.tensor(np.arange(400) % 7)
    for _ in range(2):
        for parameter in model.parameters():
            parameter.zero_grad()
        model(tokens).sum().backward()
    table = model[0].weight
    assert np.shares_memory(table.grad.array, arena.gradients)
    expected = model[1].weight.array.sum(axis=0) * np.bincount(tokens.array, minlength=50)[:, None]
    assert np.allclose(table.grad.array, expected, rtol=1e-5)


def test_padding_learns_nothing():
    layer = nn.Embedding(4, 3, padding_idx=-1)
    assert layer.weight[3].tolist() == [0.0] * 3
    layer(core.tensor([3, 1, 3])).sum().backward()
    assert layer.weight.grad.sum(dim=1).tolist() == [0.0, 3.0, 0.0, 0.0]


def test_a_pretrained_table_is_shared_and_frozen():
    table = counted(4, 3)
    layer = nn.Embedding.from_pretrained(table)
    assert not layer.weight.requires_grad
    assert np.shares_memory(layer.weight.array, table.array)
    assert layer(core.tensor([[2]])).tolist() == [[[6.0, 7.0, 8.0]]]
    bag = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="sum")
    bag(core.tensor([[0, 1]])).sum().backward()
    assert bag.weight.grad.sum(dim=1).tolist() == [3.0, 3.0, 0.0, 0.0]


def test_an_empty_bag_is_zeros():
    table = core.ones(3, 2, requires_grad=True)
    for mode in ("sum", "mean", "max"):
        out = F.embedding_bag(core.tensor([1]), table, core.tensor([0, 0, 1]), mode=mode)
        assert out.tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


def test_sorting_zero_axes_and_ties():
    values, indices = core.tensor(3.0).sort()
    assert (values.item(), indices.item()) == (3.0, 0)
    x = core.tensor([1.0, 0.0, 1.0, 0.0])
    assert x.sort(stable=True).indices.tolist() == [1, 3, 0, 2]
    assert x.sort(descending=True, stable=True).indices.tolist() == [0, 2, 1, 3]
    assert x.topk(3, sorted=False).values.sum().item() == 2.0
    assert core.tensor([True, False]).sort().values.tolist() == [False, True]


def test_in_place_changes_keep_to_the_rule():
    x = core.zeros(2, 3)
    memory = x.array
    assert x.scatter_(1, core.tensor([[0], [2]]), 5) is x
    assert x.array is memory
    assert x.tolist() == [[5, 0, 0], [0, 0, 5]]
    leaf = core.zeros(2, 3, requires_grad=True)
    with pytest.raises(GradientError, match="leaf"):
        leaf.scatter_(1, core.tensor([[0]]), 5)


def test_a_source_larger_than_the_index_is_cut():
    x, source = core.zeros(2, 3), core.randn(4, 5, requires_grad=True)
    at = core.tensor([[2, 0]])
    assert x.scatter(1, at, source).tolist()[1] == [0.0] * 3
    (x.scatter(1, at, source, reduce="add") * 3).sum().backward()
    assert source.grad.sum().item() == 6.0
    assert source.grad[0, :2].tolist() == [3.0, 3.0]


def test_counting():
    x = core.tensor([3, 1, 3, 3])
    assert x.bincount().tolist() == [0, 1, 0, 3]
    assert x.bincount(minlength=6).shape == (6,)
    assert x.bincount(core.tensor([0.5, 1, 2, 3])).dtype == np.float32
    values, inverse, counts = x.unique(return_inverse=True, return_counts=True)
    assert (values.tolist(), inverse.tolist(), counts.tolist()) == ([1, 3], [1, 0, 1, 1], [1, 3])
    assert F.one_hot(core.tensor([1, 0])).dtype == np.int64
    assert x.nonzero().shape == (4, 1)
