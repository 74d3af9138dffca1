"""What a module is: parts by name, state, modes, hooks; and the modules that hold others."""

import copy
import json
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.numpy

from holdfast import core, nn
from holdfast.core.nn import init
from holdfast.core.nn.serialization import unpack
from holdfast.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointMismatch,
    GradientError,
    UsageError,
)
from holdfast.runtime.files import OsFiles
from holdfast.runtime.weights import load, save


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.scale = nn.Parameter(core.ones(1))
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("mean", core.zeros(3))
        self.register_buffer("scratch", core.zeros(2), persistent=False)
        self.register_parameter("absent", None)

    def forward(self, x):
        return self.second(self.first(x)) * self.scale


def mlp():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


# -- parts by name --------------------------------------------------------------------------------


def test_names_order_and_sharing():
    model = Tied()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["scale", "first.weight", "first.bias", "second.bias"]
    every = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert every == ["scale", "first.weight", "first.bias", "second.weight", "second.bias"]
    assert [n for n, _ in model.named_parameters(prefix="m", recurse=False)] == ["m.scale"]
    assert len(list(model.parameters(recurse=False))) == 1
    assert [name for name, _ in model.named_buffers()] == ["mean", "scratch"]
    assert len(list(model.buffers())) == 2
    assert list(model.state_dict()) == [
        "scale", "mean", "first.weight", "first.bias", "second.weight", "second.bias",
    ]  # fmt: skip
    assert [name for name, _ in model.named_modules()] == ["", "first", "second"]
    model.again = model.first
    assert [name for name, _ in model.named_children()] == ["first", "second"]
    assert len(list(model.children())) == 2
    assert [n for n, _ in model.named_modules(remove_duplicate=False)][-1] == "again"
    assert [n for n, _ in model.named_modules({model.first}, "m")] == ["m", "m.second"]


def test_parts_are_found_by_dotted_name():
    model = nn.Sequential(OrderedDict(body=mlp(), tied=Tied()))
    assert model.get_submodule("body.2") is model.body[2]
    assert model.get_submodule("") is model
    assert model.get_parameter("tied.first.weight") is model.tied.first.weight
    assert model.get_buffer("tied.mean") is model.tied.mean
    with pytest.raises(AttributeError, match=r"no part 'body\.7': Sequential has no '7'"):
        model.get_submodule("body.7")
    with pytest.raises(AttributeError, match=r"no parameter 'tied\.mean'"):
        model.get_parameter("tied.mean")
    with pytest.raises(AttributeError, match=r"no buffer 'tied\.absent'"):
        model.get_buffer("tied.absent")
    assert {"body", "tied", "forward", "training"} <= set(dir(model))
    assert "0" not in dir(model.body)


def test_assigning_keeps_each_name_of_one_kind():
    model = Tied()
    model.mean = core.ones(3)
    assert model.state_dict()["mean"].tolist() == [1.0] * 3
    model.mean = None
    assert "mean" not in model.state_dict()
    with pytest.raises(TypeError, match="'scale' of Tied is a Parameter or None; found Tensor"):
        model.scale = core.ones(1)
    with pytest.raises(TypeError, match="'first' of Tied is a Module or None; found int"):
        model.first = 3
    with pytest.raises(TypeError, match="'mean' of Tied is a Tensor or None; found list"):
        model.mean = [1.0]
    model.first = None
    assert model.first is None
    model.scale = nn.ReLU()
    assert [name for name, _ in model.named_parameters()] == ["second.weight", "second.bias"]
    model.plain = 1
    model.plain = nn.Parameter(core.ones(2))
    assert "plain" in dict(model.named_parameters())
    del model.plain, model.absent, model.scratch
    for name in ("plain", "absent", "scratch"):
        with pytest.raises(AttributeError, match=f"'Tied' object has no attribute '{name}'"):
            getattr(model, name)
    with pytest.raises(AttributeError):
        del model.plain


