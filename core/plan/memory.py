"""Memory that a plan uses again: for the next value of the same size, or in the next call."""

import math
import sys
from typing import Any

import numpy as np

from holdfast.core.backend import Array

SMALL = 4096
"""Elements up to which new memory costs less than to look for some that is free."""


class Memory:
    """Flat arrays that values are made in; one is free while nothing refers to it, or views it."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, Any, Any], list[Array]] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any], module: Any = np) -> Array:
        """Return an array whose contents are undefined."""
        size = math.prod(shape)
        if size <= SMALL:
            return module.empty(shape, dtype=dtype)  # type: ignore[no-any-return]
        held = self._held.setdefault((size, dtype, module), [])
        for flat in held:
            if sys.getrefcount(flat) == _FREE:
                return flat.reshape(shape)
        flat = module.empty(size, dtype=dtype)
        held.append(flat)
        made: Array = flat.reshape(shape)
        return made


def _references_of_a_free_one() -> int:
    held = [np.empty(1)]
    for flat in held:
        return sys.getrefcount(flat)
    raise AssertionError


_FREE = _references_of_a_free_one()
