"""What goes with models: clipping, parameters as a vector, and packed sequences in `rnn`."""

from holdfast.core.nn.clip import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from holdfast.core.nn.vectors import parameters_to_vector, vector_to_parameters
from holdfast.nn.utils import rnn

__all__ = [
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "parameters_to_vector",
    "rnn",
    "vector_to_parameters",
]