def test_wrong_names_and_kinds_are_refused():
    model = Tied()
    with pytest.raises(KeyError, match="an attribute 'forward' already"):
        model.register_buffer("forward", core.ones(1))
    with pytest.raises(KeyError, match="an attribute 'first' already"):
        model.register_parameter("first", None)
    with pytest.raises(KeyError, match="no dots"):
        model.add_module("a.b", nn.ReLU())
    with pytest.raises(KeyError, match="not empty"):
        model.register_module("", nn.ReLU())
    with pytest.raises(TypeError, match="is a str; found int"):
        model.add_module(0, nn.ReLU())
    with pytest.raises(TypeError, match="a Parameter or None; found Tensor"):
        model.register_parameter("w", core.ones(1))
    with pytest.raises(TypeError, match="a Tensor or None; found float"):
        model.register_buffer("w", 1.0)
    with pytest.raises(TypeError, match="a Module or None; found Tensor"):
        model.add_module("w", core.ones(1))


def test_parts_need_the_base_class_first():
    class Hasty(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match="super"):
        Hasty()
    with pytest.raises(NotImplementedError, match="define it"):
        nn.Module()(1)


# -- state ----------------------------------------------------------------------------------------


def test_state_goes_over_by_name_and_misfits_are_named():
    core.manual_seed(1)
    one, two = mlp(), mlp()
    assert not np.array_equal(one[0].weight.array, two[0].weight.array)
    assert two.load_state_dict(one.state_dict()) == ([], [])
    assert np.array_equal(one[0].weight.array, two[0].weight.array)
    keys = two.load_state_dict({name: t.array for name, t in one.state_dict().items()})
    assert repr(keys) == "<All keys matched successfully>"
    state = {"0.weight": core.zeros(4, 3), "extra": core.zeros(1)}
    with pytest.raises(CheckpointMismatch, match=r"missing: 0\.bias, 2\.weight.*unexpected: extra"):
        two.load_state_dict(state)
    assert two[0].weight.array.any()
    keys = two.load_state_dict(state, strict=False)
    assert keys.missing_keys == ["0.bias", "2.weight", "2.bias"]
    assert keys.unexpected_keys == ["extra"]
    assert "unexpected_keys=['extra']" in repr(keys)
    assert not two[0].weight.array.any()
    wrong = {**one.state_dict(), "0.bias": core.zeros(7)}
    with pytest.raises(CheckpointMismatch, match=r"0\.bias: the model has shape \(4,\)"):
        two.load_state_dict(wrong, strict=False)
    assert not two[0].weight.array.any()


def test_a_state_shares_memory_and_takes_a_prefix():
    model = mlp()
    state = model.state_dict()
    model[0].weight.array[...] = 7
    assert (state["0.weight"].array == 7).all()
    assert not state["0.weight"].requires_grad
    assert model.state_dict(keep_vars=True)["0.weight"] is model[0].weight
    more = model[0].state_dict(destination=state, prefix="copy.")
    assert more is state
    assert list(state)[-2:] == ["copy.weight", "copy.bias"]


def test_loading_converts_copies_or_assigns():
    model = mlp()
    weight = model[0].weight
    given = {name: core.ones(*t.shape, dtype=np.float64) for name, t in model.state_dict().items()}
    model.load_state_dict(given)
    assert model[0].weight.dtype == np.float32
    model.load_state_dict(given, assign=True)
    assert model[0].weight is weight
    assert weight.dtype == np.float64
    assert weight.array is given["0.weight"].array
    model(core.ones(1, 3, dtype=np.float64)).sum().backward()
    assert weight.grad.dtype == np.float64


def test_loading_after_forward_is_seen_by_backward():
    model = mlp()
    out = model(core.ones(1, 3, requires_grad=True))
    model.load_state_dict(model.state_dict())
    with pytest.raises(GradientError, match="changed in place"):
        out.sum().backward()


