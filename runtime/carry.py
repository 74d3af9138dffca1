"""Arrays of the host through any communicator, also one that takes a GPU's arrays alone."""

import math
from collections.abc import Callable
from typing import Any

from holdfast.collectives import Communicator
from holdfast.core.backend import Array, to_device, to_host


def carried(communicator: Communicator, collective: Callable[..., Any], x: Array) -> Array:
    """Return, on the host, what `collective` of `communicator` makes of `x`, which may be changed.

    `collective` is its `all_reduce` or `broadcast`. Over NCCL the result is waited for: whoever
    reads it on the host is told first if there is none.
    """
    moved = to_device(x, communicator.device)
    if communicator.device == "cpu":
        return to_host(collective(moved))
    return to_host(collective(moved, async_op=True).wait(math.inf))
