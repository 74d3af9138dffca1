"""Mixed precision: products in 16 bits, everything delicate in 32, weights in 32 all along.

The rule is PyTorch's: what multiplies matrices takes its floating arguments in the 16-bit dtype,
what adds many numbers up or takes exponentials takes them in float32, and the rest computes in what
it is given. Weights are cast on the way, so that the arena and the optimizer stay in float32 and
gradients arrive there in it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backend import BFLOAT16, is_floating
from holdfast.core.device import Device
from holdfast.core.ops.elementwise import cast
from holdfast.core.recording import recording
from holdfast.core.tensor import Tensor
from holdfast.core.watch import as_watched
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.primitive import Primitive

LOWER = frozenset(
    {
        "attention",
        "contract",
        "conv1d",
        "conv2d",
        "conv3d",
        "conv_transpose1d",
        "conv_transpose2d",
        "conv_transpose3d",
        "gru",
        "linear",
        "lstm",
        "matmul",
        "rnn",
    }
)
"""Primitives that compute in 16 bits: they add products up in 32 and round once."""

HIGHER = frozenset(
    {
        "arccos",
        "arcsin",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "cosh",
        "cross_entropy",
        "cumprod",
        "cumsum",
        "erfinv",
        "exp",
        "expm1",
        "group_norm",
        "huber_loss",
        "kl_div",
        "l1_loss",
        "layer_norm",
        "log",
        "log10",
        "log1p",
        "log2",
        "log_softmax",
        "logcumsumexp",
        "logsumexp",
        "mse_loss",
        "norm",
        "power",
        "prod",
        "reciprocal",
        "rms_norm",
        "rsqrt",
        "sinh",
        "soft_cross_entropy",
        "softmax",
        "sum",
        "tan",
    }
)
"""Primitives that compute in float32, as 16 bits would overflow or lose too much."""


@contextmanager
def autocast(device_type: str, dtype: Any = None, enabled: bool = True) -> Iterator[None]:
    """Compute in mixed precision inside: the forward pass and the loss; backward follows by itself.

    `dtype` is bfloat16 or float16; the second has so small a range that it wants a `GradScaler`.
    Without one it is what the device is best at: bfloat16 on "cpu", float16 on "cuda". Raises
    UsageError for another dtype or device. As torch.autocast.
    """
    of_device = BFLOAT16 if Device(device_type) == "cpu" else np.dtype(np.float16)
    kind = of_device if dtype is None else np.dtype(dtype)
    if enabled and kind not in (BFLOAT16, np.dtype(np.float16)):
        raise UsageError(f"autocast to bfloat16 or float16 was expected, found {kind}")
    before = recording.watchers
    others = tuple(watcher for watcher in before if not isinstance(watcher, _Autocast))
    with as_watched((*others, _Autocast(kind)) if enabled else others):
        yield


def autocasts() -> tuple[Any, ...]:
    """Return what casts arguments just now, to be put around a part that is run again."""
    return tuple(watcher for watcher in recording.watchers if isinstance(watcher, _Autocast))


class _Autocast:
    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype

    def __call__(
        self,
        primitive: "Primitive",
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        run: Callable[..., Any],
    ) -> Any:
        if primitive.name in LOWER:
            arguments = tuple(_in(argument, self._dtype) for argument in arguments)
        elif primitive.name in HIGHER:
            arguments = tuple(_in(argument, _FLOAT32) for argument in arguments)
        return run(*arguments, **options)


_FLOAT32 = np.dtype(np.float32)


def _in(argument: Any, dtype: np.dtype[Any]) -> Any:
    """Return a floating tensor of at most 32 bits in `dtype`, and anything else as it is."""
    if not isinstance(argument, Tensor):
        return argument
    mine = argument.dtype
    if mine == dtype or not is_floating(mine) or mine.itemsize > _FLOAT32.itemsize:
        return argument
    return cast(argument, dtype=dtype)
