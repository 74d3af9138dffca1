"""Attention, its layers and positions: blocks, masks, dropout, memory, errors."""

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core import random
from holdfast.core.gradcheck import check_gradients, check_second_gradients
from holdfast.core.ops import scores
from holdfast.core.ops.attention import attention
from holdfast.core.primitive import registry
from holdfast.errors import ShapeError, UsageError


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture
def small_blocks(monkeypatch):
    """Let a block hold a few scores, so that there are many."""
    monkeypatch.setitem(scores.BLOCK_BYTES, "numpy", 100)
    monkeypatch.setitem(scores.FEWEST_QUERIES, "numpy", 2)


@pytest.mark.parametrize("seed", range(12))
def test_other_primitives_compute_the_same(seed):
    entry = registry()["attention"]
    arguments, options = entry.example(seed)
    tensors = [core.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    assert np.allclose(
        entry.operation(*tensors, **options).array, entry.second(*tensors, **options).array
    )
    check_second_gradients(entry.operation, arguments, options, seed=seed)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("seed", range(12))
def test_many_blocks(seed):
    entry = registry()["attention"]
    arguments, options = entry.example(seed)
    check_gradients(entry.operation, arguments, options, seed=seed)
    tensors = [core.tensor(a) if isinstance(a, np.ndarray) else a for a in arguments]
    assert np.allclose(
        entry.operation(*tensors, **options).array, entry.second(*tensors, **options).array
    )


@settings(deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(1, 200), st.integers(1, 9)
)
def test_blocks_cover_every_score_that_is_seen_once(queries, keys, causal, room, fewest):
    seen = np.zeros((queries, keys), dtype=int)
    numbers = []
    for step in scores.steps(queries, keys, causal, room, fewest):
        assert step.keys
        for number, part in step.keys:
            seen[step.queries, part] += 1
            numbers.append(number)
            block = scores.length(step.queries) * scores.length(part)
            assert block <= max(room, 1)
    assert numbers == list(range(len(numbers)))
    assert seen.max() == 1
    assert seen[np.tri(queries, keys, dtype=bool) if causal else ...].all()


@given(st.lists(st.integers(1, 5), max_size=4), st.integers(1, 50))
def test_pieces_cover_the_batch_once(batch, room):
    seen = np.zeros(batch, dtype=int)
    for piece in scores.pieces(tuple(batch), room):
        assert math.prod(map(scores.length, piece)) <= room
        seen[piece] += 1
    assert (seen == 1).all()


def test_memory_is_that_of_a_block_and_not_of_all_scores():
    length = 2048
    q, k, v = (
        core.Tensor(normal(1, 2, length, 16, seed=i).astype(np.float32), requires_grad=True)
        for i in range(3)
    )
    g = normal(1, 2, length, 16).astype(np.float32)
    tracemalloc.start()
    try:
        F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(g)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one = q.array.nbytes
    assert peak < 8 * one + 4 * scores.BLOCK_BYTES["numpy"] < 2 * length * length * 4


def test_what_is_kept_is_linear_in_the_length():
    q, k, v = (core.Tensor(normal(1, 1, 512, 4, seed=i), requires_grad=True) for i in range(3))
    tracemalloc.start()
    try:
        out = F.scaled_dot_product_attention(q, k, v)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 4 * out.array.nbytes


def test_the_output_lies_as_the_next_layer_wants_it():
    q, k, v = (core.tensor(normal(2, 3, 5, 4, seed=i)) for i in range(3))
    out = F.scaled_dot_product_attention(q, k, v)
    joined = out.transpose(1, 2).reshape(2, 5, 12)
    assert np.shares_memory(joined.array, out.array)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_a_query_that_sees_nothing_gets_zeros(kind):
    mask = np.ones((3, 4), dtype=bool)
    mask[1] = False
    given = mask if kind == "bool" else np.where(mask, 0.0, -np.inf)
    q, k, v = (core.Tensor(normal(1, n, 2, seed=n), requires_grad=True) for n in (3, 4, 4))
    out = F.scaled_dot_product_attention(q, k, v, core.tensor(given))
    assert (out.array[0, 1] == 0).all()
    out.sum().backward()
    assert (q.grad.array[0, 1] == 0).all()
    assert all(np.isfinite(t.grad.array).all() for t in (q, k, v))


def test_scores_beyond_the_exponential_are_fine():
    q = core.tensor(1e4 * normal(1, 6, 2))
    out = F.scaled_dot_product_attention(q, q, core.tensor(normal(1, 6, 2)), is_causal=True)
    assert np.isfinite(out.array).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_dtypes_are_kept(dtype):
    q, k, v = (
        core.Tensor(normal(2, 5, 4, seed=i).astype(dtype), requires_grad=True) for i in range(3)
    )
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out.backward(np.ones(out.shape, dtype))
    assert {t.dtype for t in (out, q.grad, k.grad, v.grad)} == {np.dtype(dtype)}


def test_dropout_is_drawn_from_the_generator_and_drawn_again_by_the_pullback():
    q, k, v = (normal(2, 3, 8, 4, seed=i) for i in range(3))

    def dropped(*tensors):
        core.manual_seed(3)
        return F.scaled_dot_product_attention(*tensors, dropout_p=0.4, is_causal=True)

    check_gradients(dropped, (q, k, v))
    first, second = (dropped(*map(core.tensor, (q, k, v))).array for _ in range(2))
    assert np.array_equal(first, second)
    before = random.get_state()
    F.scaled_dot_product_attention(*map(core.tensor, (q, k, v)), dropout_p=0.4)
    assert random.get_state() != before
    before = random.get_state()
    F.scaled_dot_product_attention(*map(core.tensor, (q, k, v)))
    assert random.get_state() == before


def test_dropout_drops_that_share_and_keeps_the_mean():
    zeros = core.zeros(1, 64, 4)
    values = core.tensor(np.eye(64)[None].astype(np.float32))
    p = 0.3
    weights = attention(zeros, zeros, values, dropout_p=p, seed=1).array[0] * 64
    kept = weights > 0
    assert abs(kept.mean() - (1 - p)) < 0.03
    assert np.allclose(weights[kept], 1 / (1 - p))
    assert (attention(zeros, zeros, values, dropout_p=1.0, seed=1).array == 0).all()


def test_grouped_heads_share_keys():
    q, k, v = normal(2, 6, 5, 4), normal(2, 2, 7, 4, seed=1), normal(2, 2, 7, 4, seed=2)
    check_gradients(lambda *a: F.scaled_dot_product_attention(*a, enable_gqa=True), (q, k, v))
    repeated = [core.tensor(np.repeat(a, 3, axis=1)) for a in (k, v)]
    expected = F.scaled_dot_product_attention(core.tensor(q), *repeated)
    out = F.scaled_dot_product_attention(*map(core.tensor, (q, k, v)), enable_gqa=True)
    assert np.allclose(out.array, expected.array)


def test_errors_name_what_does_not_fit():
    q, k = core.tensor(normal(2, 5, 4)), core.tensor(normal(2, 7, 3))
    with pytest.raises(ShapeError, match=r"attention: .*query of shape \(2, 5, 4\), key of shape"):
        F.scaled_dot_product_attention(q, k, k)
    with pytest.raises(ShapeError, match=r"mask of shape \(4, 5\)"):
        F.scaled_dot_product_attention(q, q, q, core.ones(4, 5))
    with pytest.raises(UsageError, match="found both"):
        F.scaled_dot_product_attention(q, q, q, core.ones(5, 5), is_causal=True)
    with pytest.raises(
        UsageError, match="of one dtype were expected; found query of float64, key of float32"
    ):
        F.scaled_dot_product_attention(q, q.float(), q)
    with pytest.raises(UsageError, match=r"a mask of bools.* found int64: mask.bool\(\)"):
        F.scaled_dot_product_attention(q, q, q, core.ones(5, 5).long())
    with pytest.raises(UsageError, match="a probability is expected"):
        F.scaled_dot_product_attention(q, q, q, dropout_p=1.5)
    q, k = core.tensor(normal(1, 5, 2, 4)), core.tensor(normal(1, 2, 2, 4))
    with pytest.raises(ShapeError, match="a multiple of those of key and value"):
        F.scaled_dot_product_attention(q, k, k, enable_gqa=True)


# -- layers -----------------------------------------------------------------------------------


def test_multihead_attention_with_and_without_weights():
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = core.tensor(normal(2, 5, 8).astype(np.float32))
    with_weights, weights = layer(x, x, x)
    without, none = layer(x, x, x, need_weights=False)
    assert none is None
    assert weights.shape == (2, 5, 5)
    assert np.allclose(weights.array.sum(-1), 1, atol=1e-6)
    assert np.allclose(with_weights.array, without.array, atol=1e-6)
    per_head = layer(x, x, x, average_attn_weights=False)[1]
    assert per_head.shape == (2, 2, 5, 5)
    assert repr(layer).startswith("MultiheadAttention(\n  (out_proj): Linear(in_features=8")


def test_multihead_attention_drops_in_training_only():
    core.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    x = core.tensor(normal(2, 5, 8).astype(np.float32))
    for need in (True, False):
        layer.train()
        first, second = (layer(x, x, x, need_weights=need)[0].array for _ in range(2))
        assert not np.allclose(first, second)
        layer.eval()
        first, second = (layer(x, x, x, need_weights=need)[0].array for _ in range(2))
        assert np.array_equal(first, second)


def test_errors_of_multihead_attention():
    with pytest.raises(UsageError, match="multiple of num_heads"):
        nn.MultiheadAttention(8, 3)
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    x = core.tensor(normal(2, 5, 8).astype(np.float32))
    with pytest.raises(ShapeError, match=r"sequences \(N, L, ...\) of 8, 8 and 8 features"):
        layer(x, x[..., :6], x[..., :6])
    with pytest.raises(ShapeError, match=r"attn_mask \(5, 5\) or \(4, 5, 5\)"):
        layer(x, x, x, attn_mask=core.zeros(4, 5))
    with pytest.raises(ShapeError, match=r"key_padding_mask \(2, 5\)"):
        layer(x, x, x, key_padding_mask=core.zeros(5, 2))
    with pytest.raises(UsageError, match="is_causal is a hint"):
        layer(x, x, x, is_causal=True)


def test_a_causal_encoder_does_not_look_ahead():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    x = normal(1, 6, 8).astype(np.float32)
    y = x.copy()
    y[:, 4:] += 1
    for hidden in (mask, core.tensor(mask.array < 0)):
        first, second = (encoder(core.tensor(a), hidden).array for a in (x, y))
        assert np.allclose(first[:, :4], second[:, :4], atol=1e-6)
        assert not np.allclose(first[:, 4:], second[:, 4:], atol=1e-3)


def test_layers_of_a_stack_are_copies():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3)
    weights = [layer.linear1.weight for layer in encoder.layers]
    assert np.array_equal(weights[0].array, weights[2].array)
    assert not np.shares_memory(weights[0].array, weights[2].array)
    assert encoder.num_layers == 3