def test_state_hooks_see_and_change_what_goes_through():
    model = mlp()
    seen = []
    model[0].register_state_dict_pre_hook(lambda m, prefix, keep: seen.append((prefix, keep)))

    def add(module, state, prefix, metadata):
        state[prefix + "marks"] = core.ones(1)

    handle = model[0].register_state_dict_post_hook(add)
    state = model.state_dict()
    assert seen == [("0.", False)]
    assert list(state)[:3] == ["0.weight", "0.bias", "0.marks"]
    handle.remove()
    assert "0.marks" not in model.state_dict()

    def rename(module, state, prefix, metadata, strict, missing, unexpected, errors):
        state.pop(prefix + "marks")
        state[prefix + "weight"] = state.pop(prefix + "old")

    state["0.old"] = state.pop("0.weight") * 0 + 3
    model[0].register_load_state_dict_pre_hook(rename)
    model.register_load_state_dict_post_hook(lambda m, keys: seen.append(keys))
    model.load_state_dict(state)
    assert seen[2:] == [([], [])]
    assert (model[0].weight.array == 3).all()
    assert "0.old" in state


# -- files ----------------------------------------------------------------------------------------


def test_a_state_goes_through_a_file_with_every_dtype(tmp_path):
    bfloat16 = core.backend.BFLOAT16
    kinds = [np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64]
    kinds += [np.float16, np.float32, np.float64, bfloat16]
    state = {str(np.dtype(kind)): core.tensor(np.arange(6).astype(kind)) for kind in kinds}
    state |= {"scalar": core.tensor(2.5), "none": core.zeros(0, 4)}
    state["turned"] = core.tensor(np.arange(6.0).reshape(2, 3)).permute(1, 0)
    path = tmp_path / "state.safetensors"
    save(state, path, metadata={"made by": "a test"})
    found = load(path)
    assert set(found) == set(state)
    for name, value in state.items():
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert np.array_equal(found[name].array, value.array)
    found["float32"].array[0] = 9  # it is nobody else's memory
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert header["__metadata__"] == {"format": "pt", "made by": "a test"}
    assert [each.name for each in tmp_path.iterdir()] == ["state.safetensors"]


