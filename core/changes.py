"""Which memory was changed in place, and when: so that backward notices what it may not use.

The rule: a change belongs to the memory, whoever looks at it: a view, or a tensor that shares it
without a graph. Only tensors' own methods are seen, not what is done to their arrays.
"""

import itertools
import weakref
from collections.abc import Iterable
from typing import Any

import numpy as np

next_sequence = itertools.count(1).__next__
"""Numbers what happens: the making of nodes, and changes."""

MANY = 64
"""Changes of one owner's memory that are told apart; further ones count for all of it."""

Bounds = tuple[float, float]
_EVERYWHERE: Bounds = (-np.inf, np.inf)

changes: dict[int, list[tuple[int, Bounds]]] = {}
"""By the identity of the array that owns memory: when which bytes were changed."""

_owners: dict[int, "weakref.ref[Any]"] = {}


def _owner(array: Any) -> Any:
    while hasattr(array.base, "dtype"):
        array = array.base
    return array


def _bounds(array: Any) -> Bounds:
    if not isinstance(array, np.ndarray):
        return _EVERYWHERE
    low, high = np.lib.array_utils.byte_bounds(array)
    return low, high


def mark(array: Any) -> None:
    """Take note that memory was changed just now; it is forgotten when its owner is gone."""
    owner = _owner(array)
    key = id(owner)
    if key not in changes:

        def forget(_: object) -> None:
            changes.pop(key, None)
            _owners.pop(key, None)

        changes[key], _owners[key] = [], weakref.ref(owner, forget)
    known = changes[key]
    if len(known) < MANY:
        known.append((next_sequence(), _bounds(array)))
    else:
        known[:] = [(next_sequence(), _EVERYWHERE)]


def changed_since(arrays: Iterable[Any], sequence: int) -> Any:
    """Return the first of `arrays` whose memory was changed after `sequence`, or None."""
    for array in arrays:
        known = changes.get(id(_owner(array))) if hasattr(array, "base") else None
        if known and known[-1][0] > sequence:
            low, high = _bounds(array)
            if any(when > sequence and start < high and low < end for when, (start, end) in known):
                return array
    return None