def test_a_transformer_runs_and_learns_from_every_weight():
    core.manual_seed(0)
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    src, tgt = (core.tensor(normal(2, n, 8).astype(np.float32)) for n in (6, 4))
    model(src, tgt).pow(2).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(ShapeError, match="Transformer: expected one batch, and 8 features"):
        model(src, tgt[..., :4])
    with pytest.raises(UsageError, match="'relu', 'gelu' or a function"):
        nn.TransformerEncoderLayer(8, 2, activation="swish")


# -- positions --------------------------------------------------------------------------------


def test_sinusoidal_positions_are_those_of_the_paper():
    table = F.sinusoidal_positions(20, 7).array
    for t, i in ((0, 0), (3, 2), (19, 3)):
        angle = t / 10000 ** (2 * i / 7)
        assert np.isclose(table[t, 2 * i], math.sin(angle), atol=1e-6)
        if 2 * i + 1 < 7:
            assert np.isclose(table[t, 2 * i + 1], math.cos(angle), atol=1e-6)
    layer = nn.SinusoidalPositions(7, max_length=20)
    x = core.tensor(normal(2, 5, 7).astype(np.float32))
    assert np.allclose(layer(x, offset=3).array, x.array + table[3:8])
    first = nn.SinusoidalPositions(7, 20, batch_first=False)(x.transpose(0, 1))
    assert np.allclose(first.array, (x.array + table[:5]).swapaxes(0, 1))
    assert not layer.state_dict()
    with pytest.raises(ShapeError, match="7 features at positions before 20"):
        layer(x, offset=16)


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_positions_make_products_depend_on_the_distance(interleaved):
    q, k = normal(6), normal(6, seed=1)
    rows = [core.tensor(np.broadcast_to(a, (1, 9, 6))) for a in (q, k)]
    left, right = (F.rotary(a, interleaved=interleaved).array[0] for a in rows)
    products = left @ right.T
    for distance in range(-8, 9):
        diagonal = np.diagonal(products, distance)
        assert np.allclose(diagonal, diagonal[0])
    assert np.isclose(products[0, 0], q @ k)
    layer = nn.RotaryPositions(6, max_length=9, interleaved=interleaved).to(np.float64)
    assert np.allclose(layer(rows[0]).array[0], left, atol=1e-6)
    assert np.allclose(layer(rows[0][:, :4], offset=3).array[0], left[3:7], atol=1e-6)
    shifted = F.rotary(rows[0][:, :2], positions=[7, 5], interleaved=interleaved)
    assert np.allclose(shifted.array[0], left[[7, 5]])
    assert not layer.state_dict()


