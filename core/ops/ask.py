"""The primitive that answers questions about arrays: by booleans, indices and counts.

They have no gradient, but are primitives all the same, so that whoever watches sees them: a plan
must know that a mask comes from an input.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.primitive import primitive, promoted

QUESTIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        np.all,
        np.any,
        np.argmax,
        np.argmin,
        np.bitwise_and,
        np.bitwise_or,
        np.bitwise_xor,
        np.count_nonzero,
        np.equal,
        np.greater,
        np.greater_equal,
        np.invert,
        np.isfinite,
        np.isinf,
        np.isnan,
        np.left_shift,
        np.less,
        np.less_equal,
        np.logical_and,
        np.logical_not,
        np.logical_or,
        np.logical_xor,
        np.not_equal,
        np.right_shift,
    )
}
"""What can be asked, by name: NumPy's functions, and what `question` adds."""


def question(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let `function` of arrays be asked under its name."""
    QUESTIONS[function.__name__.strip("_")] = function
    return function


@primitive(
    sample=lambda rng: ((rng.normal(size=(3, 4)), rng.normal(size=4)), {"question": "less"}),
    second="linear",
)
def ask(*values: Any, question: str, **options: Any) -> tuple[Any, Pullback]:
    """Return the answer to `question` about arrays brought to one dtype."""
    try:
        answer = QUESTIONS[question](*promoted(list(values)), **options)
    except ValueError as error:
        shapes = {f"argument {i}": v.shape for i, v in enumerate(values) if hasattr(v, "shape")}
        raise shape_error(question, f"shapes that fit ({error})", **shapes) from error
    return answer, lambda g: (None,) * len(values)
