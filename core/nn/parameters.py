"""Modules that hold parameters, in a list or by name."""

import operator
from collections import OrderedDict
from collections.abc import Iterable, Iterator, KeysView, Mapping
from typing import Any, Self

from holdfast.core.nn.containers import Pairs, pairs_of
from holdfast.core.nn.module import Module
from holdfast.core.parameter import Parameter
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["ParameterDict", "ParameterList"]


class _Parameters(Module):
    """What the containers of parameters share: tensors become parameters; they print their own."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: there is nothing to compute."""
        raise UsageError(f"a {type(self).__name__} holds parameters and cannot be called")

    def _put(self, key: str, value: Any) -> None:
        """Set the attribute `key`; other values than tensors are kept as they are."""
        if isinstance(value, Tensor) and not isinstance(value, Parameter):
            value = Parameter(value)
        setattr(self, key, value)

    def _named_values(self) -> Iterable[tuple[Any, Any]]:
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return a line for each entry."""
        return "\n".join(f"  ({key}): {_said(value)}" for key, value in self._named_values())


def _said(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"Object of type: {type(value).__name__}"
    kind = "Parameter" if isinstance(value, Parameter) else "Tensor"
    device = "" if value.device == "cpu" else f" ({value.device})"
    size = "x".join(map(str, value.shape))
    return f"{kind} containing: [{value.dtype} of size {size}{device}]"


class ParameterList(_Parameters):
    """Holds parameters in a list, all of them registered; tensors become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def _key(self, index: int) -> str:
        at, size = operator.index(index), self._size
        if not -size <= at < size:
            raise IndexError(f"index {at} is out of range: there are {size} parameters")
        return str(at % size)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(self[i] for i in range(self._size)[index])
        return getattr(self, self._key(index))

    def __setitem__(self, index: int, value: Any) -> None:
        self._put(self._key(index), value)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(self._size))

    def append(self, value: Any) -> Self:
        """Add a parameter at the end; returns the list."""
        self._put(str(self._size), value)
        self._size += 1
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add parameters at the end; returns the list."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(f"extend takes an iterable of tensors; found {type(values).__name__}")
        for value in list(values):
            self.append(value)
        return self

    __iadd__ = extend

    def _named_values(self) -> Iterable[tuple[Any, Any]]:
        return enumerate(self)


class ParameterDict(_Parameters):
    """Holds parameters by name in order of insertion, all registered; tensors become parameters."""

    def __init__(self, parameters: Pairs[Any] | None = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"a ParameterDict's keys are str; found {type(key).__name__}")
        self._put(key, value)
        self._keys[key] = None

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def copy(self) -> "ParameterDict":
        """Return another container of the same parameters."""
        return ParameterDict(self.items())

    def setdefault(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, after setting it to `default` if there is none."""
        if key not in self:
            self[key] = default
        return self[key]

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default`."""
        return getattr(self, key) if key in self._keys else default

    def clear(self) -> None:
        """Take all entries away."""
        for key in list(self._keys):
            del self[key]

    def pop(self, key: str) -> Any:
        """Take the entry `key` away and return its value."""
        value = self[key]
        del self[key]
        return value

    def popitem(self) -> tuple[str, Any]:
        """Take the last entry away and return it."""
        key = next(reversed(self._keys), None)
        if key is None:
            raise KeyError("popitem() of an empty ParameterDict")
        return key, self.pop(key)

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> "ParameterDict":
        """Return a new container with `keys`, each with the value `default`."""
        return ParameterDict((key, default) for key in keys)

    def keys(self) -> KeysView[str]:
        """Return the names."""
        return self._keys.keys()

    def values(self) -> Iterable[Any]:
        """Return the values."""
        return (self[key] for key in self._keys)

    def items(self) -> Iterable[tuple[str, Any]]:
        """Return pairs of name and value."""
        return ((key, self[key]) for key in self._keys)

    def update(self, parameters: Pairs[Any]) -> None:
        """Add values from a mapping or from pairs; those of the same name are replaced."""
        if isinstance(parameters, Mapping) and not isinstance(parameters, OrderedDict):
            parameters = sorted(parameters.items())  # as PyTorch does
        for key, value in pairs_of(parameters):
            self[key] = value

    def __or__(self, other: "ParameterDict") -> "ParameterDict":
        both = self.copy()
        both.update(other)
        return both

    def __ior__(self, other: "ParameterDict") -> Self:
        self.update(other)
        return self

    def _named_values(self) -> Iterable[tuple[Any, Any]]:
        return self.items()
