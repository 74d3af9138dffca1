"""Einstein's sums: an equation of labels, and the products of matrices that it comes down to.

The rule: operands are contracted two at a time, and each contraction is one batched product of
matrices. Its gradient by an operand is the contraction of the cotangent with the other operand,
with the labels exchanged.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import combinations
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backward import Pullback
from holdfast.core.errors import check_dtypes, shape_error
from holdfast.core.ops import reduce
from holdfast.core.ops.linear import product
from holdfast.core.ops.shape import diagonal, permute, reshape
from holdfast.core.primitive import primitive
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Labels = tuple[int, ...]
"""One for each axis: letters as their code points, the axes of an ellipsis as -1, -2, … counted
from the right."""

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def contracted(x: Any, y: Any, left: Labels, right: Labels, out: Labels) -> Any:
    """Return the sum of products over the labels that are not in `out`, whose axes it has.

    Labels are distinct within each operand, agree in size, and each is in two of the three.
    """
    both = [label for label in left if label in right]
    kept = [label for label in both if label in out]
    summed = [label for label in both if label not in out]
    if not summed:
        return _aligned(x, left, out) * _aligned(y, right, out)
    rows = [label for label in left if label not in both]
    columns = [label for label in right if label not in both]
    sizes = dict(zip(left + right, x.shape + y.shape, strict=True))
    batch, height, depth, width = (
        [sizes[label] for label in group] for group in (kept, rows, summed, columns)
    )
    lying = x.transpose([left.index(label) for label in kept + rows + summed])
    standing = y.transpose([right.index(label) for label in kept + summed + columns])
    value = product(
        lying.reshape([*batch, prod(height), prod(depth)]),
        standing.reshape([*batch, prod(depth), prod(width)]),
    )
    made = kept + rows + columns
    return value.reshape([*batch, *height, *width]).transpose([made.index(label) for label in out])


def _aligned(x: Any, labels: Labels, out: Labels) -> Any:
    """Return a view of `x` with an axis for each label of `out`, of size 1 where it has none."""
    order = [labels.index(label) for label in out if label in labels]
    sizes = [x.shape[labels.index(label)] if label in labels else 1 for label in out]
    return x.transpose(order).reshape(sizes)


def _operands(rng: np.random.Generator) -> tuple[Any, ...]:
    left, right, out = [("ij", "jk", "ki"), ("bij", "bj", "ib"), ("bik", "kbj", "bji")][
        int(rng.integers(3))
    ]
    sizes = {"i": 2, "j": 3, "k": 4, "b": 2}
    arrays = tuple(rng.normal(size=[sizes[label] for label in term]) for term in (left, right))
    labels = [tuple(ord(label) for label in term) for term in (left, right, out)]
    return arrays, dict(zip(("left", "right", "out"), labels, strict=True))


@primitive(sample=_operands, second="rerun")
def contract(x: Any, y: Any, *, left: Labels, right: Labels, out: Labels) -> tuple[Any, Pullback]:
    """Sum products of two operands over the labels that are not in `out`."""
    check_dtypes("einsum", x=x, y=y)
    return contracted(x, y, left, right, out), lambda g: (
        lambda: contracted(g, y, out, right, left),
        lambda: contracted(x, g, left, out, right),
    )


@lru_cache(maxsize=512)
def parsed(equation: str, axes: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """Return the labels of each operand, that has so many axes, and of the result."""
    inputs, arrow, output = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(axes):
        raise UsageError(f"einsum {equation!r} has {len(terms)} terms for {len(axes)} operands")
    dots = [_dots(equation, term, n) for term, n in zip(terms, axes, strict=True)]
    most = max(dots)
    labels = tuple(_labels(term, n) for term, n in zip(terms, dots, strict=True))
    if arrow:
        _dots(equation, output, None)
        result = _labels(output, most)
    else:
        counts = Counter(label for term in labels for label in term if label >= 0)
        once = sorted(label for label, count in counts.items() if count == 1)
        result = (*range(-most, 0), *once)
    known = {label for term in labels for label in term}
    if len(set(result)) < len(result) or not known.issuperset(result):
        raise UsageError(f"einsum {equation!r}: each label of the result once, and in a term")
    return labels, result


def _dots(equation: str, term: str, axes: int | None) -> int:
    """Return how many axes the ellipsis of a term stands for."""
    letters = term.replace("...", "", 1)
    if not all(letter in LETTERS for letter in letters):
        raise UsageError(
            f"einsum {equation!r}: terms are letters and at most one ellipsis; found {term!r}"
        )
    rest = 0 if axes is None else axes - len(letters)
    if rest < 0 or (rest and "..." not in term):
        raise UsageError(f"einsum {equation!r}: {term!r} does not name the {axes} axes it is for")
    return rest


def _labels(term: str, dots: int) -> Labels:
    front, ellipsis, back = term.partition("...")
    middle = range(-dots, 0) if ellipsis else ()
    return (*map(ord, front), *middle, *map(ord, back))


def einsum(equation: Any, *operands: Any) -> "Tensor":
    """Sum products of operands as an equation says: `einsum("bij,bjk->bik", x, y)`.

    An ellipsis stands for axes that broadcast; without `->` the result has the labels that occur
    once, in alphabetical order. Or operands, each followed by the list of its labels as integers:
    `einsum(x, [0, 1], y, [1, 2], [0, 2])`. Raises UsageError for an equation that cannot be read,
    ShapeError for sizes that differ.
    """
    if not isinstance(equation, str):
        return einsum(*_from_lists(equation, *operands))
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    labels, result = parsed(equation, tuple(operand.ndim for operand in operands))
    parts = [_plain(*pair) for pair in zip(operands, labels, strict=True)]
    sizes: dict[int, int] = {}
    for operand, term in parts:
        for label, size in zip(term, operand.shape, strict=True):
            if sizes.setdefault(label, size) == 1:
                sizes[label] = size
            elif size not in (1, sizes[label]):
                shapes = {f"operand {i}": o.shape for i, o in enumerate(operands)}
                raise shape_error("einsum", f"equal sizes for a label in {equation!r}", **shapes)
    parts = [_without_ones(operand, term, sizes) for operand, term in parts]
    parts = [
        _summed(operand, term, {*result, *_labels_of(parts[:i] + parts[i + 1 :])})
        for i, (operand, term) in enumerate(parts)
    ]
    while len(parts) > 1:
        i, j = _cheapest(parts, result, sizes) if len(parts) > 2 else (0, 1)
        (y, right), (x, left) = parts.pop(j), parts.pop(i)
        known = (*left, *right)
        later = {*result, *_labels_of(parts)}
        wanted = known if parts else result  # the last one makes the result in its order
        out = tuple(dict.fromkeys(label for label in wanted if label in later and label in known))
        parts.insert(i, (contract(x, y, left=left, right=right, out=out), out))
    ((value, term),) = parts
    order = tuple(term.index(label) for label in result)
    return value if order == tuple(range(len(order))) else permute(value, dims=order)


Part = tuple[Any, Labels]


def _plain(operand: Any, term: Labels) -> Part:
    """Take diagonals until every label names one axis."""
    for label, count in Counter(term).items():
        for _ in range(count - 1):
            first = term.index(label)
            second = term.index(label, first + 1)
            operand = diagonal(operand, dim1=first, dim2=second)
            rest = [other for i, other in enumerate(term) if i not in (first, second)]
            term = (*rest, label)
    return operand, term


def _without_ones(operand: Any, term: Labels, sizes: dict[int, int]) -> Part:
    """Drop the axes of size 1 that broadcast against another operand's."""
    kept = [i for i, n in enumerate(operand.shape) if n == sizes[term[i]]]
    if len(kept) == len(term):
        return operand, term
    shape = tuple(operand.shape[i] for i in kept)
    return reshape(operand, shape=shape), tuple(term[i] for i in kept)


