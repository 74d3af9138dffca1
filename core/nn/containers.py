"""Modules that hold other modules."""

from collections import OrderedDict
from collections.abc import Iterator

from holdfast.core.nn.module import Module
from holdfast.core.tensor import Tensor

__all__ = ["Flatten", "Sequential"]


class Sequential(Module):
    """Runs its parts one after the other; they are numbered, or named by an ordered dict."""

    def __init__(self, *parts: "Module | OrderedDict[str, Module]") -> None:
        super().__init__()
        for i, part in enumerate(parts):
            if isinstance(part, OrderedDict):
                for name, named in part.items():
                    self.add_module(name, named)
            else:
                self.add_module(str(i), part)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last part's output."""
        for part in self._modules.values():
            x = part(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, at: int) -> Module:
        return list(self._modules.values())[at]


class Flatten(Module):
    """Merges the axes from `start_dim` to `end_dim`."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, everything else) by default."""
        return x.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Return the axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
