"""Borders around tensors, as a function: PyTorch's name and arguments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast.core.ops import shape
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

__all__ = ["pad"]


def pad(
    input: "Tensor", pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> "Tensor":
    """Pad the last axes: `pad` is (before, after) of the last one, then of the one before it, ….

    With mode "constant" by `value` (0 if None), where negative widths cut off; by the elements
    mirrored at the edge ("reflect"), by those at the edge ("replicate"), or by those at the other
    end ("circular").
    """
    given = tuple(pad)
    pairs = tuple(zip(given[::2], given[1::2], strict=False))
    if len(given) % 2 or len(pairs) > input.ndim:
        raise UsageError(
            f"pad is two widths for each of the last axes, of up to {input.ndim}; found {given}"
        )
    widths = ((0, 0),) * (input.ndim - len(pairs)) + pairs[::-1]
    if mode == "constant":
        return shape.pad(input, widths=widths, value=0 if value is None else value)
    if mode not in shape.MODES:
        known = ", ".join(repr(name) for name in ("constant", *shape.MODES))
        raise UsageError(f"pad: mode is one of {known}; found {mode!r}")
    if value is not None:
        raise UsageError(f"pad: value is for mode 'constant', not {mode!r}")
    return shape.border(input, widths=widths, mode=mode)
