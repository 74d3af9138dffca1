"""The graph of a computation: in order, and as a picture."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from holdfast.core.drawing import svg
from holdfast.core.graph import Step, topological_order, trace, vertices
from holdfast.core.nn.module import Module
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError
from holdfast.runtime.files import write_atomically

__all__ = ["Step", "draw", "topological_order"]


def draw(
    what: Tensor | Module | Sequence[Tensor],
    path: str | PathLike[str],
    *,
    inputs: Tensor | Sequence[Any] | None = None,
    names: Mapping[str, Tensor] | None = None,
    title: str = "",
) -> None:
    """Draw how a tensor (or several) came about, or what a model does with `inputs`, as an SVG.

    Of a tensor the leaves have their names in `names`, such as `dict(model.named_parameters())`;
    it is to be drawn before backward frees the graph. A model is run once on `inputs`, a tensor or
    all positional arguments, as it is: call `eval()` first to leave batch statistics alone. Its
    picture also shows which part did what. Raises UsageError for another kind of file and for a
    model without inputs, GradientError where there is no graph.
    """
    file = Path(path)
    if file.suffix != ".svg":
        raise UsageError(
            f"the picture of a graph is an SVG: expected a path like graph.svg, {path=}"
        )
    if isinstance(what, Module):
        if inputs is None:
            raise UsageError("a model is drawn with what it does: give it inputs=, an example")
        graph, named = trace(what, inputs), type(what).__name__
    else:
        graph = vertices([what] if isinstance(what, Tensor) else what, names)
        named = graph[-1].name
    write_atomically(file, svg(graph, title or named).encode())
