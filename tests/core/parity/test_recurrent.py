"""Recurrent layers beside PyTorch's: outputs, states and gradients, with PyTorch's weights."""

import itertools

import numpy as np
import pytest
from tests.core.parity.beside import normal

from holdfast import core, nn
from holdfast.core.backend import BFLOAT16
from holdfast.nn.utils import rnn as ours_packed

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)
theirs_packed = torch.nn.utils.rnn

STEPS, BATCH, INPUT, HIDDEN = 5, 4, 3, 6
LENGTHS = {"sorted": [5, 4, 4, 2], "unsorted": [2, 5, 4, 4]}


def twins(kind, *sizes, **options):
    """Return our layer and PyTorch's with the same weights."""
    theirs = getattr(torch.nn, kind)(*sizes, **options)
    mine = getattr(nn, kind)(*sizes, **options)
    state = theirs.state_dict()
    assert list(mine.state_dict()) == list(state)
    mine.load_state_dict({name: value.numpy() for name, value in state.items()})
    return mine, theirs


def as_list(states):
    return list(states) if isinstance(states, tuple) else [states]


def check(mine, theirs, x, states, lengths=None, tolerance=2e-5):
    """Compare outputs, last states and all gradients, under random cotangents."""
    ours, other = core.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    first = [core.tensor(s, requires_grad=True) for s in states]
    begin = [torch.tensor(s, requires_grad=True) for s in states]

    def given(held):
        return () if not held else (tuple(held) if len(held) == 2 else held[0],)

    how = {"batch_first": mine.batch_first}
    source, origin = ours, other
    if lengths is not None:
        ordered = lengths == sorted(lengths, reverse=True)
        source = ours_packed.pack_padded_sequence(ours, lengths, enforce_sorted=ordered, **how)
        origin = theirs_packed.pack_padded_sequence(other, lengths, enforce_sorted=ordered, **how)
    output, last = mine(source, *given(first))
    expected, end = theirs(origin, *given(begin))
    if lengths is not None:
        output, found = ours_packed.pad_packed_sequence(output, padding_value=-1.0, **how)
        expected, wanted = theirs_packed.pad_packed_sequence(expected, padding_value=-1.0, **how)
        assert found.tolist() == wanted.tolist() == lengths
    total, sum_of = core.tensor(0.0), torch.tensor(0.0)
    for k, (a, b) in enumerate(
        zip([output, *as_list(last)], [expected, *as_list(end)], strict=True)
    ):
        assert a.shape == tuple(b.shape)
        assert np.allclose(a.array, b.detach().numpy(), rtol=tolerance, atol=tolerance)
        g = normal(*a.shape, seed=k)
        total = total + (a * core.tensor(g)).sum()
        sum_of = sum_of + (b * torch.tensor(g)).sum()
    total.backward()
    sum_of.backward()
    named = dict(mine.named_parameters())
    pairs = [(ours, other), *zip(first, begin, strict=True)]
    pairs += [(named[name], parameter) for name, parameter in theirs.named_parameters()]
    for a, b in pairs:
        wanted = b.grad.numpy()
        scale = max(1.0, float(np.abs(wanted).max()))
        assert np.allclose(a.grad.array, wanted, rtol=tolerance, atol=tolerance * scale)


KINDS = [
    ("RNN", {}),
    ("RNN", {"nonlinearity": "relu"}),
    ("GRU", {}),
    ("LSTM", {}),
]
OPTIONS = list(
    itertools.product(
        [1, 2], [False, True], [False, True], ["batch", "one", "sorted", "unsorted"], [False, True]
    )
)


@pytest.mark.parametrize(("kind", "more"), KINDS)
@pytest.mark.parametrize(("layers", "bidirectional", "batch_first", "form", "given"), OPTIONS)
def test_layers(kind, more, layers, bidirectional, batch_first, form, given):
    for bias in (True, False):
        mine, theirs = twins(
            kind,
            INPUT,
            HIDDEN,
            num_layers=layers,
            bidirectional=bidirectional,
            batch_first=batch_first,
            bias=bias,
            **more,
        )
        shape = (BATCH, STEPS) if batch_first else (STEPS, BATCH)
        x = normal(STEPS, INPUT) if form == "one" else normal(*shape, INPUT)
        places = layers * (1 + bidirectional)
        state = (places, HIDDEN) if form == "one" else (places, BATCH, HIDDEN)
        count = (2 if kind == "LSTM" else 1) if given else 0
        states = [normal(*state, seed=9 + k) for k in range(count)]
        check(mine, theirs, x, states, LENGTHS.get(form))


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("lengths", [None, [40] * 20 + [33] * 7 + [11] * 5])
@pytest.mark.parametrize("batch_first", [False, True])
def test_large_layers(kind, lengths, batch_first):
    mine, theirs = twins(kind, 24, 64, bidirectional=True, batch_first=batch_first)
    check(
        mine, theirs, normal(32, 40, 24) if batch_first else normal(40, 32, 24), [], lengths, 1e-4
    )


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits(kind, dtype):
    mine, theirs = twins(kind, 8, 16)
    mine.to({"float16": np.dtype(np.float16), "bfloat16": BFLOAT16}[dtype])
    x = core.tensor(normal(6, 3, 8)).to(next(mine.parameters()).dtype)
    output, _ = mine(x)
    assert str(output.dtype) == dtype
    expected, _ = theirs(torch.tensor(normal(6, 3, 8)))
    assert np.allclose(output.array.astype(np.float32), expected.detach().numpy(), atol=0.02)
    output.sum().backward()
    for name, parameter in mine.named_parameters():
        assert str(parameter.grad.dtype) == dtype, name


