"""A part of a model: parameters, buffers and further parts, by name.

Names, arguments and results are PyTorch's. What a module saves and loads is in `state.py`, what is
called around it in `hooks.py`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, Self

import numpy as np

from holdfast.core.backend import BFLOAT16, Array, is_floating, to_device
from holdfast.core.nn.hooks import Hooked
from holdfast.core.nn.state import IncompatibleKeys, load_state, state_of
from holdfast.core.parameter import Parameter
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

Kind = Literal["_parameters", "_buffers", "_modules"]
_KINDS: tuple[Kind, ...] = ("_parameters", "_buffers", "_modules")


class Module(Hooked):
    """Base of all layers and models: assign parts in `__init__`, compute in `forward`.

    Assigning a Parameter or a Module as an attribute registers it under that name, in order.
    """

    training: bool

    def __init__(self) -> None:
        self.training = True
        self._parameters: dict[str, Parameter | None] = {}
        self._buffers: dict[str, Tensor | None] = {}
        self._modules: dict[str, Module | None] = {}
        self._transient: set[str] = set()  # the buffers that are no part of the state

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every model defines it."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(): define it")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `forward` does, with the hooks around it."""
        if self._hooks is None:
            return self.forward(*args, **kwargs)
        return self._hooks.call(self, args, kwargs)

    # -- parts by name ------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        held = self.__dict__
        if isinstance(value, (Parameter, Module)):
            if "_modules" not in held:
                raise AttributeError(
                    f"call super().__init__() before assigning parts to {type(self).__name__}"
                )
            kind: Kind = "_parameters" if isinstance(value, Parameter) else "_modules"
            self._forget(name, but=kind)
            held[kind][name] = value
            return
        for kind in _KINDS:
            parts = held.get(kind)
            if parts is not None and name in parts:
                if value is not None and not (kind == "_buffers" and isinstance(value, Tensor)):
                    wanted = {
                        "_parameters": "a Parameter",
                        "_buffers": "a Tensor",
                        "_modules": "a Module",
                    }
                    raise TypeError(
                        f"{name!r} of {type(self).__name__} is {wanted[kind]} or None; found "
                        f"{type(value).__name__}"
                    )
                parts[name] = value
                return
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__
        for kind in _KINDS:
            parts = held.get(kind)
            if parts is not None and name in parts:
                return parts[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if not self._forget(name):
            object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        parts = (key for kind in _KINDS for key in self.__dict__.get(kind, ()))
        return sorted({*object.__dir__(self), *(key for key in parts if not key[:1].isdigit())})

    def _forget(self, name: str, but: str = "") -> bool:
        """Drop the attribute `name` of any kind but one, where assigning keeps its place."""
        found = name in self.__dict__
        if found:
            del self.__dict__[name]
        for kind in _KINDS:
            if kind != but and name in self.__dict__[kind]:
                del self.__dict__[kind][name]
                found = True
        if but != "_buffers":
            self._transient.discard(name)
        return found

    def _register(self, kind: Kind, name: str, value: Any) -> None:
        """Add a part after checking its name, which may be that of a part of the same kind."""
        if not isinstance(name, str):
            raise TypeError(f"the name of a part is a str; found {type(name).__name__}")
        if not name or "." in name:
            raise KeyError(f"the name of a part is not empty and has no dots; found {name!r}")
        if name not in self.__dict__[kind] and hasattr(self, name):
            raise KeyError(f"{type(self).__name__} has an attribute {name!r} already")
        self.__dict__[kind][name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Add a parameter, or None for one that this module could have but has not."""
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(f"{name!r} must be a Parameter or None; found {type(param).__name__}")
        self._register("_parameters", name, param)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a tensor that is not learned; it is part of the state if it is `persistent`."""
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(f"{name!r} must be a Tensor or None; found {type(tensor).__name__}")
        self._register("_buffers", name, tensor)
        if persistent:
            self._transient.discard(name)
        else:
            self._transient.add(name)

    def add_module(self, name: str, module: "Module | None") -> None:
        """Add a part under `name`."""
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"{name!r} must be a Module or None; found {type(module).__name__}")
        self._register("_modules", name, module)

    register_module = add_module

    def get_submodule(self, target: str) -> "Module":
        """Return the part with the dotted name `target`, this module for "".

        Raises AttributeError if there is none.
        """
        module: Any = self
        for name in target.split(".") if target else ():
            if module._modules.get(name) is None:
                raise AttributeError(
                    f"{type(self).__name__} has no part {target!r}: "
                    f"{type(module).__name__} has no {name!r}"
                )
            module = module._modules[name]
        found: Module = module
        return found

    def get_parameter(self, target: str) -> Parameter:
        """Return the parameter with the dotted name `target`; AttributeError if there is none."""
        found: Parameter = self._get("_parameters", target)
        return found

    def get_buffer(self, target: str) -> Tensor:
        """Return the buffer with the dotted name `target`; AttributeError if there is none."""
        found: Tensor = self._get("_buffers", target)
        return found

    def _get(self, kind: Kind, target: str) -> Any:
        path, _, name = target.rpartition(".")
        found = self.get_submodule(path).__dict__[kind].get(name)
        if found is None:
            raise AttributeError(f"{type(self).__name__} has no {kind[1:-1]} {target!r}")
        return found

    # -- all parts ----------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """Return the direct parts, each once, with their names."""
        seen: set[Module] = set()
        for name, part in self._modules.items():
            if part is not None and part not in seen:
                seen.add(part)
                yield name, part

    def children(self) -> Iterator["Module"]:
        """Return the direct parts, each once."""
        for _, part in self.named_children():
            yield part

    def named_modules(
        self, memo: "set[Module] | None" = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, "Module"]]:
        """Return this module and all its parts with dotted names, each once unless told.

        Those in `memo` are left out, and the others added to it.
        """
        memo = set() if memo is None else memo
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        for key, part in self._modules.items():
            if part is not None:
                below = f"{prefix}.{key}" if prefix else key
                yield from part.named_modules(memo, below, remove_duplicate)

    def modules(self) -> Iterator["Module"]:
        """Return this module and all its parts, each once."""
        for _, module in self.named_modules():
            yield module

    def _named(
        self, kind: Kind, prefix: str, recurse: bool, remove_duplicate: bool
    ) -> Iterator[tuple[str, Any]]:
        found = (
            self.named_modules(prefix=prefix, remove_duplicate=remove_duplicate)
            if recurse
            else [(prefix, self)]
        )
        seen: set[int] = set()
        for at, module in found:
            for key, held in module.__dict__[kind].items():
                if held is None or id(held) in seen:
                    continue
                if remove_duplicate:
                    seen.add(id(held))
                yield (f"{at}.{key}" if at else key), held

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Return the parameters with dotted names, each once, in order of registration.

        Without `recurse` only those of this module itself.
        """
        return self._named("_parameters", prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Return the parameters, each once, in order of registration."""
        for _, parameter in self.named_parameters(recurse=recurse):
            yield parameter

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Return the buffers with dotted names, each once."""
        return self._named("_buffers", prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Return the buffers, each once."""
        for _, tensor in self.named_buffers(recurse=recurse):
            yield tensor

    # -- state --------------------------------------------------------------------------------

    def state_dict(
        self,
        *,
        destination: "OrderedDict[str, Tensor] | None" = None,
        prefix: str = "",
        keep_vars: bool = False,
    ) -> "OrderedDict[str, Tensor]":
        """Return parameters and persistent buffers by dotted name, sharing memory with the module.

        They are put into `destination` if it is given, their names begun with `prefix`; the
        tensors are detached unless `keep_vars`.
        """
        return state_of(self, destination, prefix, keep_vars)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor | Array], strict: bool = True, assign: bool = False
    ) -> IncompatibleKeys:
        """Copy the arrays or tensors of `state_dict` in by name; return which did not fit.

        Values are converted to the model's dtype; with `assign` they take the place of the model's
        instead, with their own memory, dtype and device. Raises CheckpointMismatch, with nothing
        changed, if a shape differs or, when `strict`, if a name is missing or unexpected.
        """
        return load_state(self, state_dict, strict, assign)

    # -- modes --------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Switch to training, where dropout drops; returns the module."""
        if not isinstance(mode, bool):
            raise UsageError(f"train(mode) takes True or False; found {mode!r}")
        self.training = mode
        for part in self.children():
            part.train(mode)
        return self

    def eval(self) -> Self:
        """Switch to evaluation; returns the module."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of every parameter: False freezes the module."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of every parameter; without `set_to_none` they become zeros."""
        for parameter in self.parameters():
            grad = None if set_to_none else parameter.grad
            parameter.zero_grad()
            if grad is not None:
                parameter.grad = wrap(np.zeros_like(grad.array))

    def apply(self, fn: Callable[["Module"], None]) -> Self:
        """Call `fn` on every part and then on this module, as to initialise weights."""
        for part in self.children():
            part.apply(fn)
        fn(self)
        return self

    # -- dtype and device ---------------------------------------------------------------------

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Convert to a floating dtype, move to "cpu" or "cuda", or both; as another tensor is.

        Parameters stay the same objects; integers keep their dtype. To be called before the
        optimizer is made, whose arena fixes both: raises UsageError otherwise.
        """
        for target in args:
            if isinstance(target, Tensor):
                device, dtype = target.device, target.dtype
            elif isinstance(target, str) and target in ("cpu", "cuda"):
                device = target
            elif target is not None:
                dtype = target
        kind = None if dtype is None else np.dtype(dtype)
        if kind is not None and not is_floating(kind):
            raise TypeError(f"a module converts to floating dtypes only; found {kind}")

        def convert(array: Array) -> Array:
            moved = array if device is None else to_device(array, device)
            if kind is None or not is_floating(moved.dtype):
                return moved
            return moved.astype(kind, copy=False)

        return self._convert(convert)

    def _convert(self, convert: Callable[[Array], Array]) -> Self:
        """Give every parameter and buffer what `convert` makes of its array."""
        for parameter in self.parameters():
            parameter.adopt(convert(parameter.array))
        made: dict[int, Tensor] = {}  # a shared buffer stays shared
        for module in self.modules():
            for name, tensor in module._buffers.items():
                if tensor is not None:
                    array = convert(tensor.array)
                    if array is not tensor.array:
                        module._buffers[name] = made.setdefault(id(tensor), Tensor(array))
        return self

    def type(self, dst_type: Any) -> Self:
        """Convert all parameters and buffers, integers too, to a floating dtype."""
        kind = np.dtype(dst_type)
        if not is_floating(kind):
            raise TypeError(f"a module converts to floating dtypes only; found {kind}")
        return self._convert(lambda array: array.astype(kind, copy=False))

    def half(self) -> Self:
        """Convert floating parameters and buffers to float16."""
        return self.to(np.float16)

    def bfloat16(self) -> Self:
        """Convert floating parameters and buffers to bfloat16."""
        return self.to(BFLOAT16)

    def float(self) -> Self:
        """Convert floating parameters and buffers to float32."""
        return self.to(np.float32)

    def double(self) -> Self:
        """Convert floating parameters and buffers to float64."""
        return self.to(np.float64)

    def cpu(self) -> Self:
        """Move all parameters and buffers to the host."""
        return self.to("cpu")

    def cuda(self) -> Self:
        """Move all parameters and buffers to the GPU."""
        return self.to("cuda")

    # -- what it looks like -------------------------------------------------------------------

    def _get_name(self) -> str:
        """Return the name that it is printed with: that of its class."""
        return self.__class__.__name__

    def extra_repr(self) -> str:
        """Return what stands between the parentheses for a module without parts."""
        return ""

    def __repr__(self) -> str:
        parts = [
            f"({key}): " + repr(part).replace("\n", "\n  ") for key, part in self._modules.items()
        ]
        return listing(self._get_name(), self.extra_repr(), parts)


def listing(name: str, extra: str, parts: list[str]) -> str:
    """Return a module as text: on one line if all it has is one line of `extra`."""
    lines = extra.split("\n") if extra else []
    if not parts and len(lines) < 2:
        return f"{name}({extra})"
    body = "\n  ".join([*lines, *parts])
    return f"{name}(\n  {body}\n)"
