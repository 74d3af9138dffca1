"""Gradients: arrays, tensors, primitives, layers, optimizers and the arena.

The room computes on one device and knows nothing of other ranks: it never opens a socket, never
reads a file and never asks for a rank. Start reading at `tensor.py` (a tensor and its backward
pass), then `ops/` (each primitive beside its gradient), then `arena.py` (one buffer for all
parameters, one for all gradients).
"""

from math import inf, nan, pi

from ml_dtypes import finfo, iinfo

from holdfast.core import (
    creation,
    functions_combined,
    functions_elementwise,
    functions_shape,
    functions_windows,
    sampling,
)
from holdfast.core.amp import autocast
from holdfast.core.anomaly import detect_anomaly
from holdfast.core.arena import Arena, Bucket
from holdfast.core.checkpointing import checkpoint
from holdfast.core.creation import *
from holdfast.core.device import device
from holdfast.core.functions_combined import *
from holdfast.core.functions_elementwise import *
from holdfast.core.functions_shape import *
from holdfast.core.functions_windows import *
from holdfast.core.higher import grad
from holdfast.core.memory import keep_freed_memory
from holdfast.core.parameter import Parameter
from holdfast.core.profile import profile
from holdfast.core.random import manual_seed
from holdfast.core.recording import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from holdfast.core.sampling import *
from holdfast.core.tensor import Tensor

keep_freed_memory()

inference_mode = no_grad
"""As no_grad: what is made inside may enter a graph later."""

__all__ = [
    "Arena",
    "Bucket",
    "Parameter",
    "Tensor",
    "autocast",
    "checkpoint",
    "detect_anomaly",
    "device",
    "enable_grad",
    "finfo",
    "grad",
    "iinfo",
    "inf",
    "inference_mode",
    "is_grad_enabled",
    "manual_seed",
    "nan",
    "no_grad",
    "pi",
    "profile",
    "set_grad_enabled",
]
__all__ += creation.__all__
__all__ += functions_combined.__all__
__all__ += functions_elementwise.__all__
__all__ += functions_shape.__all__
__all__ += functions_windows.__all__
__all__ += sampling.__all__