def test_rotary_turns_pairs():
    x = core.tensor([[1.0, 0.0], [1.0, 0.0]])
    expected = [[1, 0], [math.cos(1), math.sin(1)]]
    assert np.allclose(F.rotary(x).array, expected)
    four = core.tensor([[0.0] * 4, [1.0, 0.0, 0.0, 0.0]])
    assert np.allclose(F.rotary(four).array[1], [math.cos(1), math.sin(1), 0, 0])
    halves = F.rotary(four, interleaved=False).array[1]
    assert np.allclose(halves, [math.cos(1), 0, math.sin(1), 0])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rotary_computes_16_bits_in_32(dtype):
    x = core.Tensor(normal(2, 30, 8).astype(dtype), requires_grad=True)
    y = F.rotary(x)
    y.backward(np.ones(y.shape, dtype))
    exact = F.rotary(core.tensor(x.array.astype(np.float64))).array
    assert y.dtype == x.grad.dtype == dtype
    assert np.array_equal(y.array, exact.astype(np.float32).astype(dtype))


def test_errors_of_positions():
    with pytest.raises(ShapeError, match="D being even"):
        F.rotary(core.ones(2, 3))
    with pytest.raises(ShapeError, match=r"rotary: .*cos of shape"):
        F.rotary(core.ones(2, 4), positions=[1, 2, 3])
    with pytest.raises(ShapeError, match="4 features at positions before 5"):
        nn.RotaryPositions(4, max_length=5)(core.ones(6, 4))
