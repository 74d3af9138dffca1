"""Every loss beside PyTorch's: values and gradients, with every option."""

import itertools

import numpy as np
import pytest
from tests.core.parity.beside import both, normal

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.backend import BFLOAT16

pytestmark = pytest.mark.parity
torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)
TF = torch.nn.functional

REDUCTIONS = ["mean", "sum", "none"]


def uniform(*shape, seed=0, low=0.05, high=0.95):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def signs(*shape, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape).astype(np.float32)


def classes(*shape, count=5, seed=0):
    return np.random.default_rng(seed).integers(0, count, shape)


def compare(name, *arrays, tensors=None, **options):
    """Compare the function `name`, with arrays in `tensors` given as tensors by keyword."""
    held = tensors or {}
    ours = {key: core.tensor(value) for key, value in held.items()}
    theirs = {key: torch.tensor(value) for key, value in held.items()}
    both(
        lambda *given: getattr(F, name)(*given, **ours, **options),
        lambda *given: getattr(TF, name)(*given, **theirs, **options),
        *arrays,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(3, 4), (7,), (2, 3, 2)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mse_loss", {}),
        ("l1_loss", {}),
        ("smooth_l1_loss", {}),
        ("smooth_l1_loss", {"beta": 0.3}),
        ("smooth_l1_loss", {"beta": 0.0}),
        ("huber_loss", {}),
        ("huber_loss", {"delta": 0.4}),
        ("poisson_nll_loss", {}),
        ("hinge_embedding_loss", {}),
    ],
)
def test_differences(name, options, shape, reduction):
    compare(name, normal(*shape), normal(*shape, seed=1) * 2, reduction=reduction, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weighted_differences(name, reduction):
    x, y, weight = normal(3, 4), normal(3, 4, seed=1), uniform(3, 4)
    compare(name, x, y, tensors={"weight": weight}, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (3, 4), (4,), (3, 1)])
def test_binary_cross_entropy(weight, reduction):
    held = {} if weight is None else {"weight": uniform(*weight, seed=2)}
    x, y = uniform(3, 4), uniform(3, 4, seed=1)
    compare("binary_cross_entropy", x, y, tensors=held, reduction=reduction)


def test_binary_cross_entropy_of_certainty():
    x, y = np.array([0, 1, 0, 1], np.float32), np.array([0, 0, 1, 1], np.float32)
    mine = F.binary_cross_entropy(core.tensor(x), core.tensor(y), reduction="none")
    theirs = TF.binary_cross_entropy(torch.tensor(x), torch.tensor(y), reduction="none")
    assert mine.tolist() == theirs.tolist()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (3, 4), (3, 1)])
@pytest.mark.parametrize("pos_weight", [None, (4,), (3, 4)])
def test_binary_cross_entropy_with_logits(weight, pos_weight, reduction):
    held = {}
    if weight is not None:
        held["weight"] = uniform(*weight, seed=2)
    if pos_weight is not None:
        held["pos_weight"] = uniform(*pos_weight, seed=3, low=0.2, high=4)
    x, y = normal(3, 4) * 4, uniform(3, 4, seed=1)
    compare("binary_cross_entropy_with_logits", x, y, tensors=held, reduction=reduction)


SHAPES = [(5,), (7, 5), (3, 5, 4), (2, 5, 3, 2)]
CROSS = list(itertools.product(SHAPES, [False, True], [-100, 1], [0.0, 0.1], REDUCTIONS))


@pytest.mark.parametrize(("shape", "weighted", "ignore_index", "label_smoothing", "how"), CROSS)
def test_cross_entropy(shape, weighted, ignore_index, label_smoothing, how):
    target = classes(*(() if len(shape) == 1 else (shape[0], *shape[2:])))
    if target.ndim == 0 and target == ignore_index:
        target = target + 1
    compare(
        "cross_entropy",
        normal(*shape) * 3,
        np.asarray(target),
        tensors={"weight": uniform(5, seed=1)} if weighted else {},
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=how,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_with_probabilities(shape, weighted, label_smoothing, reduction):
    compare(
        "cross_entropy",
        normal(*shape) * 3,
        uniform(*shape, seed=1),
        tensors={"weight": uniform(5, seed=2)} if weighted else {},
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 1])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss(shape, weighted, ignore_index, reduction):
    target = classes(*(() if len(shape) == 1 else (shape[0], *shape[2:])))
    compare(
        "nll_loss",
        normal(*shape),
        np.asarray(target),
        tensors={"weight": uniform(5, seed=1)} if weighted else {},
        ignore_index=ignore_index,
        reduction=reduction,
    )


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_ignored(name, reduction):
    x, target = normal(3, 5), np.full(3, -100)
    mine = getattr(F, name)(core.tensor(x), core.tensor(target), reduction=reduction)
    theirs = getattr(TF, name)(torch.tensor(x), torch.tensor(target), reduction=reduction)
    assert np.array_equal(mine.array, theirs.numpy(), equal_nan=True)


