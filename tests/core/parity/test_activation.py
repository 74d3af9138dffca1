"""Activations and dropout beside PyTorch's: values, gradients, dtypes, layers."""

import numpy as np
import pytest
from tests.core.parity.beside import both, normal
from tests.core.parity.test_elementwise import SPECIAL, pair, same

import holdfast.nn.functional as F
from holdfast import core, nn

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)
T = torch.nn.functional

CASES = [
    ("relu", {}), ("relu", {"inplace": False}), ("relu6", {}), ("leaky_relu", {}),
    ("leaky_relu", {"negative_slope": 0.3}), ("leaky_relu", {"negative_slope": -0.5}),
    ("leaky_relu", {"negative_slope": 2.0}), ("rrelu", {}), ("rrelu", {"lower": 0.3, "upper": 0.5}),
    ("elu", {}), ("elu", {"alpha": 0.5}), ("selu", {}), ("celu", {}), ("celu", {"alpha": 2.0}),
    ("gelu", {}), ("gelu", {"approximate": "tanh"}), ("silu", {}), ("mish", {}), ("softplus", {}),
    ("softplus", {"beta": 2.0}), ("softplus", {"beta": 0.5, "threshold": 1.0}), ("softsign", {}),
    ("hardtanh", {}), ("hardtanh", {"min_val": -0.3, "max_val": 2.0}), ("hardsigmoid", {}),
    ("hardswish", {}), ("logsigmoid", {}), ("tanhshrink", {}), ("softshrink", {}),
    ("softshrink", {"lambd": 1.2}), ("hardshrink", {}), ("hardshrink", {"lambd": 1.2}),
    ("threshold", {"threshold": 0.1, "value": -2.0}), ("glu", {}), ("glu", {"dim": 1}),
    ("softmax", {"dim": 1}), ("softmax", {"dim": -1}), ("softmax", {"dim": 0}),
    ("softmin", {"dim": 1}), ("log_softmax", {"dim": 1}), ("log_softmax", {"dim": -2}),
    ("sigmoid", {}), ("tanh", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("shape", [(2, 4, 6), (60, 4, 200)])
def test_activations(name, options, shape):
    mine, theirs = getattr(F, name), getattr(T if hasattr(T, name) else torch, name)
    both(
        lambda x: mine(x * 3, **options), lambda x: theirs(x * 3, **options), normal(*shape),
        tolerance=2e-5,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "options"), CASES)
def test_special_values(name, options):
    if "dim" in options or name == "glu":
        return  # one of these spoils the others there
    theirs = getattr(T if hasattr(T, name) else torch, name)(torch.tensor(SPECIAL), **options)
    with np.errstate(all="ignore"):
        mine = getattr(F, name)(core.tensor(SPECIAL), **options)
    if name == "gelu":  # PyTorch has NaN at infinities, where the limits are infinite and 0
        same(mine[:10], theirs[:10])
        return
    if name in ("mish", "silu", "hardswish", "softsign", "tanhshrink"):
        same(mine[:10], theirs[:10])
        return
    same(mine, theirs)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes(name, options, dtype):
    mine, theirs = pair(normal(3, 4, 2) * 2, dtype)
    mine.requires_grad = theirs.requires_grad = True
    out = getattr(F, name)(mine, **options)
    expected = getattr(T if hasattr(T, name) else torch, name)(theirs, **options)
    # PyTorch's hardsigmoid multiplies by a sixth in float32.
    exact = 1e-7 if name == "hardsigmoid" else 1e-12
    rounding = {"float16": 4e-3, "bfloat16": 3e-2}.get(dtype, exact)
    same(out.detach(), expected.detach(), rtol=rounding, atol=rounding)
    out.sum().backward()
    expected.sum().backward()
    same(mine.grad, theirs.grad, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("shape", [(5,), (4, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("weights", [1, 3])
def test_prelu(shape, weights):
    if len(shape) == 1 and weights > 1:
        return
    weight = np.linspace(0.1, 0.5, weights, dtype=np.float32)
    both(F.prelu, T.prelu, normal(*shape), weight)


def test_softmax_in_another_dtype_and_of_rows_that_are_masked():
    x = normal(3, 4)
    x[0, 1:] = -np.inf
    both(lambda t: F.softmax(t, 1), lambda t: T.softmax(t, 1), x)
    mine = F.softmax(core.tensor(x), dim=1, dtype=np.float64)
    same(mine, T.softmax(torch.tensor(x), dim=1, dtype=torch.float64))
    with pytest.warns(UserWarning, match="give dim"):
        chosen = F.softmax(core.tensor(x))
    same(chosen, T.softmax(torch.tensor(x), dim=1))


LAYERS = [
    ("ReLU", {}), ("ReLU", {"inplace": True}), ("ReLU6", {}), ("LeakyReLU", {}),
    ("LeakyReLU", {"negative_slope": 0.2, "inplace": True}), ("RReLU", {}), ("PReLU", {}),
    ("PReLU", {"num_parameters": 4, "init": 0.1}), ("ELU", {}), ("ELU", {"alpha": 2.0}),
    ("SELU", {}), ("CELU", {"alpha": 0.7}), ("GELU", {}), ("GELU", {"approximate": "tanh"}),
    ("SiLU", {}), ("Mish", {}), ("Sigmoid", {}), ("LogSigmoid", {}), ("Tanh", {}),
    ("Tanhshrink", {}), ("Softplus", {}), ("Softplus", {"beta": 2.0, "threshold": 5.0}),
    ("Softsign", {}), ("Hardtanh", {}), ("Hardtanh", {"min_val": 0.0, "max_val": 0.5}),
    ("Hardsigmoid", {}), ("Hardswish", {}), ("Softshrink", {"lambd": 0.2}), ("Hardshrink", {}),
    ("Threshold", {"threshold": 0.5, "value": 3.0}), ("GLU", {}), ("GLU", {"dim": 1}),
    ("Softmax", {"dim": 1}), ("Softmin", {"dim": 1}), ("LogSoftmax", {"dim": -1}),
    ("Softmax2d", {}), ("Dropout", {"p": 0.3}), ("Dropout2d", {}), ("AlphaDropout", {}),
    ("FeatureAlphaDropout", {}), ("Dropout1d", {}), ("Dropout3d", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_layers(name, options):
    mine, theirs = getattr(nn, name)(**options).eval(), getattr(torch.nn, name)(**options).eval()
    if not (name == "ReLU" and options):  # PyTorch's would change the leaf
        shape = {"Dropout1d": (2, 4, 6), "Dropout3d": (2, 4, 2, 3, 6)}.get(name, (2, 4, 3, 6))
        both(
            lambda x: mine(x * 2), lambda x: theirs(x * 2), normal(*shape), tolerance=2e-5
        )  # fmt: skip
    if not name.startswith("Hardsig") and not name.startswith("Hardsw"):
        assert repr(mine).replace("'none'", "'none'") == repr(theirs)
    assert list(mine.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dropout", (200, 300)), ("dropout1d", (200, 300, 5)), ("dropout1d", (9000, 5)),
        ("dropout2d", (200, 300, 2, 3)), ("dropout2d", (9000, 5, 6)),
        ("dropout3d", (200, 300, 2, 1, 3)), ("alpha_dropout", (200, 300)),
        ("feature_alpha_dropout", (200, 300, 2)),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:dropout2d. Received a 3D input")
def test_dropout_has_the_same_distribution(name, shape):
    x = np.ones(shape, np.float32) * 0.5
    core.manual_seed(1)
    torch.manual_seed(1)
    mine = getattr(F, name)(core.tensor(x), 0.3, True).array
    theirs = getattr(T, name)(torch.tensor(x), 0.3, True).numpy()
    assert np.allclose(np.unique(mine), np.unique(theirs), atol=1e-5)
    assert abs(mine.mean() - theirs.mean()) < 0.02
    spread = [np.ptp(y.reshape(*shape[:-1], -1), axis=-1).mean() for y in (mine, theirs)]
    assert abs(spread[0] - spread[1]) < 0.02


def test_gumbel_softmax_has_the_same_distribution():
    logits = np.log(np.array([0.6, 0.3, 0.1], np.float32)) * np.ones((20000, 1), np.float32)
    core.manual_seed(0)
    torch.manual_seed(0)
    for hard in (False, True):
        x = core.tensor(logits, requires_grad=True)
        mine = F.gumbel_softmax(x, tau=0.7, hard=hard)
        theirs = T.gumbel_softmax(torch.tensor(logits), tau=0.7, hard=hard)
        assert np.allclose(mine.array.mean(0), theirs.numpy().mean(0), atol=0.02)
        assert np.allclose(mine.array.sum(1), 1, atol=1e-5)
        (mine * core.tensor([1.0, 2.0, 3.0])).sum().backward()
        assert np.abs(x.grad.array).sum() > 0
