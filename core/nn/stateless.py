"""A module called with other parameters and buffers than its own."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from holdfast.core.nn.module import Module
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

Parts = dict[str, Tensor]


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    args: Any = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """Return what `module` does with tensors given by dotted name in place of its own.

    Gradients flow to these tensors; buffers that the module changes are changed in them. What is
    not given is the module's own, and all of it is again when the call ends. `args` are the
    positional arguments, a tuple unless there is only one. With `tie_weights`, what has several
    names in the module is replaced at all of them by the tensor that one of them is given. Names
    that the module does not have are ignored, unless `strict`: then exactly its own are to be
    there, and UsageError is raised otherwise. As torch.func.functional_call. Not thread-safe: the
    module is changed while it runs.
    """
    given = _merged(parameter_and_buffer_dicts)
    known: dict[str, list[str]] = {}  # each name, and those of the same tensor
    same: dict[int, list[str]] = {}
    for kind in (module.named_parameters, module.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            names = same.setdefault(id(tensor), [])
            names.append(name)
            known[name] = names
    if strict:
        _check_names(module, given, known, tie_weights)
    found = {name: tensor for name, tensor in given.items() if name in known}
    if tie_weights:
        for names in same.values():
            values = [found[name] for name in names if name in found]
            if any(value is not values[0] for value in values):
                raise UsageError(
                    f"{', '.join(names)} are one tensor in {type(module).__name__}, and different "
                    "ones were given: give one of them, or say tie_weights=False"
                )
            if values:
                found.update(dict.fromkeys(names, values[0]))
    positional = () if args is None else args if isinstance(args, tuple) else (args,)
    with _replaced(module, found):
        return module(*positional, **(kwargs or {}))


def _merged(given: Any) -> Parts:
    dicts = [given] if isinstance(given, Mapping) else list(given)
    merged: dict[str, Any] = {}
    for part in dicts:
        twice = merged.keys() & part.keys()
        if twice:
            raise UsageError(f"functional_call: given more than once: {', '.join(sorted(twice))}")
        merged.update(part)
    for name, tensor in merged.items():
        if not isinstance(tensor, Tensor):
            kind = type(tensor).__name__
            raise TypeError(f"functional_call takes tensors; {name!r} is of type {kind}")
    return merged


def _check_names(module: Module, given: Parts, known: dict[str, list[str]], tie: bool) -> None:
    unexpected = sorted(given.keys() - known.keys())
    missing = sorted(
        name
        for name, names in known.items()
        if not any(other in given for other in (names if tie else [name]))
    )
    if unexpected or missing:
        raise UsageError(
            f"functional_call, strict, of {type(module).__name__}: unexpected names: "
            f"{', '.join(unexpected) or 'none'}; missing names: {', '.join(missing) or 'none'}"
        )


@contextmanager
def _replaced(module: Module, tensors: Parts) -> Iterator[None]:
    """Let `tensors` stand in the module's tables until the end."""
    before: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path, tensor in tensors.items():
            owner, _, name = path.rpartition(".")
            held: Any = module.get_submodule(owner)
            table = held._parameters if name in held._parameters else held._buffers
            before.append((table, name, table[name]))
            table[name] = tensor
        yield
    finally:
        for table, name, tensor in reversed(before):
            table[name] = tensor