@pytest.mark.parametrize("log_input", [True, False])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_poisson_nll_loss(log_input, full, reduction):
    counts = np.random.default_rng(1).poisson(2.0, (3, 4)).astype(np.float32) + 0.5
    x = normal(3, 4) if log_input else uniform(3, 4)
    compare("poisson_nll_loss", x, counts, log_input=log_input, full=full, reduction=reduction)


@pytest.mark.parametrize("variance", [(3, 4), (3, 1), (3,)])
@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gaussian_nll_loss(variance, full, reduction):
    var = uniform(*variance, seed=2) - 0.04
    x, y = normal(3, 4), normal(3, 4, seed=1)
    compare("gaussian_nll_loss", x, y, var, full=full, eps=0.1, reduction=reduction)


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # PyTorch's, of kl_div
@pytest.mark.parametrize("log_target", [True, False])
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
def test_kl_div(log_target, reduction):
    target = uniform(3, 4, seed=1)
    compare(
        "kl_div",
        np.log(uniform(3, 4)),
        np.log(target) if log_target else target,
        log_target=log_target,
        reduction=reduction,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_margins(margin, reduction):
    x, y, z, sign = normal(6), normal(6, seed=1), normal(6, seed=2), signs(6)
    options = {"margin": margin, "reduction": reduction}
    compare("hinge_embedding_loss", x, tensors={"target": sign}, **options)
    compare("margin_ranking_loss", x, y, tensors={"target": sign}, **options)
    a, b, c = x.reshape(2, 3), y.reshape(2, 3), z.reshape(2, 3)
    compare("cosine_embedding_loss", a, b, tensors={"target": signs(2)}, **options)
    compare("cosine_embedding_loss", x, y, tensors={"target": np.float32(-1)}, **options)
    for p, swap in itertools.product([1.0, 2.0, 3.0], [True, False]):
        compare("triplet_margin_loss", a, b, c, p=p, swap=swap, **options)
    compare("triplet_margin_with_distance_loss", a, b, c, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_multi_margin_loss(p, weighted, reduction):
    held = {"weight": uniform(5)} if weighted else {}
    options = {"p": p, "margin": 0.7, "reduction": reduction}
    compare("multi_margin_loss", normal(4, 5), classes(4), tensors=held, **options)
    compare("multi_margin_loss", normal(5), np.array(2), tensors=held, **options)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_soft_margins(weighted, reduction):
    held = {"weight": uniform(5)} if weighted else {}
    x, y = normal(4, 5), (signs(4, 5) + 1) / 2
    compare("soft_margin_loss", x, tensors={"target": signs(4, 5)}, reduction=reduction)
    compare("multilabel_soft_margin_loss", x, y, tensors=held, reduction=reduction)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((2, 3, 4), (3, 4)), ((2, 3, 4), (2, 1, 4))])
def test_cosine_similarity(shapes, dim):
    left, right = shapes
    compare("cosine_similarity", normal(*left), normal(*right, seed=1), dim=dim)


def test_cosine_similarity_of_nothing():
    compare("cosine_similarity", np.zeros((2, 3), np.float32), normal(2, 3))


@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, float("inf")])
@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("shape", [(3, 4), (4,), (2, 1, 4)])
def test_pairwise_distance(p, keepdim, shape):
    options = {"p": p, "eps": 1e-3, "keepdim": keepdim}
    compare("pairwise_distance", normal(*shape), normal(3, 4, seed=1), **options)


MODULES = [
    ("MSELoss", {}, 2),
    ("L1Loss", {"reduction": "sum"}, 2),
    ("SmoothL1Loss", {"beta": 0.4}, 2),
    ("HuberLoss", {"delta": 0.4}, 2),
    ("BCEWithLogitsLoss", {}, 2),
    ("PoissonNLLLoss", {"log_input": True, "full": False}, 2),
    ("KLDivLoss", {"reduction": "batchmean", "log_target": True}, 2),
    ("HingeEmbeddingLoss", {"margin": 2.0}, 2),
    ("TripletMarginLoss", {"p": 1.0, "swap": True}, 3),
    ("TripletMarginWithDistanceLoss", {"margin": 2.0}, 3),
    ("CosineSimilarity", {"dim": 0}, 2),
    ("PairwiseDistance", {"p": 3.0, "keepdim": True}, 2),
]


@pytest.mark.parametrize(("name", "options", "count"), MODULES)
def test_modules(name, options, count):
    arrays = [normal(3, 4, seed=i) for i in range(count)]
    both(getattr(nn, name)(**options), getattr(torch.nn, name)(**options), *arrays)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CrossEntropyLoss", {"ignore_index": 1, "label_smoothing": 0.1}),
        ("NLLLoss", {"ignore_index": 1}),
        ("MultiMarginLoss", {"p": 2, "margin": 0.4}),
    ],
)
def test_modules_of_classes(name, options):
    weight = uniform(5)
    mine = getattr(nn, name)(weight=core.tensor(weight), **options)
    theirs = getattr(torch.nn, name)(weight=torch.tensor(weight), **options)
    assert list(mine.state_dict()) == list(theirs.state_dict()) == ["weight"]
    both(mine, theirs, normal(4, 5), classes(4))


