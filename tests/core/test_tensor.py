"""Tensors behave as PyTorch's do: making, operators, indexing, shapes, in-place safety."""

import copy

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.errors import GradientError, ShapeError, UsageError


def test_dtypes_of_what_tensors_are_made_of():
    assert core.tensor(1.5).dtype == np.float32
    assert core.tensor([1, 2]).dtype == np.int64
    assert core.tensor([True]).dtype == np.bool_
    assert core.tensor([[1, 2.0]]).dtype == np.float32
    assert core.tensor(np.zeros(2)).dtype == np.float64
    assert core.tensor([1, 2], dtype=np.float64).dtype == np.float64
    assert core.tensor([core.tensor(1.0), core.tensor(2.0)]).tolist() == [1.0, 2.0]
    assert core.zeros(2, 3).dtype == core.ones((2, 3)).dtype == core.randn(2).dtype == np.float32
    assert core.full((2,), 3).dtype == np.int64
    assert core.full((2,), 3.0).dtype == np.float32
    assert core.arange(3).dtype == np.int64
    assert core.arange(0.0, 1.0, 0.5).tolist() == [0.0, 0.5]
    assert core.eye(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert core.zeros_like(core.ones(2)).tolist() == [0.0, 0.0]
    assert core.ones_like(core.zeros(2)).tolist() == [1.0, 1.0]


def test_memory_is_copied_or_shared_as_the_name_says():
    array = np.zeros(2, np.float32)
    copied, shared, viewed = core.tensor(array), core.from_numpy(array), core.as_tensor(array)
    array[0] = 1
    assert copied.tolist() == [0.0, 0.0]
    assert shared.tolist() == viewed.tolist() == [1.0, 0.0]
    assert shared.numpy() is array
    x = core.tensor([1.0], requires_grad=True)
    assert core.as_tensor(x) is x
    assert core.as_tensor(x, dtype=np.float64).dtype == np.float64
    assert x.data.array is x.detach().array is x.array
    assert not x.detach().requires_grad


def test_arithmetic_with_scalars_and_arrays_from_both_sides():
    x = core.tensor([1.0, 2.0])
    assert (x + 1).tolist() == (1 + x).tolist() == [2.0, 3.0]
    assert (x - 1).tolist() == [0.0, 1.0]
    assert (1 - x).tolist() == [0.0, -1.0]
    assert (2 * x).tolist() == (x * 2).tolist() == [2.0, 4.0]
    assert (x / 2).tolist() == [0.5, 1.0]
    assert (2 / x).tolist() == [2.0, 1.0]
    assert (x**2).tolist() == [1.0, 4.0]
    assert (2**x).tolist() == [2.0, 4.0]
    assert (-x).tolist() == [-1.0, -2.0]
    assert abs(-x).tolist() == [1.0, 2.0]
    assert isinstance(np.ones(2, np.float32) * x, core.Tensor)
    assert isinstance(np.ones((2, 2), np.float32) @ x, core.Tensor)
    assert (x * 2.5).dtype == np.float32
    assert (core.tensor([1, 2]) / 2).dtype == np.float32
    assert (core.tensor([1, 2]) * 2).dtype == np.int64


def test_comparisons_are_by_element_and_tensors_are_keys_by_identity():
    x, y = core.tensor([1.0, 2.0]), core.tensor([1.0, 3.0])
    assert (x == y).tolist() == [True, False]
    assert (x != y).tolist() == [False, True]
    assert (x < y).tolist() == [False, True]
    assert (x <= 1).tolist() == [True, False]
    assert (x > y).tolist() == [False, False]
    assert (x >= 2).tolist() == [False, True]
    assert ((x == y) & ~(x > 5) | (x > 5)).tolist() == [True, False]
    assert {x: "x", y: "y"}[x] == "x"
    assert bool(core.tensor([1.0]) == 1)
    with pytest.raises(ValueError, match="one element"):
        bool(x == y)


def test_numbers_out_of_tensors():
    x = core.tensor(2.5)
    assert x.item() == float(x) == 2.5
    assert int(x) == 2
    assert [10, 20, 30][core.tensor(1)] == 20
    with pytest.raises(TypeError, match="integers"):
        [10][core.tensor(0.0)]
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        core.zeros(2).item()
    with pytest.raises(TypeError, match="without axes"):
        len(x)
    assert np.asarray(core.tensor([1.0])).tolist() == [1.0]
    with pytest.raises(GradientError, match="detach"):
        core.ones(2, requires_grad=True).numpy()


def test_indexing_and_its_gradient():
    x = core.tensor(np.arange(12.0, dtype=np.float32).reshape(3, 4), requires_grad=True)
    assert x[1, 2].item() == 6.0
    assert x[:, -1].tolist() == [3.0, 7.0, 11.0]
    assert x[core.tensor([0, 0, 2])].shape == (3, 4)
    assert x[x > 10].tolist() == [11.0]
    assert x[None].shape == (1, 3, 4)
    assert [row.shape for row in x] == [(4,)] * 3
    x[core.tensor([0, 0, 2])].sum().backward()
    assert x.grad.tolist() == [[2.0] * 4, [0.0] * 4, [1.0] * 4]


def test_shapes():
    x = core.tensor(np.arange(24.0, dtype=np.float32).reshape(2, 3, 4))
    assert x.size() == x.shape == (2, 3, 4)
    assert (x.size(1), x.dim(), x.ndim, x.numel(), len(x)) == (3, 3, 3, 24, 2)
    assert x.reshape(6, 4).shape == x.view((6, -1)).shape == (6, 4)
    assert x.flatten().shape == (24,)
    assert x.flatten(1).shape == (2, 12)
    assert core.tensor(1.0).flatten().shape == (1,)
    assert x.transpose(0, -1).shape == x.T.shape == (4, 3, 2)
    assert x.permute(1, 2, 0).shape == x.permute((1, 2, 0)).shape == (3, 4, 2)
    assert x.unsqueeze(-1).shape == (2, 3, 4, 1)
    assert x.unsqueeze(0).squeeze().shape == (2, 3, 4)
    assert x.unsqueeze(0).squeeze(0).shape == (2, 3, 4)
    assert x.squeeze(0).shape == (2, 3, 4)
    assert x[:, :1].expand(2, 5, -1).shape == (2, 5, 4)
    assert core.ones(3).expand(2, 3).shape == (2, 3)
    assert core.stack([x, x], dim=1).shape == (2, 2, 3, 4)
    assert core.cat([x, x], dim=-1).shape == (2, 3, 8)
    assert x.T.contiguous().array.flags.c_contiguous
    assert x.contiguous() is x
    assert core.eye(2, 3).t().shape == (3, 2)


def test_reductions():
    x = core.tensor([[1.0, 5.0, 3.0], [4.0, 2.0, 6.0]])
    assert x.sum().item() == 21.0
    assert x.sum(dim=0).tolist() == [5.0, 7.0, 9.0]
    assert x.mean(dim=1, keepdim=True).tolist() == [[3.0], [4.0]]
    assert core.tensor([1, 2]).mean(dtype=np.float32).dtype == np.float32
    assert x.max().item() == 6.0
    values, indices = x.max(dim=1)
    assert (values.tolist(), indices.tolist()) == ([5.0, 6.0], [1, 2])
    assert x.min(dim=0).values.tolist() == [1.0, 2.0, 3.0]
    assert x.min().item() == 1.0
    assert x.max(1, keepdim=True).indices.shape == (2, 1)
    assert x.argmax().item() == 5
    assert x.argmax(dim=1).tolist() == [1, 2]
    assert x.argmin(dim=1, keepdim=True).tolist() == [[0], [1]]
    assert np.isclose(x.var().item(), np.var(x.array, ddof=1))
    assert np.allclose(x.std(dim=0).array, np.std(x.array, axis=0, ddof=1))
    assert np.allclose(x.logsumexp(1).array, np.log(np.exp(x.array).sum(1)))
    assert x.gather(1, core.tensor([[0], [2]])).tolist() == [[1.0], [6.0]]
    with pytest.raises(ShapeError, match="gather"):
        x.gather(1, core.zeros(3, 1, dtype=np.int64))


def test_elementwise_methods_agree_with_numpy():
    x = core.tensor([0.5, 1.5])
    for name in ("exp", "log", "sqrt", "tanh", "abs"):
        assert np.allclose(getattr(x, name)().array, getattr(np, name)(x.array))
    assert np.allclose(x.sigmoid().array, 1 / (1 + np.exp(-x.array)))
    assert core.tensor([-1000.0, 1000.0]).sigmoid().tolist() == [0.0, 1.0]
    assert (x - 1).relu().tolist() == [0.0, 0.5]
    assert x.clamp(max=1.0).tolist() == [0.5, 1.0]
    assert x.clamp(min=1.0).tolist() == [1.0, 1.5]
    assert x.pow(2).tolist() == [0.25, 2.25]
    assert np.isclose(x.softmax(0).sum().item(), 1)
    assert np.allclose(x.log_softmax(0).exp().array, x.softmax(0).array)
    assert core.maximum(x, core.tensor(1.0)).tolist() == [1.0, 1.5]
    assert core.minimum(x, core.tensor(1.0)).tolist() == [0.5, 1.0]
    assert core.where(x > 1, x, 0.0).tolist() == [0.0, 1.5]
    assert core.where(x > 1, 0.0, x).dtype == np.float32
    assert x.double().dtype == np.float64
    assert x.double().float().dtype == np.float32
    assert x.long().tolist() == [0, 1]
    assert x.to("cpu") is x
    assert x.matmul(x).item() == 2.5


def test_large_and_small_relu_are_the_same():
    x = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    x[:3] = (0.0, -0.0, np.nan)
    y = core.tensor(x).relu().array
    assert np.array_equal(y, np.maximum(x, 0), equal_nan=True)


def test_in_place_operators_change_memory_only_without_a_graph():
    x = core.tensor([1.0, 2.0])
    same = x
    x += 1
    x *= 2
    x -= 1
    x /= 3
    assert x is same
    assert np.allclose(x.array, [1.0, 5 / 3])
    w = core.tensor([1.0, 2.0], requires_grad=True)
    with pytest.raises(GradientError, match="no_grad"):
        w += 1
    with pytest.raises(GradientError, match="no_grad"):
        w.zero_()
    with pytest.raises(GradientError, match="no_grad"):
        w[0] = 1
    with core.no_grad():
        w -= 0.5
        w[0] = 7
        w.add_(1, alpha=2).mul_(1)
    assert w.tolist() == [9.0, 3.5]
    assert w.requires_grad
    y = w * 2
    before = y
    y += w  # in a graph: the tensor becomes the output of the sum
    assert y is before
    y.sum().backward()
    assert w.grad.tolist() == [3.0, 3.0]
    assert (w * 2).fill_(1).requires_grad
    with pytest.raises(ShapeError, match="in-place"):
        same += core.zeros(3, 2)


def test_data_and_copies():
    w = core.Parameter(core.tensor([1.0, 2.0]))
    w.data = core.tensor([3.0, 4.0])
    assert w.tolist() == [3.0, 4.0]
    twin = copy.deepcopy(w)
    assert isinstance(twin, core.Parameter)
    assert twin.requires_grad
    assert twin.arena is None
    twin.data = w.data * 0
    assert w.tolist() == [3.0, 4.0]
    with pytest.raises(GradientError, match="detach"):
        copy.deepcopy(w * 1)
    clone = w.clone()
    clone.sum().backward()
    assert w.grad.tolist() == [1.0, 1.0]


def test_repr_says_what_it_is():
    assert repr(core.tensor([1.0])) == "tensor([1.])"
    assert "dtype=float64" in repr(core.tensor(np.zeros(1)))
    x = core.ones(1, requires_grad=True)
    assert "requires_grad=True" in repr(x)
    assert "made_by=mul" in repr(x * x)
    assert repr(core.Parameter(x.data)).startswith("Parameter containing:")


def test_only_floats_require_gradients():
    with pytest.raises(GradientError, match="int64"):
        core.tensor([1], requires_grad=True)
    with pytest.raises(GradientError, match="a parameter holds floats"):
        core.Parameter(core.tensor([1]))


def test_unknown_devices_are_refused():
    with pytest.raises(UsageError, match=r"'cpu', 'cuda' or 'cuda:0' was expected"):
        core.zeros(1, device="tpu")


@pytest.mark.parametrize(
    ("product", "match"),
    [
        (lambda x, w: x @ w, "matmul: x and y"),
        (lambda x, w: core.einsum("ijk,kl->ijl", x, w), "einsum"),
        (lambda x, w: F.linear(x, w), "linear: .* x of float32, weight of float64"),
        (lambda x, w: F.linear(x, w.float(), w[0]), "bias of float64"),
        (lambda x, w: F.conv1d(x, w[:, :3, None]), "conv1d: .* x of float32, weight of float64"),
        (lambda x, w: F.conv_transpose1d(x, w[:3, :, None]), "conv_transpose1d"),
        (lambda x, w: nn.LSTM(4, 4)(x.double()), "lstm: x, w_ih and w_hh"),
    ],
)
def test_a_product_of_two_dtypes_is_refused(product, match):
    x, w = core.ones(2, 3, 4), core.ones(4, 4).double()
    with pytest.raises(UsageError, match=match) as caught:
        product(x, w)
    assert "of one dtype were expected" in str(caught.value)


def test_tensors_beside_none_and_in_lists():
    x = core.tensor([1, 2])
    assert (x == None) is False  # noqa: E711
    assert (x != None) is True  # noqa: E711
    assert [x, None].index(None) == 1
    assert 2 in x
    assert 3 not in x
    assert (x << 2).tolist() == [4, 8]
    assert (x >> 1).tolist() == [0, 1]
    assert +x is x


def test_numbers_in_lists():
    assert core.Tensor([1, 2]).dtype == core.tensor([1.0]).dtype == np.float32
    assert core.tensor([np.float64(1)]).dtype == np.float64
    assert core.tensor([np.array([1.0, 2.0])]).dtype == np.float64
    assert core.tensor([(1.0, 2.0)]).dtype == np.float32
    assert core.tensor([core.inf, -core.pi]).tolist()[0] == core.inf
    assert core.finfo(core.tensor([1.0]).dtype).max > 1e38


def test_errors_are_pythons_kinds_too():
    x = core.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError):
        x += 1
    with pytest.raises(RuntimeError):
        core.ones(2, 3) @ core.ones(2, 3)
    with pytest.raises(RuntimeError):
        nn.Linear(2, 2).load_state_dict({})
