"""The state of a module as a dictionary of tensors by dotted name: how it is made and taken up."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from holdfast.core.backend import Array, to_device
from holdfast.core.parameter import Parameter
from holdfast.core.recording import no_grad
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import CheckpointMismatch

if TYPE_CHECKING:
    from holdfast.core.nn.module import Module


class IncompatibleKeys(NamedTuple):
    """Names that the model has and the state has not, and the other way round."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return (
            f"IncompatibleKeys(missing_keys={self.missing_keys}, "
            f"unexpected_keys={self.unexpected_keys})"
        )


def state_of(
    module: "Module",
    destination: "OrderedDict[str, Tensor] | None",
    prefix: str,
    keep_vars: bool,
) -> "OrderedDict[str, Tensor]":
    """Do what `Module.state_dict` says."""
    state: OrderedDict[str, Tensor] = OrderedDict() if destination is None else destination
    hooks = module._hooks
    for before in tuple(hooks.state_pre.values()) if hooks is not None else ():
        before(module, prefix, keep_vars)
    for name, held in _own(module):
        state[prefix + name] = held if keep_vars else held.detach()
    for name, part in module._modules.items():
        if part is not None:
            part.state_dict(destination=state, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
    for after in tuple(hooks.state_post.values()) if hooks is not None else ():
        after(module, state, prefix, {})
    return state


def load_state(
    module: "Module", given: Mapping[str, Tensor | Array], strict: bool, assign: bool
) -> IncompatibleKeys:
    """Do what `Module.load_state_dict` says."""
    state: OrderedDict[str, Any] = OrderedDict(given)
    missing: list[str] = []
    unexpected: list[str] = []
    said: list[str] = []
    parts = list(_tree(module, ""))
    for part, prefix in parts:
        hooks = part._hooks
        for before in tuple(hooks.load_pre.values()) if hooks is not None else ():
            before(part, state, prefix, {}, strict, missing, unexpected, said)
    # A shared tensor stands under each of its names.
    own = {prefix + name: held for part, prefix in parts for name, held in _own(part)}
    missing += [name for name in own if name not in state]
    unexpected += [name for name in state if name not in own]
    fitting = [(name, held, state[name]) for name, held in own.items() if name in state]
    _check(module, fitting, missing if strict else [], unexpected if strict else [], said)
    with no_grad():
        for _, held, value in fitting:
            if not assign:
                held.copy_(to_device(raw(value), held.device))
            elif isinstance(held, Parameter):
                held.adopt(raw(value))
            else:
                held.array = raw(value)
    keys = IncompatibleKeys(missing, unexpected)
    for part, _ in reversed(parts):
        hooks = part._hooks
        for after in tuple(hooks.load_post.values()) if hooks is not None else ():
            after(part, keys)
    return keys


def _own(module: "Module") -> Iterator[tuple[str, Tensor]]:
    """Return the state of this module itself, without its parts."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._transient:
            yield name, buffer


def _tree(module: "Module", prefix: str) -> Iterator[tuple["Module", str]]:
    """Return this module and its parts, a shared one under each name, with what names begin with.

    A module comes before its parts.
    """
    yield module, prefix
    for name, part in module._modules.items():
        if part is not None:
            yield from _tree(part, f"{prefix}{name}.")


def _check(
    module: "Module",
    fitting: list[tuple[str, Tensor, Any]],
    missing: list[str],
    unexpected: list[str],
    said: list[str],
) -> None:
    """Raise CheckpointMismatch if anything does not fit."""
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
    problems += [
        f"{name}: the model has shape {held.shape}, the state {tuple(value.shape)}"
        for name, held, value in fitting
        if tuple(value.shape) != held.shape
    ]
    problems += said
    if problems:
        raise CheckpointMismatch(
            f"the state does not fit {type(module).__name__}: " + "; ".join(problems)
        )
