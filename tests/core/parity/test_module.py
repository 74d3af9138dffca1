"""Modules, containers, hooks, states in files and how weights begin, beside PyTorch's."""

from collections import OrderedDict

import numpy as np
import pytest

from holdfast import core, nn
from holdfast.runtime.weights import load, save

torch = pytest.importorskip(
    "torch",
    reason="compares with PyTorch, which is not installed: .venv/bin/pip install torch",
)
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.parity

DTYPES = ["float16", "bfloat16", "float32", "float64"]
SIDES = [nn, torch.nn]


def of(side):
    """Return what makes a tensor of an array on either side."""
    return core.tensor if side is nn else torch.tensor


def named(module):
    """Return all that can be asked of a module by name."""
    return {
        "parameters": [(n, tuple(p.shape)) for n, p in module.named_parameters()],
        "every": [n for n, _ in module.named_parameters("m", remove_duplicate=False)],
        "own": [n for n, _ in module.named_parameters(recurse=False)],
        "buffers": [n for n, _ in module.named_buffers()],
        "modules": [(n, type(m).__name__) for n, m in module.named_modules()],
        "twice": [n for n, _ in module.named_modules(prefix="m", remove_duplicate=False)],
        "children": [n for n, _ in module.named_children()],
        "state": [(n, tuple(t.shape)) for n, t in module.state_dict().items()],
        "training": [m.training for m in module.modules()],
    }


def tied(side):
    tensor = of(side)

    class Tied(side.Module):
        def __init__(self):
            super().__init__()
            self.first = side.Linear(3, 3)
            self.register_buffer("mean", tensor(np.zeros(3, np.float32)))
            self.register_buffer("scratch", tensor(np.zeros(2, np.float32)), persistent=False)
            self.second = side.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.scale = side.Parameter(tensor(np.ones(1, np.float32)))
            self.register_parameter("absent", None)
            self.again = self.first
            self.row = side.ModuleList([side.ReLU(), side.ReLU(), side.Linear(1, 2)])
            self.by_name = side.ModuleDict({"b": side.Tanh(), "a": side.Linear(2, 1)})
            self.listed = side.ParameterList([tensor(np.ones((2, 3), np.float32))] * 2)
            self.keyed = side.ParameterDict({"z": tensor(np.ones(1, np.float32)), "y": self.scale})

        def forward(self, x):
            return self.second(self.first(x)) * self.scale

    return Tied()


def edited(side):
    parts = [getattr(side, name)() for name in ("ReLU", "Tanh", "Sigmoid", "ReLU", "Tanh")]
    model = side.Sequential(*parts[:2])
    model.append(side.Linear(2, 3)).insert(1, parts[2]).extend([parts[3], parts[4]])
    del model[0]
    model += side.Sequential(side.Linear(1, 1))
    return model * 2


def sliced(side):
    model = side.Sequential(OrderedDict(one=side.ReLU(), two=side.Linear(2, 2), three=side.Tanh()))
    return side.Sequential(OrderedDict(body=model[1:], last=model[-1:] + side.Sequential(model[1])))


def popped(side):
    held = side.ModuleList(side.Linear(i + 1, 2) for i in range(6))
    held.insert(2, side.ReLU())
    held.pop(0)
    held[1] = side.Tanh()
    del held[::2]
    return held + [side.ReLU(), side.ReLU()]  # noqa: RUF005


def keyed(side):
    held = side.ModuleDict([("b", side.ReLU()), ("a", side.Linear(1, 1))])
    held.update({"c": side.Tanh(), "b": side.Sigmoid()})
    held.pop("a")
    held["d"] = side.Linear(2, 2)
    return held


@pytest.mark.parametrize("make", [tied, edited, sliced, popped, keyed])
@pytest.mark.parametrize("training", [True, False])
def test_names_in_order(make, training):
    mine, theirs = (make(side).train(training) for side in SIDES)
    assert named(mine) == named(theirs)


@pytest.mark.parametrize("make", [edited, sliced, popped, keyed])
def test_printed(make):
    mine, theirs = (repr(make(side)) for side in SIDES)
    assert mine == theirs


def test_parameters_printed():
    mine = repr(tied(nn).listed), repr(tied(nn).keyed)
    theirs = repr(tied(torch.nn).listed), repr(tied(torch.nn).keyed)
    assert mine[0] == theirs[0].replace("torch.", "")
    assert mine[1] == theirs[1].replace("torch.FloatTensor", "float32").replace("torch.", "")


# -- hooks ----------------------------------------------------------------------------------------


def plain(value):
    """Return gradients as numbers; none is 0, as either side has zeros where the other has None."""
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    return 0.0 if value is None else value.detach().tolist()


class Log:
    """Writes down what the hooks of a module were called with."""

    def __init__(self):
        self.lines = []

    def hook(self, name, result=lambda *args: None):
        def call(module, *args):
            self.lines.append((name, [plain(a) for a in args if not isinstance(a, dict)]))
            return result(*args)

        return call


