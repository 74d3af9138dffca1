"""Attention beside PyTorch's: values and gradients, masks, grouped heads, many blocks."""

import ml_dtypes
import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.ops import scores

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)


def attention(**options):
    """Return ours and PyTorch's, with these options."""
    theirs = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    mine = {k: core.tensor(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    return (
        lambda *a: F.scaled_dot_product_attention(*a, **mine),
        lambda *a: torch.nn.functional.scaled_dot_product_attention(*a, **theirs),
    )


def arrays(length, keys, batch=(2, 3), width=8, value=None):
    return [
        normal(*batch, n, w, seed=i)
        for i, (n, w) in enumerate([(length, width), (keys, width), (keys, value or width)])
    ]


@pytest.fixture(params=["one block", "many blocks"])
def room(request, monkeypatch):
    """Let a block be as usual, or so small that there are many."""
    if request.param == "many blocks":
        monkeypatch.setitem(scores.BLOCK_BYTES, "numpy", 4 * 96)
        monkeypatch.setitem(scores.FEWEST_QUERIES, "numpy", 3)


@pytest.mark.usefixtures("room")
class TestAttention:
    @pytest.mark.parametrize(("length", "keys"), [(1, 1), (5, 5), (5, 9), (9, 5), (33, 40)])
    @pytest.mark.parametrize("causal", [True, False])
    @pytest.mark.parametrize("scale", [None, 0.3])
    def test_lengths(self, length, keys, causal, scale):
        both(*attention(is_causal=causal, scale=scale), *arrays(length, keys, value=4))

    @pytest.mark.parametrize("batch", [(), (3,), (1, 2), (2, 1, 3)])
    @pytest.mark.parametrize("causal", [True, False])
    def test_batches(self, batch, causal):
        both(*attention(is_causal=causal), *arrays(6, 6, batch))

    @pytest.mark.parametrize(
        "shape", [(7, 9), (1, 9), (7, 1), (2, 1, 7, 9), (2, 1, 1, 9), (3, 7, 9)]
    )
    def test_masks_of_bools(self, shape):
        mask = np.random.default_rng(0).random(shape) < 0.7
        both(*attention(attn_mask=mask), *arrays(7, 9))

    @pytest.mark.parametrize("shape", [(7, 9), (2, 1, 7, 9), (2, 3, 1, 9), (3, 7, 9)])
    def test_masks_of_floats(self, shape):
        mask = normal(*shape)
        mask[np.random.default_rng(0).random(shape) < 0.2] = -np.inf
        both(*attention(attn_mask=mask), *arrays(7, 9))

    @pytest.mark.parametrize("shape", [(7, 9), (2, 1, 7, 9), (2, 3, 1, 9)])
    def test_gradient_of_a_mask(self, shape):
        both(
            F.scaled_dot_product_attention,
            torch.nn.functional.scaled_dot_product_attention,
            *arrays(7, 9),
            normal(*shape, seed=5),
        )

    @pytest.mark.parametrize("kind", ["bool", "float"])
    def test_queries_that_see_nothing(self, kind):
        mask = np.random.default_rng(0).random((2, 1, 7, 9)) < 0.6
        mask[0, :, 2] = mask[1, :, 6] = False
        if kind == "float":
            mask = np.where(mask, 0.5, -np.inf).astype(np.float32)
        both(*attention(attn_mask=mask), *arrays(7, 9))

    @pytest.mark.parametrize("shared", [1, 2, 3, 6])
    @pytest.mark.parametrize("masked", [True, False])
    def test_grouped_heads(self, shared, masked):
        query = normal(2, 6, 5, 8)
        key, value = normal(2, shared, 7, 8, seed=1), normal(2, shared, 7, 8, seed=2)
        options = {"enable_gqa": True}
        if masked:
            options["attn_mask"] = np.random.default_rng(0).random((2, 6, 5, 7)) < 0.8
        both(*attention(**options), query, key, value)

    def test_large_scores(self):
        query, key, value = arrays(9, 11)
        both(*attention(), 60 * query, 60 * key, value, tolerance=2e-4)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    @pytest.mark.parametrize("causal", [True, False])
    def test_dtypes(self, dtype, causal):
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
        inputs = [a.astype(kind) for a in arrays(9, 9)]
        g = normal(2, 3, 9, 8, seed=7).astype(kind)
        mine = [core.Tensor(a, requires_grad=True) for a in inputs]
        theirs = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in inputs]
        ours, reference = attention(is_causal=causal)
        out, other = ours(*mine), reference(*theirs)
        out.backward(g)
        other.backward(torch.tensor(g.astype(np.float64)))
        near = {"float16": 4e-3, "bfloat16": 3e-2, "float64": 1e-11}[dtype]
        assert out.dtype == kind
        assert np.allclose(out.array.astype(float), other.detach().numpy(), atol=near, rtol=near)
        for a, b in zip(mine, theirs, strict=True):
            assert a.grad.dtype == kind
            assert np.allclose(a.grad.array.astype(float), b.grad.numpy(), atol=near, rtol=near)


@pytest.mark.parametrize("causal", [True, False])
def test_long_sequences(causal):
    both(*attention(is_causal=causal), *arrays(700, 900, (1, 2), 16), tolerance=2e-5)


def heads(options):
    """Return ours and PyTorch's MultiheadAttention with the same weights."""
    theirs = torch.nn.MultiheadAttention(12, 3, **options)
    mine = nn.MultiheadAttention(12, 3, **options)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for parameter in theirs.parameters():
        parameter.data.normal_().mul_(0.4)
    mine.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    return mine, theirs


def beside(mine, theirs, queries, arguments, result, tolerance=2e-5):
    """Compare one output of the modules, and the gradients of inputs and weights."""
    ours = {k: core.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}
    other = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in arguments.items()}

    def three(given):
        """Return query, key and value: what is not given is what was given last."""
        return (*given, *given[-1:] * (3 - len(given)))

    both(
        lambda *a: mine(*three(a), **ours)[result],
        lambda *a: theirs(*three(a), **other)[result],
        *queries,
        tolerance=tolerance,
    )
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        if q.grad is not None:
            assert np.allclose(p.grad.array, q.grad.numpy(), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("inputs", [1, 2, 3])
def test_multihead_attention(batch_first, bias, need_weights, inputs):
    mine, theirs = heads({"batch_first": batch_first, "bias": bias})
    shapes = [(2, 5, 12), (2, 7, 12), (2, 7, 12)][:inputs]
    queries = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    if not batch_first:
        queries = [np.ascontiguousarray(q.swapaxes(0, 1)) for q in queries]
    beside(mine, theirs, queries, {"need_weights": need_weights}, 0)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_returned_weights(average, batched):
    mine, theirs = heads({"batch_first": True})
    shape = (2, 5, 12) if batched else (5, 12)
    beside(mine, theirs, [normal(*shape)], {"average_attn_weights": average}, 1)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("given", ["padding", "matrix", "heads", "both"])
def test_masks_of_multihead_attention(need_weights, kind, given):
    mine, theirs = heads({"batch_first": True})
    rng = np.random.default_rng(0)
    arguments = {"need_weights": need_weights}
    shapes = {"padding": (2, 6), "matrix": (6, 6), "heads": (6, 6, 6), "both": (6, 6)}
    name = "key_padding_mask" if given == "padding" else "attn_mask"
    arguments[name] = rng.random(shapes[given]) < 0.4
    arguments[name][..., 0] = False
    if given == "both":
        arguments["key_padding_mask"] = np.zeros((2, 6), dtype=bool)
        arguments["key_padding_mask"][1, 4:] = True
    if kind == "float":
        for key in ("attn_mask", "key_padding_mask"):
            if key in arguments:
                arguments[key] = np.where(arguments[key], -np.inf, 0.3).astype(np.float32)
    beside(mine, theirs, [normal(2, 6, 12)], arguments, 0)


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_causal_hint(need_weights):
    mine, theirs = heads({"batch_first": True})
    mask = np.triu(np.full((6, 6), -np.inf, dtype=np.float32), 1)
    arguments = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    beside(mine, theirs, [normal(2, 6, 12)], arguments, 0)


@pytest.mark.parametrize("kdim", [None, 7])
@pytest.mark.parametrize("vdim", [None, 5])
def test_other_sizes_of_keys_and_values(kdim, vdim):
    mine, theirs = heads({"batch_first": True, "kdim": kdim, "vdim": vdim})
    queries = [normal(2, 5, 12), normal(2, 7, kdim or 12, seed=1), normal(2, 7, vdim or 12, seed=2)]
    beside(mine, theirs, queries, {}, 0)
