"""Normalisations as functions: PyTorch's names and arguments."""

from collections.abc import Sequence

import numpy as np

from holdfast.core.errors import shape_error
from holdfast.core.ops import batch_norm as channels
from holdfast.core.ops import norm as rows
from holdfast.core.ops import reduce, shape
from holdfast.core.ops.precision import accumulator
from holdfast.core.tensor import Tensor

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "local_response_norm",
    "normalize",
    "rms_norm",
]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Give each channel of (N, C, ...) mean 0 and variance 1 over the batch; times weight, plus
    bias.

    In training the running mean and unbiased variance, where given, move in place by the share
    `momentum` towards the batch's; otherwise they take its place. All four are (C,).
    """
    return channels.batch_norm(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training=training,
        momentum=momentum,
        eps=eps,
    )


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Give each group of channels of each example of (N, C, ...) mean 0 and variance 1; times
    weight (C,), plus bias (C,)."""
    return channels.group_norm(input, weight, bias, num_groups=num_groups, eps=eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Give each channel of each example of (N, C, ...) mean 0 and variance 1; times weight, plus
    bias.

    Running numbers (C,), where given, move in place towards the average over the examples; without
    `use_input_stats` they take the input's place. D. Ulyanov and others, "Instance Normalization",
    arXiv:1607.08022.
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if input.ndim < 2 or np.prod(input.shape[2:]) < 2:
        raise shape_error(
            "instance_norm", "more than one spatial element when training", input=input.shape
        )
    examples, features = input.shape[:2]
    running = running_mean, running_var
    if running_mean is None and running_var is None:
        return group_norm(input, features, weight, bias, eps)
    mean, var = (None if held is None else held.detach().repeat(examples) for held in running)
    factor, shift = (None if part is None else part.repeat(examples) for part in (weight, bias))
    flat = input.reshape(1, examples * features, *input.shape[2:])
    out = batch_norm(flat, mean, var, factor, shift, True, momentum, eps)
    for held, moved in zip(running, (mean, var), strict=True):
        if held is not None and moved is not None:
            held.data = moved.reshape(examples, features).mean(0)
    return out.reshape(input.shape)


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Give the last axes, of the sizes `normalized_shape`, mean 0 and variance 1; times weight,
    plus bias, both of that shape."""
    return rows.layer_norm(input, weight, bias, shape=_sizes(normalized_shape), eps=eps)


def rms_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Divide the last axes, of the sizes `normalized_shape`, by their root mean square; times
    weight.

    `eps` is the precision of what it is computed in, if None: float32 for 16-bit floats.
    """
    if eps is None:
        eps = float(np.finfo(accumulator(input.dtype)).eps)
    return rows.rms_norm(input, weight, shape=_sizes(normalized_shape), eps=eps)


def _sizes(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Divide (N, C, ...) by (k + alpha * the mean square of `size` neighbouring channels)^beta.

    A. Krizhevsky and others, "ImageNet Classification with Deep Convolutional Neural Networks"
    (2012); beyond the first and last channel there are zeros, which count in the mean.
    """
    if input.ndim < 3:
        raise shape_error("local_response_norm", "input (N, C, L, ...)", input=input.shape)
    widths = [(0, 0)] * input.ndim
    widths[1] = (size // 2, (size - 1) // 2)
    padded, count = shape.pad(input * input, widths=tuple(widths)), input.shape[1]
    total = padded[:, :count]
    for start in range(1, size):
        total = total + padded[:, start : start + count]
    return input / (total * (alpha / size) + k) ** beta


def normalize(
    input: Tensor, p: float = 2.0, dim: int | tuple[int, ...] = 1, eps: float = 1e-12
) -> Tensor:
    """Divide by the p-norm over `dim`, or by `eps` where that is larger."""
    return input / reduce.norm(input, p=p, dim=dim, keepdim=True).clamp(min=eps)