def several(side):
    class Several(side.Module):
        def forward(self, x, n, y, by=1.0):
            return x * y * by, y * n, n

    return Several()


REGISTERED = [
    ["register_full_backward_hook"],
    ["register_full_backward_pre_hook"],
    ["register_full_backward_hook", "register_full_backward_pre_hook"],
    ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"],
]


def hooked(side, kinds, args, grads, change):
    tensor = of(side)
    log, module = Log(), several(side)
    for kind in kinds:
        for i in range(2):
            getattr(module, kind)(log.hook(f"{kind} {i}", change), prepend=bool(i))
    x, y = (tensor(np.float32(v)).requires_grad_(r) for v, r in args)
    outputs = module(x, tensor(np.float32(7.0)), y, by=2.0)
    # The third requires no gradient; x is used beside the module too.
    total = sum(out * g for out, g in zip(outputs, grads, strict=False)) + x * 3
    if total.requires_grad:
        total.backward()
    return log.lines, [None if each.grad is None else each.grad.item() for each in (x, y)]


@pytest.mark.parametrize("kinds", REGISTERED)
@pytest.mark.parametrize("inputs", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("grads", [(1.0, 3.0), (2.0,)])
def test_hooks_see_the_same_in_the_same_order(kinds, inputs, grads):
    args = list(zip((2.0, 5.0), inputs, strict=True))
    mine, theirs = (hooked(side, kinds, args, grads, lambda *_: None) for side in SIDES)
    assert mine == theirs


@pytest.mark.parametrize("kind", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_change_gradients_alike(kind):
    def change(grads, *_):
        return tuple(None if g is None else g * 2 for g in grads)

    args = [(2.0, True), (5.0, True)]
    mine, theirs = (hooked(side, [kind], args, (1.0, 3.0), change) for side in SIDES)
    assert mine == theirs


def test_forward_hooks_change_what_goes_through_alike():
    found = []
    for side in SIDES:
        module = several(side)
        module.register_forward_pre_hook(lambda m, a: (a[0] + 1, a[1], a[2]))
        module.register_forward_pre_hook(
            lambda m, a, k: (a, {"by": k["by"] * 3}), with_kwargs=True, prepend=True
        )
        module.register_forward_hook(lambda m, a, out: (out[0] - a[1], *out[1:]))
        module.register_forward_hook(
            lambda m, a, k, out: out[0] * k["by"], with_kwargs=True, prepend=False
        )
        numbers = (of(side)(np.float32(v)) for v in (2.0, 7.0, 5.0))
        found.append(module(*numbers, by=2.0).item())
    assert found[0] == found[1]


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layers_hook_in_a_network(frozen):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3)).astype(np.float32)
    results = []
    weights = None
    for side in reversed(SIDES):
        model = side.Sequential(side.Linear(3, 5), side.Tanh(), side.Linear(5, 2))
        if weights is None:
            weights = {n: t.numpy() for n, t in model.state_dict().items()}
        model.load_state_dict({n: of(side)(t) for n, t in weights.items()})
        model[0].weight.requires_grad_(not frozen)
        seen = []
        model[2].register_full_backward_hook(lambda m, i, o, seen=seen: seen.append(plain(i + o)))
        (model(of(side)(x)) ** 2).sum().backward()
        results.append((seen, plain(model[2].weight.grad)))
    ours, theirs = flat(results[1]), flat(results[0])
    assert len(ours) == len(theirs) == 4 * 5 + 4 * 2 + 2 * 5
    assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def flat(value):
    nested = isinstance(value, (list, tuple))
    return [x for part in value for x in flat(part)] if nested else [value]


# -- states ---------------------------------------------------------------------------------------


def network(side, dtype="float32"):
    model = side.Sequential(
        OrderedDict(
            first=side.Conv2d(1, 4, 3, padding=1), act=side.ReLU(), flat=side.Flatten(),
            second=side.Linear(64, 10),
        )
    )  # fmt: skip
    model.register_buffer("steps", of(side)(np.array(7)))
    kinds = core.backend.BFLOAT16 if dtype == "bfloat16" else dtype
    return model.to(kinds if side is nn else getattr(torch, dtype))