def test_what_is_no_whole_file_is_refused_by_name(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(CheckpointError, match=r"state\.safetensors could not be read"):
        load(path)
    save(mlp().state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(CheckpointCorrupt, match=r"state\.safetensors: this is no whole safetens"):
        load(path)
    with pytest.raises(UsageError, match="'c' has dtype complex128"):
        save({"c": np.zeros(2, complex)}, path)
    with pytest.raises(UsageError, match="'c' has dtype C64"):
        unpack(safetensors.numpy.save({"c": np.zeros(2, np.complex64)}))
    assert path.read_bytes() == data[:-1]


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path):
    class Full(OsFiles):
        def write(self, descriptor, data):
            super().write(descriptor, data[: len(data) // 2])
            raise OSError(28, "No space left on device")

    path = tmp_path / "state.safetensors"
    save({"x": core.ones(3)}, path)
    with pytest.raises(CheckpointError, match=r"could not be written.*untouched"):
        save({"x": core.zeros(3)}, path, files=Full())
    assert load(path)["x"].tolist() == [1.0] * 3
    assert len(list(tmp_path.iterdir())) == 1


# -- modes, dtypes --------------------------------------------------------------------------------


def test_modes_reach_every_part_through_its_own_train():
    class Frozen(nn.Module):
        def train(self, mode=True):
            return super().train(False)

    model = nn.Sequential(mlp(), Frozen())
    assert model.eval().training is False
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert [m.training for m in model.children()] == [True, False]
    with pytest.raises(UsageError, match="True or False; found 'yes'"):
        model.train("yes")


def test_freezing_zeroing_and_apply():
    model = mlp()
    model.requires_grad_(False)
    assert not model(core.zeros(2, 3)).requires_grad
    model.requires_grad_()
    model(core.ones(2, 3)).sum().backward()
    model.zero_grad(set_to_none=False)
    assert (model[2].bias.grad.array == 0).all()
    model.zero_grad()
    assert model[2].bias.grad is None
    order = []
    assert model.apply(order.append) is model
    assert order == [model[0], model[1], model[2], model]
    model.apply(lambda m: init.zeros_(m.weight) if isinstance(m, nn.Linear) else None)
    assert not model[0].weight.array.any()


def test_a_module_changes_its_dtype_in_place():
    model = Tied()
    model.register_buffer("count", core.tensor(3))
    weight = model.first.weight
    model(core.ones(1, 3)).sum().backward()
    hook_calls = []
    weight.register_post_accumulate_grad_hook(hook_calls.append)
    assert model.double() is model
    assert model.first.weight is weight is model.second.weight
    assert weight.dtype == weight.grad.dtype == model.mean.dtype == np.float64
    assert model.count.dtype == np.int64
    model(core.ones(1, 3, dtype=np.float64)).sum().backward()
    assert hook_calls == [weight]
    assert {p.dtype for p in model.half().parameters()} == {np.dtype(np.float16)}
    assert {p.dtype for p in model.bfloat16().parameters()} == {core.backend.BFLOAT16}
    assert {p.dtype for p in model.float().parameters()} == {np.dtype(np.float32)}
    assert model.to("cpu", np.float64).mean.dtype == np.float64
    assert model.to(core.ones(1)).mean.dtype == np.float32
    assert model.to(dtype=np.float64, device="cpu").cpu().scale.dtype == np.float64
    with pytest.raises(TypeError, match="floating dtypes only; found int64"):
        model.to(np.int64)
    core.Arena(model.parameters())
    assert model.to(np.float64) is model
    with pytest.raises(UsageError, match="before the optimizer is made"):
        model.float()


def test_a_gradient_made_before_a_change_of_dtype_fits_after_it():
    model = mlp()
    out = model(core.ones(1, 3)).sum()
    model.double()
    out.backward()
    assert model[0].weight.grad.dtype == np.float64


def test_a_deep_copy_shares_nothing():
    model = Tied()
    other = copy.deepcopy(model)
    assert other.second.weight is other.first.weight
    assert other.first.weight is not model.first.weight
    other.first.weight.array[...] = 0
    assert model.first.weight.array.any()


# -- hooks ----------------------------------------------------------------------------------------


class Scale(nn.Module):
    def forward(self, x, by=1.0):
        return x * by


def test_forward_hooks_see_and_replace():
    layer = Scale()
    calls = []
    layer.register_forward_pre_hook(lambda m, args: calls.append(("a", len(args))))
    layer.register_forward_pre_hook(lambda m, args: args[0] + 1, prepend=True)
    layer.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"by": kwargs["by"] * 2}), with_kwargs=True
    )
    layer.register_forward_hook(lambda m, args, out: calls.append(out.item()))
    last = layer.register_forward_hook(
        lambda m, args, kwargs, out: out + kwargs["by"], with_kwargs=True
    )
    assert layer(core.tensor(1.0), by=3.0).item() == 18
    assert calls == [("a", 1), 12.0]
    last.remove()
    last.remove()
    assert layer(core.tensor(1.0), by=3.0).item() == 12
    with layer.register_forward_hook(lambda m, args, out: 5, prepend=True):
        pass
    bad = layer.register_forward_pre_hook(lambda m, a, k: a, with_kwargs=True)
    with pytest.raises(UsageError, match="a pair of the new positional and keyword"):
        layer(core.tensor(1.0), by=3.0)
    bad.remove()


