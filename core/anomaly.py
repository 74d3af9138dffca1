"""Where a NaN came from: every primitive is looked at, forward and backward."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backend import is_floating
from holdfast.core.variable import raw
from holdfast.core.watch import watching
from holdfast.errors import AnomalyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.core.primitive import Primitive


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Raise AnomalyError at the first primitive that makes a NaN out of numbers without one.

    To be put around forward and backward. Looks at every value, so that it is slow: use it to find
    out, not to train. Infinities pass, as a mask of attention is made of them.
    """
    with watching(_Anomaly()):
        yield


class _Anomaly:
    def __call__(
        self,
        primitive: "Primitive",
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        run: "Callable[..., Any]",
    ) -> Any:
        with np.errstate(all="ignore"):  # what is found is told by the error
            out = run(*arguments, **options)
        values = out if isinstance(out, tuple) else (out,)
        if any(_has_nan(value) for value in values) and not any(map(_has_nan, arguments)):
            raise AnomalyError(
                f"{primitive.name!r} made a NaN out of {_told(arguments)}"
                + (f", with {options}" if options else "")
            )
        return out

    def backward(self, primitive: "Primitive", run: "Callable[[Any], Any]", g: Any) -> Any:
        """Look at the cotangents of the arguments."""
        parts = run(g)
        came = g.values() if isinstance(g, dict) else (g,)
        if any(_has_nan(part) for part in parts) and not any(map(_has_nan, came)):
            at = next(i for i, part in enumerate(parts) if _has_nan(part))
            raise AnomalyError(
                f"the gradient of {primitive.name!r} by its argument {at}, of shape "
                f"{parts[at].shape}, holds a NaN, and the gradient that came back to it held none: "
                "look at what it was called with"
            )
        return parts


def _has_nan(value: Any) -> bool:
    array = raw(value)
    if not hasattr(array, "dtype") or not is_floating(array.dtype):
        return False
    return bool(np.isnan(array).any())


def _told(arguments: tuple[Any, ...]) -> str:
    """Describe arguments: shapes, and between which values they lie."""
    told = []
    for argument in arguments:
        array = raw(argument)
        if not hasattr(array, "shape"):
            told.append(repr(argument))
        elif not array.size:
            told.append(f"an array of shape {array.shape}")
        else:
            low, high = array.min(), array.max()
            told.append(f"an array of shape {array.shape} from {low:.6g} to {high:.6g}")
    return " and ".join(told) or "nothing"