@pytest.mark.parametrize(
    ("kind", "options"),
    [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}), ("GRUCell", {}), ("LSTMCell", {})],
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [(4,), ()])
@pytest.mark.parametrize("given", [True, False])
def test_cells(kind, options, bias, batch, given):
    mine, theirs = twins(kind, INPUT, HIDDEN, bias=bias, **options)
    count = (2 if kind == "LSTMCell" else 1) if given else 0
    states = [normal(*batch, HIDDEN, seed=3 + k) for k in range(count)]
    x = normal(*batch, INPUT)
    ours, other = core.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    first = [core.tensor(s, requires_grad=True) for s in states]
    begin = [torch.tensor(s, requires_grad=True) for s in states]
    found = as_list(mine(ours, *([tuple(first) if count == 2 else first[0]] if count else [])))
    wanted = as_list(theirs(other, *([tuple(begin) if count == 2 else begin[0]] if count else [])))
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == tuple(b.shape)
        assert np.allclose(a.array, b.detach().numpy(), atol=1e-6)
    sum((a * a).sum() for a in found).backward()
    sum((b * b).sum() for b in wanted).backward()
    named = dict(mine.named_parameters())
    pairs = [(ours, other), *zip(first, begin, strict=True)]
    pairs += [(named[name], parameter) for name, parameter in theirs.named_parameters()]
    for a, b in pairs:
        assert np.allclose(a.grad.array, b.grad.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["RNNCell", "GRUCell", "LSTMCell"])
def test_cells_twice(kind):
    mine, theirs = twins(kind, INPUT, HIDDEN)
    x, direction = normal(4, INPUT), normal(4, INPUT, seed=1)

    def product(cell, library, t, v):
        (slope,) = library.grad((as_list(cell(t))[0] ** 2).sum(), t, create_graph=True)
        (curved,) = library.grad((slope * v).sum(), t)
        return curved

    ours = product(mine, core, core.tensor(x, requires_grad=True), core.tensor(direction))
    other = product(
        theirs, torch.autograd, torch.tensor(x, requires_grad=True), torch.tensor(direction)
    )
    assert np.allclose(ours.array, other.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(batch_first, side):
    parts = [normal(length, 2, seed=length) for length in (2, 5, 3)]
    options = {"batch_first": batch_first, "padding_value": 7.0, "padding_side": side}
    mine = ours_packed.pad_sequence([core.tensor(p) for p in parts], **options)
    theirs = theirs_packed.pad_sequence([torch.tensor(p) for p in parts], **options)
    assert np.array_equal(mine.array, theirs.numpy())


def test_packing():
    parts = [normal(length, 2, seed=length) for length in (2, 5, 3)]
    mine = ours_packed.pack_sequence([core.tensor(p) for p in parts], enforce_sorted=False)
    theirs = theirs_packed.pack_sequence([torch.tensor(p) for p in parts], enforce_sorted=False)
    for name in ("data", "batch_sizes", "sorted_indices", "unsorted_indices"):
        assert np.array_equal(getattr(mine, name).array, getattr(theirs, name).numpy())
    for a, b in zip(ours_packed.unpack_sequence(mine), parts, strict=True):
        assert np.array_equal(a.array, b)
    padded, lengths = ours_packed.pad_packed_sequence(mine, batch_first=True, total_length=6)
    expected, counts = theirs_packed.pad_packed_sequence(theirs, batch_first=True, total_length=6)
    assert np.array_equal(padded.array, expected.numpy())
    assert lengths.tolist() == counts.tolist()


def test_dropout_between_layers():
    mine, theirs = twins("LSTM", INPUT, HIDDEN, num_layers=2, dropout=0.5)
    x = normal(STEPS, BATCH, INPUT)
    assert not np.array_equal(mine(core.tensor(x))[0].array, mine(core.tensor(x))[0].array)
    mine.eval()
    theirs.eval()
    check(mine, theirs, x, [])