def test_a_hook_that_is_always_called_sees_failures():
    layer = Scale()
    seen = []
    layer.register_forward_hook(lambda m, args, out: seen.append(out), always_call=True)
    layer.register_forward_hook(lambda m, args, out: seen.append("no"))
    with pytest.raises(TypeError):
        layer(core.tensor(1.0), nothing=3.0)
    assert seen == [None]
    layer(core.tensor(1.0))
    assert seen[2:] == ["no"]


def test_backward_hooks_see_what_comes_through_the_module_only():
    layer = Scale()
    seen = []
    layer.register_full_backward_hook(
        lambda m, into, out: seen.append((into[0].item(), into[1], out[0].item()))
    )
    x = core.tensor(1.0, requires_grad=True)
    (layer(x, 3.0) * 2 + x).backward()
    assert seen == [(6.0, None, 2.0)]
    assert x.grad.item() == 7


def test_backward_hooks_replace_gradients():
    layer = Scale()
    layer.register_full_backward_pre_hook(lambda m, out: (out[0] * 10,))
    double = layer.register_full_backward_hook(lambda m, into, out: (into[0] * 2, None))
    layer.register_full_backward_hook(lambda m, into, out: (into[0] + out[0], *into[1:]))
    x = core.tensor(1.0, requires_grad=True)
    layer(x, 3.0).backward()
    assert x.grad.item() == 70
    x.grad = None
    double.remove()
    layer(x, 3.0).backward(retain_graph=True)
    assert x.grad.item() == 40


def test_backward_hooks_of_several_inputs_and_outputs():
    class Both(nn.Module):
        def forward(self, x, n, y):
            return x * y, y * n, n

    layer = Both()
    seen = []
    layer.register_full_backward_hook(
        lambda m, into, out: seen.append([None if g is None else g.item() for g in into + out])
    )
    x, y = (core.tensor(v, requires_grad=True) for v in (2.0, 5.0))
    first, second, third = layer(x, core.tensor(7.0), y)
    assert third.item() == 7
    first.backward(retain_graph=True)
    second.backward()
    assert seen == [[5.0, None, 2.0, 1.0, 0.0, None], [0.0, None, 7.0, 0.0, 1.0, None]]


def test_a_backward_hook_works_without_gradients_of_inputs():
    layer = nn.Linear(3, 2)
    seen = []
    layer.register_full_backward_hook(lambda m, into, out: seen.append((into, out[0].tolist())))
    layer(core.ones(1, 3)).sum().backward()
    assert seen == [((None,), [[1.0, 1.0]])]
    with core.no_grad():
        assert not layer(core.ones(1, 3)).requires_grad
    layer.requires_grad_(False)
    assert not layer(core.ones(1, 3)).requires_grad


def test_bad_backward_hooks_are_refused():
    x = core.tensor(1.0, requires_grad=True)
    layer = Scale()
    with layer.register_full_backward_hook(lambda m, into, out: (into[0], into[0])):
        out = layer(x)
        with pytest.raises(UsageError, match="1 entries of grad_input; found 2"):
            out.backward()
    with layer.register_full_backward_pre_hook(lambda m, out: (None,)):
        out = layer(x)
        with pytest.raises(UsageError, match="returned None in grad_output in place of a tensor"):
            out.backward()

    class Named(nn.Module):
        def forward(self, x):
            return {"out": x}

    layer = Named()
    layer.register_full_backward_hook(lambda m, into, out: None)
    with pytest.raises(UsageError, match="a tuple of them; Named returned dict"):
        layer(x)


def test_backward_hooks_take_part_in_second_derivatives():
    class Cube(nn.Module):
        def forward(self, x):
            return x * x * x

    layer = Cube()
    layer.register_full_backward_hook(lambda m, into, out: (into[0] * 2,))
    x = core.tensor(2.0, requires_grad=True)
    layer(x).backward(create_graph=True)
    assert x.grad.item() == 24
    (first,) = (x.grad,)
    x.zero_grad()
    first.backward()
    assert x.grad.item() == 24