def test_modules_with_more_arguments():
    x, y, sign = normal(3, 4), normal(3, 4, seed=1), signs(3)
    weight = uniform(4)

    def pair(name, **options):
        ours = {k: core.tensor(v) if hasattr(v, "dtype") else v for k, v in options.items()}
        theirs = {k: torch.tensor(v) if hasattr(v, "dtype") else v for k, v in options.items()}
        return getattr(nn, name)(**ours), getattr(torch.nn, name)(**theirs)

    both(*pair("BCELoss", weight=weight), uniform(3, 4), uniform(3, 4, seed=1))
    both(*pair("BCEWithLogitsLoss", weight=weight, pos_weight=weight * 3), x, uniform(3, 4))
    both(*pair("MultiLabelSoftMarginLoss", weight=weight), x, uniform(3, 4))
    both(*pair("GaussianNLLLoss", full=True), x, y, uniform(3, 4))
    mine, theirs = pair("SoftMarginLoss")
    both(lambda a: mine(a, core.tensor(sign)), lambda a: theirs(a, torch.tensor(sign)), x[:, 0])
    for name in ("CosineEmbeddingLoss", "MarginRankingLoss"):
        mine, theirs = pair(name, margin=0.2)
        arrays = (x, y) if name.startswith("Cosine") else (x[:, 0], y[:, 0])
        both(
            lambda a, b, loss=mine: loss(a, b, core.tensor(sign)),
            lambda a, b, loss=theirs: loss(a, b, torch.tensor(sign)),
            *arrays,
        )


def second_order(function, library, x, direction):
    """Return the gradient, and the product of the second derivatives with `direction`."""
    (slope,) = library.grad(function(x), x, create_graph=True)
    (product,) = library.grad((slope * direction).sum(), x)
    return [np.asarray(part.detach().numpy()) for part in (slope, product)]


SECOND = [
    ("mse_loss", normal(4, 5, seed=1), {}),
    ("huber_loss", normal(4, 5, seed=1), {"delta": 0.8}),
    ("binary_cross_entropy_with_logits", uniform(4, 5), {}),
    ("binary_cross_entropy_with_logits", uniform(4, 5), {"pos_weight": uniform(5)}),
    ("kl_div", uniform(4, 5), {"reduction": "sum"}),
    ("cross_entropy", classes(4), {}),
    ("cross_entropy", classes(4), {"ignore_index": 1, "label_smoothing": 0.1}),
    ("cross_entropy", classes(4), {"weight": uniform(5), "label_smoothing": 0.1}),
    ("cross_entropy", uniform(4, 5), {"label_smoothing": 0.1, "reduction": "sum"}),
    ("nll_loss", classes(4), {}),
    ("soft_margin_loss", signs(4, 5), {}),
    ("poisson_nll_loss", uniform(4, 5), {}),
]


@pytest.mark.parametrize(("name", "target", "options"), SECOND)
def test_second_derivatives(name, target, options):
    x, direction = normal(4, 5), normal(4, 5, seed=7)

    def run(library, functions, tensor):
        held = {k: tensor(v) if hasattr(v, "dtype") else v for k, v in options.items()}
        loss = getattr(functions, name)
        return lambda t: loss(t.tanh(), tensor(target), **held)

    ours = core.tensor(x, requires_grad=True)
    theirs = torch.tensor(x, requires_grad=True)
    mine = second_order(run(core, F, core.tensor), core, ours, core.tensor(direction))
    other = second_order(
        run(torch, TF, torch.tensor), torch.autograd, theirs, torch.tensor(direction)
    )
    for a, b in zip(mine, other, strict=True):
        assert np.allclose(a, b, rtol=1e-4, atol=1e-6)


DTYPES = {"float16": np.dtype(np.float16), "bfloat16": BFLOAT16}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("mse_loss", None),
        ("l1_loss", None),
        ("huber_loss", None),
        ("binary_cross_entropy_with_logits", None),
        ("cross_entropy", classes(64, count=50)),
        ("cross_entropy", None),
    ],
)
def test_sixteen_bits(name, target, kind):
    x, y = normal(64, 50), uniform(64, 50, seed=1) if target is None else target
    dtype = getattr(torch, kind)
    theirs = torch.tensor(x).to(dtype).requires_grad_()
    other = torch.tensor(y).to(dtype) if target is None else torch.tensor(y)
    ours = core.tensor(x).to(DTYPES[kind]).requires_grad_()
    against = core.tensor(y).to(ours.dtype) if target is None else core.tensor(y)
    expected = getattr(TF, name)(theirs, other)
    found = getattr(F, name)(ours, against)
    assert str(found.dtype) == kind
    step = 2**-10 if kind == "float16" else 2**-7
    assert np.isclose(float(found), expected.item(), rtol=2 * step)
    expected.backward()
    found.backward()
    gradient = theirs.grad.float().numpy()
    mine = np.asarray(ours.grad.array, np.float32)
    assert np.allclose(mine, gradient, rtol=4 * step, atol=step * np.abs(gradient).max())
