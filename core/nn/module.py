"""A part of a model: parameters, buffers and further parts, by name."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

from holdfast.core.backend import Array, to_device
from holdfast.core.parameter import Parameter
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import CheckpointMismatch


class Module:
    """Base of all layers and models: assign parts in `__init__`, compute in `forward`.

    Assigning a Parameter or a Module as an attribute registers it under that name, in order.
    """

    training: bool

    def __init__(self) -> None:
        self.training = True
        self._parameters: dict[str, Parameter | None] = {}
        self._buffers: dict[str, Tensor | None] = {}
        self._modules: dict[str, Module] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every model defines it."""
        raise TypeError(f"{type(self).__name__} has no forward(): define it")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what `forward` does."""
        return self.forward(*args, **kwargs)

    # -- parts by name ------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, (Parameter, Module)) and "_modules" not in self.__dict__:
            raise TypeError(
                f"call super().__init__() before assigning parts to {type(self).__name__}"
            )
        held = self.__dict__
        if isinstance(value, Parameter):
            self._forget(name, but="_parameters")
            held["_parameters"][name] = value
        elif isinstance(value, Module):
            self._forget(name, but="_modules")
            held["_modules"][name] = value
        elif "_buffers" in held and name in held["_buffers"]:
            held["_buffers"][name] = value
        elif "_parameters" in held and value is None and name in held["_parameters"]:
            held["_parameters"][name] = None
        else:
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        for kind in ("_parameters", "_buffers", "_modules"):
            parts = self.__dict__.get(kind)
            if parts is not None and name in parts:
                return parts[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __delattr__(self, name: str) -> None:
        if not self._forget(name):
            object.__delattr__(self, name)

    def _forget(self, name: str, but: str = "") -> bool:
        """Drop the attribute `name` of any kind but one, where assigning keeps its place."""
        found = self.__dict__.pop(name, None) is not None
        for kind in ("_parameters", "_buffers", "_modules"):
            if kind != but:
                found = self.__dict__[kind].pop(name, None) is not None or found
        return found

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Add a parameter, or None for one that this module could have but has not."""
        self._forget(name, but="_parameters")
        self._parameters[name] = parameter

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Add a tensor that is part of the state but is not learned."""
        self._forget(name, but="_buffers")
        self._buffers[name] = tensor

    def add_module(self, name: str, module: "Module") -> None:
        """Add a part under `name`."""
        self._forget(name, but="_modules")
        self._modules[name] = module

    def children(self) -> Iterator["Module"]:
        """Return the direct parts."""
        yield from self._modules.values()

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, "Module"]]:
        """Return this module and all its parts, each once, with dotted names."""
        seen: set[int] = set()

        def walk(module: Module, name: str) -> Iterator[tuple[str, Module]]:
            if id(module) in seen:
                return
            seen.add(id(module))
            yield name, module
            for key, part in module._modules.items():
                yield from walk(part, f"{name}.{key}" if name else key)

        return walk(self, prefix)

    def modules(self) -> Iterator["Module"]:
        """Return this module and all its parts, each once."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Return the parameters, each once, with dotted names, in order of registration."""
        seen: set[int] = set()
        for name, module in self.named_modules():
            for key, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{name}.{key}" if name else key), parameter

    def parameters(self) -> Iterator[Parameter]:
        """Return the parameters, each once, in order of registration."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Return the buffers with dotted names."""
        for name, module in self.named_modules():
            for key, tensor in module._buffers.items():
                if tensor is not None:
                    yield (f"{name}.{key}" if name else key), tensor

    def buffers(self) -> Iterator[Tensor]:
        """Return the buffers."""
        for _, tensor in self.named_buffers():
            yield tensor

    # -- state --------------------------------------------------------------------------------

    def _named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Return every name of a parameter or buffer: a shared one under each of its names."""

        def walk(module: Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
            for parts in (module._parameters, module._buffers):
                for key, held in parts.items():
                    if held is not None:
                        yield prefix + key, held
            for key, part in module._modules.items():
                yield from walk(part, f"{prefix}{key}.")

        return walk(self, "")

    def state_dict(self) -> "OrderedDict[str, Tensor]":
        """Return parameters and buffers by dotted name, sharing memory with the module."""
        return OrderedDict((name, held.detach()) for name, held in self._named_state())

    def load_state_dict(
        self, state: Mapping[str, Tensor | Array], strict: bool = True
    ) -> tuple[list[str], list[str]]:
        """Copy `state`'s arrays or tensors in by name; return (missing, unexpected) names.

        Raises CheckpointMismatch, with nothing changed, if a shape differs or, when `strict`, if a
        name is missing or unexpected.
        """
        own = dict(self._named_state())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        problems = []
        if strict and missing:
            problems.append(f"missing: {', '.join(missing)}")
        if strict and unexpected:
            problems.append(f"unexpected: {', '.join(unexpected)}")
        problems += [
            f"{name}: the model has shape {held.shape}, the state {tuple(state[name].shape)}"
            for name, held in own.items()
            if name in state and tuple(state[name].shape) != held.shape
        ]
        if problems:
            raise CheckpointMismatch(
                f"the state does not fit {type(self).__name__}: " + "; ".join(problems)
            )
        for name, held in own.items():
            if name in state:
                held.array[...] = to_device(raw(state[name]), held.device)
        return missing, unexpected

    # -- modes --------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Switch to training, where dropout drops; returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch to evaluation; returns the module."""
        return self.train(False)

    def requires_grad_(self, value: bool = True) -> Self:
        """Set `requires_grad` of every parameter: False freezes the module."""
        for parameter in self.parameters():
            parameter.requires_grad = value
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of every parameter."""
        for parameter in self.parameters():
            parameter.zero_grad()

    def apply(self, function: Callable[["Module"], None]) -> Self:
        """Call `function` on every part and then on this module, as to initialise weights."""
        for part in self.children():
            part.apply(function)
        function(self)
        return self

    def to(self, target: Any) -> Self:
        """Convert parameters and floating buffers to a dtype, or move all to "cpu" or "cuda".

        To be called before the optimizer is made, whose arena fixes both. Returns the module.
        """
        moved: dict[int, Parameter] = {}  # a shared parameter stays shared
        for module in self.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if id(parameter) not in moved:
                        moved[id(parameter)] = parameter.to(target)
                    module._parameters[name] = moved[id(parameter)]
            for name, tensor in module._buffers.items():
                if tensor is not None and (target in ("cpu", "cuda") or tensor.dtype.kind == "f"):
                    module._buffers[name] = tensor.detach().to(target)
        return self

    # -- what it looks like -------------------------------------------------------------------

    def extra_repr(self) -> str:
        """Return what stands between the parentheses for a module without parts."""
        return ""

    def __repr__(self) -> str:
        lines = [
            f"({key}): " + repr(part).replace("\n", "\n  ") for key, part in self._modules.items()
        ]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n  ".join([extra, *lines] if extra else lines)
        return f"{type(self).__name__}(\n  {body}\n)"