# -- containers -----------------------------------------------------------------------------------


def relus(count):
    return [nn.ReLU() for _ in range(count)]


def test_a_sequence_is_edited_like_a_list():
    a, b, c, d = relus(4)
    model = nn.Sequential(a, b)
    assert model.append(c) is model
    assert model.insert(1, d) is model
    assert list(model) == [a, d, b, c]
    assert [name for name, _ in model.named_children()] == ["0", "1", "2", "3"]
    assert model[-1] is c
    assert list(model[1:3]) == [d, b]
    assert isinstance(model[1:3], nn.Sequential)
    assert model.pop(1) is d
    assert list(model) == [a, b, c]
    del model[1:]
    assert list(model) == [a]
    model[0] = b
    assert list(model.extend([c, d])) == [b, c, d]
    assert list(model + nn.Sequential(a)) == [b, c, d, a]
    model += nn.Sequential(a)
    assert len(model) == 4
    assert list(nn.Sequential(a, b) * 2) == list(2 * nn.Sequential(a, b)) == [a, b, a, b]
    model *= 2
    assert len(model) == 8
    assert "0" not in dir(model)
    with pytest.raises(IndexError, match="index 8 is out of range: there are 8 parts"):
        model[8]
    with pytest.raises(IndexError, match="index 9"):
        model.insert(9, a)
    with pytest.raises(TypeError, match="insert takes a Module"):
        model.insert(0, 3)
    with pytest.raises(ValueError, match="at least once"):
        model * 0
    with pytest.raises(TypeError, match="a whole number of times"):
        model * 1.5
    with pytest.raises(ValueError, match="another only; found list"):
        model + [a]  # noqa: RUF005


def test_a_named_sequence_keeps_its_names_in_slices():
    model = nn.Sequential(OrderedDict(one=nn.ReLU(), two=nn.Sigmoid(), three=nn.Tanh()))
    assert list(model[1:].state_dict()) == []
    assert [name for name, _ in model[1:].named_children()] == ["two", "three"]
    assert model.two is model[1]
    model[1] = nn.ReLU()
    assert isinstance(model.two, nn.ReLU)


def test_axes_are_merged_and_split_within_a_sequence():
    model = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (3, -1)))
    assert model(core.zeros(2, 4, 6)).shape == (2, 3, 8)
    assert repr(model[1]) == "Unflatten(dim=1, unflattened_size=(3, -1))"
    assert nn.Flatten(0, 1)(core.zeros(2, 3, 4)).shape == (6, 4)


def test_a_list_of_modules():
    a, b, c = relus(3)
    held = nn.ModuleList([a, b])
    held.insert(1, c)
    assert list(held) == [a, c, b]
    assert list(held[::2]) == [a, b]
    assert held.pop(-1) is b
    held += [b, b]
    assert len(held) == 4
    assert list(held + [a])[-1] is a  # noqa: RUF005
    del held[0]
    assert [name for name, _ in held.named_children()] == ["0", "1"]  # b stands there twice
    held.append(nn.Linear(2, 3)).extend(nn.Linear(2, 3) for _ in range(2))
    assert repr(held) == (
        "ModuleList(\n  (0-2): 3 x ReLU()\n"
        "  (3-5): 3 x Linear(in_features=2, out_features=3, bias=True)\n)"
    )
    assert repr(nn.ModuleList()) == "ModuleList()"
    assert [name for name, _ in held.named_parameters()][-1] == "5.bias"
    with pytest.raises(NotImplementedError):
        held(core.ones(1))
    with pytest.raises(TypeError, match="an iterable of modules"):
        held.extend(3)


