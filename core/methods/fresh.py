"""New tensors of the dtype and on the device of one that there is: PyTorch's methods."""

from typing import TYPE_CHECKING, Any

from holdfast.core.backend import array_module, backend
from holdfast.core.methods.shapes import sizes
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable, raw

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class FreshMethods(Variable):
    """Zeros, ones, given values, and what is drawn."""

    __slots__ = ()

    def new_zeros(self, *size: Any, dtype: Any = None, device: str | None = None) -> "Tensor":
        """Return zeros."""
        return self.new_full(sizes(size), 0, dtype=dtype, device=device)

    def new_ones(self, *size: Any, dtype: Any = None, device: str | None = None) -> "Tensor":
        """Return ones."""
        return self.new_full(sizes(size), 1, dtype=dtype, device=device)

    def new_empty(self, *size: Any, dtype: Any = None, device: str | None = None) -> "Tensor":
        """Return a tensor whose values are still to be set."""
        return wrap(self._module(device).empty(sizes(size), dtype=dtype or self.array.dtype))

    def new_full(
        self, size: Any, fill_value: Any, dtype: Any = None, device: str | None = None
    ) -> "Tensor":
        """Return a tensor with every element `fill_value`."""
        module = self._module(device)
        return wrap(module.full(sizes((size,)), raw(fill_value), dtype=dtype or self.array.dtype))

    def new_tensor(self, data: Any, dtype: Any = None, device: str | None = None) -> "Tensor":
        """Return a copy of `data`: numbers, nested lists or an array."""
        return wrap(self._module(device).array(raw(data), dtype=dtype or self.array.dtype))

    def multinomial(
        self, num_samples: int, replacement: bool = False, *, generator: Any = None
    ) -> "Tensor":
        """Return places drawn with the weights that the tensor has for them (see
        `holdfast.multinomial`)."""
        from holdfast.core import sampling  # which needs tensors

        return sampling.multinomial(self, num_samples, replacement, generator=generator)

    def _module(self, device: str | None) -> Any:
        return array_module(self.array) if device is None else backend(device)
