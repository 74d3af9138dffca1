"""The one random generator: it draws initial weights and dropout masks.

The rule: what is drawn is a function of the seed and of what was drawn before, never of timing.
"""

from typing import Any

import numpy as np

from holdfast.errors import UsageError

_bits = np.random.Philox(0)
_generator = np.random.Generator(_bits)


def generator() -> np.random.Generator:
    """Return the generator, which draws on the host."""
    return _generator


def manual_seed(seed: int) -> None:
    """Start the generator afresh from `seed`, a non-negative integer."""
    if seed < 0:
        raise UsageError(f"a seed is a non-negative integer; found {seed}")
    _bits.state = np.random.Philox(seed).state


def get_state() -> dict[str, Any]:
    """Return the state of the generator as data that JSON can hold."""
    state = _bits.state
    return {
        "bit_generator": "Philox",
        "counter": [int(word) for word in state["state"]["counter"]],
        "key": [int(word) for word in state["state"]["key"]],
        "buffer": [int(word) for word in state["buffer"]],
        "buffer_position": int(state["buffer_pos"]),
        "has_half": int(state["has_uint32"]),
        "half": int(state["uinteger"]),
    }


def set_state(state: dict[str, Any]) -> None:
    """Put the generator into a state that `get_state` returned."""
    if state.get("bit_generator") != "Philox":
        found = state.get("bit_generator")
        raise UsageError(f"a random state of 'Philox' is expected; found {found!r}")
    _bits.state = {
        "bit_generator": "Philox",
        "state": {
            "counter": np.array(state["counter"], dtype=np.uint64),
            "key": np.array(state["key"], dtype=np.uint64),
        },
        "buffer": np.array(state["buffer"], dtype=np.uint64),
        "buffer_pos": state["buffer_position"],
        "has_uint32": state["has_half"],
        "uinteger": state["half"],
    }