def test_a_dictionary_of_modules():
    a, b, c = relus(3)
    held = nn.ModuleDict({"a": a, "b": b})
    held["c"] = c
    held.update([("b", c)])
    held.update(nn.ModuleDict({"d": a}))
    assert list(held) == list(held.keys()) == ["a", "b", "c", "d"]
    assert held["b"] is c
    assert "a" in held
    assert len(held) == len(held.values()) == 4
    assert held.pop("d") is a
    del held["c"]
    assert dict(held.items()) == {"a": a, "b": c}
    assert held.a is a
    held.clear()
    assert not len(held)
    with pytest.raises(KeyError):
        held["a"]
    with pytest.raises(ValueError, match="entry 0 has 1 parts"):
        held.update([("b",)])
    with pytest.raises(KeyError, match="'keys' already"):
        held["keys"] = a


def test_a_list_of_parameters():
    held = nn.ParameterList([core.ones(2), nn.Parameter(core.zeros(3, 2))])
    held += [core.ones(1), "text"]
    assert isinstance(held[0], nn.Parameter)
    assert [name for name, _ in held.named_parameters()] == ["0", "1", "2"]
    assert held[-1] == "text"
    assert len(held[1:3]) == 2
    assert held[1:3][0] is held[1]
    held[0] = core.zeros(4)
    assert len(list(held)) == len(held) == 4
    assert repr(held) == (
        "ParameterList(\n"
        "    (0): Parameter containing: [float32 of size 4]\n"
        "    (1): Parameter containing: [float32 of size 3x2]\n"
        "    (2): Parameter containing: [float32 of size 1]\n"
        "    (3): Object of type: str\n"
        ")"
    )
    with pytest.raises(IndexError, match="index 4"):
        held[4]
    with pytest.raises(TypeError, match="an iterable of tensors"):
        held.extend(core.ones(2))
    with pytest.raises(UsageError, match="cannot be called"):
        held(1)


def test_a_dictionary_of_parameters():
    held = nn.ParameterDict({"b": core.ones(2), "a": nn.Parameter(core.zeros(3))})
    assert list(held) == ["a", "b"]  # sorted, as PyTorch sorts a plain dictionary's
    held["c"] = core.ones(1)
    assert [name for name, _ in held.named_parameters()] == ["a", "b", "c"]
    assert list(reversed(held)) == ["c", "b", "a"]
    assert held.get("d") is None
    assert held.setdefault("d", core.ones(1)) is held["d"]
    assert held.popitem()[0] == "d"
    other = held | nn.ParameterDict({"e": core.ones(1)})
    assert len(other) == 4
    assert other["a"] is held["a"]
    held |= other
    assert "e" in held
    assert set(held.keys()) == {k for k, _ in held.items()}
    assert len(list(held.values())) == 4
    assert held.pop("e") is other["e"]
    assert len(held.fromkeys(["x", "y"])) == 2
    assert repr(held).startswith(
        "ParameterDict(\n    (a): Parameter containing: [float32 of size 3"
    )
    held.clear()
    assert not list(held.parameters())
    with pytest.raises(KeyError):
        held["a"]
    with pytest.raises(KeyError, match="empty"):
        held.popitem()
    with pytest.raises(TypeError, match="keys are str; found int"):
        held[1] = core.ones(1)


def test_modules_print_as_pytorch_prints_them():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ReLU()
            self.add_module("none", None)

        def extra_repr(self):
            return "size=3"

    layer = "Linear(in_features=3, out_features=4, bias=True)"
    assert repr(mlp()[:1]) == f"Sequential(\n  (0): {layer}\n)"
    nested = nn.Sequential(OrderedDict(body=nn.Sequential(nn.ReLU()), head=nn.Sigmoid()))
    assert repr(nested) == (
        "Sequential(\n  (body): Sequential(\n    (0): ReLU()\n  )\n  (head): Sigmoid()\n)"
    )
    assert repr(Told()) == "Told(\n  size=3\n  (layer): ReLU()\n  (none): None\n)"
    assert repr(nn.ModuleDict({"x": nn.ReLU()})) == "ModuleDict(\n  (x): ReLU()\n)"
