"""All parameters as one vector, and back."""

from collections.abc import Iterable

from holdfast.core.errors import shape_error
from holdfast.core.functions_shape import cat
from holdfast.core.tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return the elements of all parameters, one after the other; gradients flow back to them."""
    return cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the elements of `vec`, one after the other, into the parameters, without a graph.

    Raises ShapeError, with nothing changed, where there are not as many as the parameters have.
    """
    if not isinstance(vec, Tensor):
        raise TypeError(f"vector_to_parameters takes a tensor; found {type(vec).__name__}")
    targets = list(parameters)
    wanted = sum(target.numel() for target in targets)
    if vec.shape != (wanted,):
        raise shape_error(
            "vector_to_parameters", "a vector of all elements", vec=vec.shape, parameters=(wanted,)
        )
    at = 0
    for target in targets:
        target.data = vec[at : at + target.numel()].reshape(target.shape)
        at += target.numel()