def _summed(operand: Any, term: Labels, needed: set[int]) -> Part:
    """Add up over the axes that nothing else has."""
    gone = tuple(i for i, label in enumerate(term) if label not in needed)
    if not gone:
        return operand, term
    kept = tuple(label for label in term if label in needed)
    return reduce.sum(operand, dim=gone), kept


def _labels_of(parts: Sequence[Part]) -> set[int]:
    return {label for _, term in parts for label in term}


def _cheapest(parts: Sequence[Part], result: Labels, sizes: dict[int, int]) -> tuple[int, int]:
    """Return the two operands whose contraction leaves the least behind (the greedy path)."""

    def size(labels: Iterable[int]) -> int:
        return prod(sizes[label] for label in labels)

    def left_behind(pair: tuple[int, int]) -> int:
        i, j = pair
        others = [part for k, part in enumerate(parts) if k not in pair]
        needed = {*result, *_labels_of(others)}
        both = {*parts[i][1], *parts[j][1]}
        return size(both & needed) - size(parts[i][1]) - size(parts[j][1])

    return min(combinations(range(len(parts)), 2), key=left_behind)


def _from_lists(*given: Any) -> tuple[Any, ...]:
    """Turn operands, each followed by its labels, into an equation and operands."""
    pairs, rest = given[: len(given) // 2 * 2], given[len(given) // 2 * 2 :]

    def term(labels: Sequence[Any]) -> str:
        return "".join("..." if label is Ellipsis else LETTERS[label] for label in labels)

    equation = ",".join(term(labels) for labels in pairs[1::2])
    return (equation + "".join("->" + term(labels) for labels in rest), *pairs[::2])
