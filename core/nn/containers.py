"""Modules that hold other modules, in a row or by name, and what goes between them in a row."""

import operator
from collections import OrderedDict
from collections.abc import (
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    ValuesView,
)
from itertools import chain, groupby
from typing import Any, Self, TypeVar, overload

from holdfast.core.nn.module import Module, listing
from holdfast.core.tensor import Tensor

__all__ = [
    "Flatten",
    "ModuleDict",
    "ModuleList",
    "Sequential",
    "Unflatten",
]

Value = TypeVar("Value")
Pairs = Mapping[str, Value] | Iterable[Sequence[Any]]


class _Row(Module):
    """What a list and a sequence of modules share: parts by number, Python's list operations."""

    _modules: dict[str, Module]  # type: ignore[assignment]

    def _key(self, index: int) -> str:
        """Return the name of the part at `index`, which may count from the end."""
        at, size = operator.index(index), len(self)
        if not -size <= at < size:
            raise IndexError(f"index {at} is out of range: there are {size} parts")
        return list(self._modules)[at]

    def _renumber(self, parts: Iterable[Module]) -> None:
        self._modules = {str(i): part for i, part in enumerate(parts)}

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._key(index), module)

    def __delitem__(self, index: int | slice) -> None:
        keys = list(self._modules)
        gone = set(keys[index]) if isinstance(index, slice) else {self._key(index)}
        self._renumber(part for key, part in self._modules.items() if key not in gone)

    def append(self, module: Module) -> Self:
        """Add a part at the end; returns the container."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add parts at the end; returns the container."""
        if not isinstance(modules, Iterable):
            raise TypeError(f"extend takes an iterable of modules; found {type(modules).__name__}")
        for module in list(modules):
            self.append(module)
        return self

    def _insert(self, index: int, module: Module) -> None:
        if not isinstance(module, Module):
            raise TypeError(f"insert takes a Module; found {type(module).__name__}")
        parts = list(self)
        parts.insert(index, module)
        self._renumber(parts)


class Sequential(_Row):
    """Runs its parts one after the other; they are numbered, or named by an ordered dict."""

    def __init__(self, *args: "Module | OrderedDict[str, Module]") -> None:
        super().__init__()
        if len(args) == 1 and isinstance(args[0], OrderedDict):
            for name, part in args[0].items():
                self.add_module(name, part)
        else:
            for i, module in enumerate(args):
                self.add_module(str(i), module)  # type: ignore[arg-type]

    def forward(self, input: Any) -> Any:
        """Return the last part's output."""
        for part in self._modules.values():
            input = part(input)
        return input

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> "Sequential": ...
    def __getitem__(self, index: int | slice) -> "Module | Sequential":
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))
        return self._modules[self._key(index)]

    def insert(self, index: int, module: Module) -> Self:
        """Put a part before the one at `index`; returns the container."""
        size = len(self)
        if not -size <= index <= size:
            raise IndexError(f"index {index} is out of range: there are {size} parts")
        self._insert(index, module)
        return self

    def pop(self, key: int | slice) -> Module:
        """Take a part, or a slice of them, away and return it."""
        found = self[key]
        del self[key]
        return found

    def __add__(self, other: "Sequential") -> "Sequential":
        return Sequential(*self, *_sequence(other))

    def __iadd__(self, other: "Sequential") -> Self:
        return self.extend(_sequence(other))

    def __mul__(self, times: int) -> "Sequential":
        return Sequential(*(list(self) * _times(times)))

    __rmul__ = __mul__

    def __imul__(self, times: int) -> Self:
        return self.extend(list(self) * (_times(times) - 1))


def _sequence(other: Any) -> Sequential:
    if not isinstance(other, Sequential):
        raise ValueError(f"a Sequential is added to another only; found {type(other).__name__}")
    return other


def _times(times: Any) -> int:
    if not isinstance(times, int):
        raise TypeError(f"a Sequential is repeated a whole number of times; found {times!r}")
    if times <= 0:
        raise ValueError(f"a Sequential is repeated at least once; found {times}")
    return times


class ModuleList(_Row):
    """Holds modules in a list, all of them registered; it computes nothing itself."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> "ModuleList": ...
    def __getitem__(self, index: int | slice) -> "Module | ModuleList":
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return self._modules[self._key(index)]

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at `index`."""
        self._insert(index, module)

    def pop(self, key: int | slice) -> Module:
        """Take a module, or a slice of them, away and return it."""
        found = self[key]
        del self[key]
        return found

    def __add__(self, other: Iterable[Module]) -> "ModuleList":
        return ModuleList(chain(self, other))

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)

    def __repr__(self) -> str:
        lines, first = [], 0
        for text, run in groupby(repr(part) for part in self):
            count = len(list(run))
            last = first + count - 1
            head = f"({first}): " if count == 1 else f"({first}-{last}): {count} x "
            lines.append(head + text.replace("\n", "\n  "))
            first += count
        return listing(type(self).__name__, "", lines)


class ModuleDict(Module):
    """Holds modules by name in order of insertion, all registered; it computes nothing itself."""

    _modules: dict[str, Module]  # type: ignore[assignment]

    def __init__(self, modules: Pairs[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: object) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take all modules away."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take the module `key` away and return it."""
        return self._modules.pop(key)

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self._modules.keys()

    def values(self) -> ValuesView[Module]:
        """Return the modules."""
        return self._modules.values()

    def items(self) -> ItemsView[str, Module]:
        """Return pairs of name and module."""
        return self._modules.items()

    def update(self, modules: Pairs[Module]) -> None:
        """Add modules from a mapping or from pairs; those of the same name are replaced."""
        for key, module in pairs_of(modules):
            self[key] = module


def pairs_of(given: Any) -> Iterator[tuple[str, Any]]:
    """Return the pairs of a mapping, of a container with names, or of an iterable of pairs."""
    if hasattr(given, "items"):
        yield from given.items()
        return
    if not isinstance(given, Iterable):
        raise TypeError(f"expected a mapping or pairs of name and value; found {given!r}")
    for i, pair in enumerate(given):
        if len(pair) != 2:
            raise ValueError(f"expected pairs of name and value; entry {i} has {len(pair)} parts")
        yield pair[0], pair[1]


class Flatten(Module):
    """Merges the axes from `start_dim` to `end_dim`."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Return (N, everything else) by default."""
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Splits the axis `dim` into axes of the sizes `unflattened_size`, of which one may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        """Return the elements in more axes."""
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        """Return the axis and its sizes."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
