"""Gradients: arrays, tensors, primitives, layers, optimizers and the arena.

The room computes on one device and knows nothing of other ranks: it never opens a socket, never
reads a file and never asks for a rank. Start reading at `tensor.py` (a tensor and its backward
pass), then `ops/` (each primitive beside its gradient), then `arena.py` (one buffer for all
parameters, one for all gradients).
"""

from holdfast.core.arena import Arena, Bucket
from holdfast.core.backward import enable_grad, is_grad_enabled, no_grad
from holdfast.core.creation import (
    arange,
    as_tensor,
    cat,
    eye,
    from_numpy,
    full,
    ones,
    ones_like,
    rand,
    randn,
    stack,
    tensor,
    zeros,
    zeros_like,
)
from holdfast.core.memory import keep_freed_memory
from holdfast.core.ops.elementwise import maximum, minimum, where
from holdfast.core.parameter import Parameter
from holdfast.core.random import manual_seed
from holdfast.core.tensor import Tensor

keep_freed_memory()

__all__ = [
    "Arena",
    "Bucket",
    "Parameter",
    "Tensor",
    "arange",
    "as_tensor",
    "cat",
    "enable_grad",
    "eye",
    "from_numpy",
    "full",
    "is_grad_enabled",
    "manual_seed",
    "maximum",
    "minimum",
    "no_grad",
    "ones",
    "ones_like",
    "rand",
    "randn",
    "stack",
    "tensor",
    "where",
    "zeros",
    "zeros_like",
]