def same(mine, theirs):
    assert set(mine) == set(theirs)
    for name, value in theirs.items():
        assert tuple(mine[name].shape) == tuple(value.shape), name
        assert str(mine[name].dtype) == str(value.dtype).removeprefix("torch."), name
        assert np.array_equal(mine[name].array.astype(np.float64), value.double().numpy()), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_of_pytorch_loads_by_name(dtype, tmp_path):
    theirs = network(torch.nn, dtype)
    path = tmp_path / "theirs.safetensors"
    safetensors_torch.save_file(theirs.state_dict(), path)
    state = load(path)
    same(state, theirs.state_dict())
    mine = network(nn, dtype)
    assert mine.load_state_dict(state) == ([], [])
    same(mine.state_dict(), theirs.state_dict())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_of_ours_loads_into_pytorch(dtype, tmp_path):
    mine = network(nn, dtype)
    path = tmp_path / "ours.safetensors"
    save(mine.state_dict(), path)
    theirs = network(torch.nn, dtype)
    theirs.load_state_dict(safetensors_torch.load_file(path))
    same(mine.state_dict(), theirs.state_dict())
    with safetensors_torch.safe_open(path, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_state_gives_the_same_answers(tmp_path):
    theirs, mine = network(torch.nn), network(nn)
    safetensors_torch.save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    mine.load_state_dict(load(tmp_path / "x.safetensors"))
    x = np.random.default_rng(0).standard_normal((3, 1, 4, 4)).astype(np.float32)
    expected = theirs(torch.tensor(x)).detach().numpy()
    assert np.allclose(mine(core.tensor(x)).detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def test_missing_and_unexpected_names_are_the_same():
    found = []
    for side in SIDES:
        model = network(side)
        state = model.state_dict()
        del state["first.bias"], state["steps"]
        state["more.weight"] = of(side)(np.ones(2, np.float32))
        keys = model.load_state_dict(state, strict=False)
        found.append((list(keys.missing_keys), list(keys.unexpected_keys), tuple(keys)))
    assert found[0] == found[1]


def test_a_half_model_keeps_its_integers():
    for side in SIDES:
        model = network(side, "float16")
        kinds = {str(t.dtype).removeprefix("torch.") for t in model.state_dict().values()}
        assert kinds == {"float16", "int64"}


# -- how weights begin ----------------------------------------------------------------------------

GAINS = [
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "sigmoid", "tanh", "relu", "leaky_relu", "selu",
]  # fmt: skip


@pytest.mark.parametrize("name", GAINS)
def test_gains(name):
    assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)
    if name == "leaky_relu":
        for slope in (0, 0.3, 1, 5**0.5):
            theirs = torch.nn.init.calculate_gain(name, slope)
            assert nn.init.calculate_gain(name, slope) == theirs


EXACT = [
    ("constant_", (3, 4), (2.5,)),
    ("ones_", (3,), ()),
    ("zeros_", (3, 2), ()),
    ("eye_", (3, 5), ()),
    ("eye_", (5, 3), ()),
    ("dirac_", (4, 2, 3), ()),
    ("dirac_", (2, 4, 3, 4), ()),
    ("dirac_", (4, 2, 3, 3), (2,)),
    ("dirac_", (6, 3, 1, 2, 5), (3,)),
]


@pytest.mark.parametrize(("name", "shape", "args"), EXACT)
def test_filled_exactly(name, shape, args):
    mine = getattr(nn.init, name)(core.zeros(*shape), *args)
    theirs = getattr(torch.nn.init, name)(torch.zeros(*shape), *args)
    assert np.array_equal(mine.array, theirs.numpy())


DRAWN = [
    ("uniform_", {}),
    ("uniform_", {"a": -3, "b": 0.5}),
    ("normal_", {}),
    ("normal_", {"mean": 2, "std": 3}),
    ("trunc_normal_", {}),
    ("trunc_normal_", {"std": 0.02}),
    ("trunc_normal_", {"mean": 1.5, "std": 2, "a": -1, "b": 4}),
    ("trunc_normal_", {"mean": 0, "std": 1, "a": 2, "b": 3}),
    ("xavier_uniform_", {}),
    ("xavier_normal_", {"gain": 2}),
    ("kaiming_uniform_", {}),
    ("kaiming_uniform_", {"a": 5**0.5}),
    ("kaiming_uniform_", {"mode": "fan_out", "nonlinearity": "relu"}),
    ("kaiming_normal_", {}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ("orthogonal_", {"gain": 3}),
    ("sparse_", {"sparsity": 0.37, "std": 2.0}),
]


@pytest.mark.parametrize("shape", [(150, 200), (40, 25, 5, 5)])
@pytest.mark.parametrize(("name", "options"), DRAWN)
def test_drawn_from_the_same_distribution(name, options, shape):
    if name == "sparse_" and len(shape) > 2:
        shape = (200, 150)
    core.manual_seed(1)
    torch.manual_seed(1)
    mine = getattr(nn.init, name)(core.zeros(*shape), **options).array.ravel()
    theirs = getattr(torch.nn.init, name)(torch.zeros(*shape), **options).numpy().ravel()
    # Each quantile is within four deviations of what samples of this size have.
    points = np.linspace(0.05, 0.95, 19)
    edges = np.quantile(theirs, points)
    share = np.array([(mine <= edge).mean() for edge in edges])
    slack = 4 * np.sqrt(points * (1 - points) * 2 / mine.size) + 1e-9
    if name == "sparse_":
        assert (mine == 0).sum() == (theirs == 0).sum()
        mine, theirs = mine[mine != 0], theirs[theirs != 0]
    else:
        assert (np.abs(share - points) < slack).all()
    assert np.isclose(mine.std(), theirs.std(), rtol=0.03)
    assert abs(mine.mean() - theirs.mean()) < 0.03 * theirs.std()
