"""The Transformer and its layers beside PyTorch's, with the same weights."""

import warnings

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core, nn, optim

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)
SIZES = {"d_model": 12, "nhead": 3, "dim_feedforward": 16, "dropout": 0.0}
CAUSAL = np.triu(np.full((5, 5), -np.inf, dtype=np.float32), 1)
PADDING = np.array([[False] * 5, [False] * 3 + [True] * 2])


def alike(mine, theirs, training=True):
    """Give both modules the same weights, and ours by way of a state that PyTorch saved."""
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for parameter in theirs.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    mine.load_state_dict({n: t.numpy() for n, t in theirs.state_dict().items()})
    mine.train(training)
    theirs.train(training)
    return mine, theirs


def masks(library, **given):
    return {k: library(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}


def beside(mine, theirs, inputs, **given):
    ours, other = masks(core.tensor, **given), masks(torch.tensor, **given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about masks of two kinds
        both(
            lambda *a: mine(*a, **ours),
            lambda *a: theirs(*a, **other),
            *inputs,
            tolerance=5e-5,
        )
    for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
        assert np.allclose(p.grad.array, q.grad.numpy(), rtol=1e-3, atol=1e-4), name


OPTIONS = [
    {},
    {"norm_first": True},
    {"activation": "gelu"},
    {"batch_first": True, "bias": False},
    {"layer_norm_eps": 0.1, "norm_first": True, "batch_first": True},
]
MASKS = [
    {},
    {"mask": CAUSAL},
    {"mask": CAUSAL, "is_causal": True},
    {"padding": PADDING},
    {"mask": CAUSAL < 0, "padding": PADDING},
    {"mask": CAUSAL, "padding": PADDING, "is_causal": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("given", MASKS)
@pytest.mark.parametrize("training", [True, False])
def test_encoder_layer(options, given, training):
    pair = (kind.TransformerEncoderLayer(**SIZES, **options) for kind in (nn, torch.nn))
    mine, theirs = alike(*pair, training)
    names = {"mask": "src_mask", "padding": "src_key_padding_mask"}
    shape = (2, 5, 12) if options.get("batch_first") else (5, 2, 12)
    beside(mine, theirs, [normal(*shape)], **{names.get(k, k): v for k, v in given.items()})


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("given", MASKS)
def test_decoder_layer(options, given):
    pair = (kind.TransformerDecoderLayer(**SIZES, **options) for kind in (nn, torch.nn))
    mine, theirs = alike(*pair)
    names = {"mask": "tgt_mask", "padding": "tgt_key_padding_mask", "is_causal": "tgt_is_causal"}
    arguments = {names[k]: v for k, v in given.items()}
    if "padding" in given:
        arguments["memory_key_padding_mask"] = np.array([[False] * 7, [False] * 4 + [True] * 3])
    inputs = [normal(2, 5, 12), normal(2, 7, 12, seed=1)]
    if not options.get("batch_first"):
        inputs = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in inputs]
    beside(mine, theirs, inputs, **arguments)


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("given", MASKS)
def test_encoder(normed, given):
    def make(kind):
        layer = kind.TransformerEncoderLayer(**SIZES, batch_first=True)
        norm = kind.LayerNorm(12) if normed else None
        return kind.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)

    mine, theirs = alike(make(nn), make(torch.nn))
    names = {"padding": "src_key_padding_mask"}
    arguments = {names.get(k, k): v for k, v in given.items()}
    beside(mine, theirs, [normal(2, 5, 12)], **arguments)


@pytest.mark.parametrize("given", MASKS)
def test_decoder(given):
    def make(kind):
        layer = kind.TransformerDecoderLayer(**SIZES, batch_first=True, norm_first=True)
        return kind.TransformerDecoder(layer, 2, kind.LayerNorm(12))

    mine, theirs = alike(make(nn), make(torch.nn))
    names = {"mask": "tgt_mask", "padding": "tgt_key_padding_mask", "is_causal": "tgt_is_causal"}
    arguments = {names[k]: v for k, v in given.items()}
    beside(mine, theirs, [normal(2, 5, 12), normal(2, 7, 12, seed=1)], **arguments)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("unbatched", [True, False])
def test_transformer(batch_first, unbatched):
    options = {**SIZES, "num_encoder_layers": 1, "num_decoder_layers": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, about its nested tensors
        pair = [k.Transformer(**options, batch_first=batch_first) for k in (nn, torch.nn)]
    mine, theirs = alike(*pair)
    shapes = [(7, 12), (5, 12)] if unbatched else [(2, 7, 12), (2, 5, 12)]
    inputs = [normal(*s, seed=i) for i, s in enumerate(shapes)]
    if not batch_first and not unbatched:
        inputs = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in inputs]
    beside(mine, theirs, inputs, tgt_mask=CAUSAL)


def test_the_causal_mask():
    mine = nn.Transformer.generate_square_subsequent_mask(4)
    theirs = torch.nn.Transformer.generate_square_subsequent_mask(4)
    assert np.array_equal(mine.array, theirs.numpy())


@pytest.mark.parametrize("name", ["TransformerEncoderLayer", "TransformerDecoderLayer"])
def test_repr(name):
    mine, theirs = (repr(getattr(kind, name)(**SIZES)) for kind in (nn, torch.nn))
    theirs = theirs.replace("NonDynamicallyQuantizableLinear", "Linear")
    assert mine == theirs


def test_an_encoder_trains_alike():
    def make(kind):
        layer = kind.TransformerEncoderLayer(**SIZES, batch_first=True)
        stack = kind.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        return kind.Sequential(kind.Embedding(20, 12), stack, kind.Linear(12, 20))

    mine, theirs = alike(make(nn), make(torch.nn))
    one = optim.AdamW(mine.parameters(), lr=0.01)
    two = torch.optim.AdamW(theirs.parameters(), lr=0.01)
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, y = rng.integers(0, 20, (2, 4, 6))
        one.zero_grad()
        two.zero_grad()
        loss = F.cross_entropy(mine(core.tensor(x)).flatten(0, 1), core.tensor(y.reshape(-1)))
        out = theirs(torch.tensor(x)).flatten(0, 1)
        other = torch.nn.functional.cross_entropy(out, torch.tensor(y.reshape(-1)))
        loss.backward()
        other.backward()
        one.step()
        two.step()
        assert np.isclose(loss.item(), other.item(), rtol=1e-4)
