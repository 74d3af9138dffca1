"""The cross-entropy of logits with classes, and with probabilities, as primitives.

Axis 1 holds the classes. The rule: logits are shifted so that no exponential overflows, the
exponentials are computed once, and the gradient is a scaling of them.
"""

from typing import Any

import numpy as np

from holdfast.core.backend import array_module, is_floating
from holdfast.core.backward import Pullback
from holdfast.core.errors import shape_error
from holdfast.core.ops.loss import reduced
from holdfast.core.ops.precision import accumulator, in_float
from holdfast.core.ops.softmax import log_softmax
from holdfast.core.primitive import primitive
from holdfast.core.variable import raw
from holdfast.errors import UsageError

Ruled = tuple[Any, Pullback]


def check_classes(name: str, input: Any, target: Any, ignore_index: int) -> Any:
    """Return the mask of the targets that count, None if all do; `input` is (N, C, ...).

    Raises ShapeError if `target` is not (N, ...), UsageError if it does not hold classes.
    """
    if input.ndim < 2 or target.shape != input.shape[:1] + input.shape[2:]:
        raise shape_error(
            name, "input (N, C, ...) and target (N, ...)", input=input.shape, target=target.shape
        )
    if target.dtype.kind not in "iu":
        raise UsageError(f"{name}: target holds classes, integers; found {target.dtype}")
    classes, kept, counting = input.shape[1], None, target
    if not target.size:
        return None
    low, high = int(target.min()), int(target.max())
    if low <= ignore_index <= high:
        kept = target != ignore_index
        counting = target[kept]
        if not counting.size:
            return kept
        low, high = int(counting.min()), int(counting.max())
    if low < 0 or high >= classes:
        raise UsageError(
            f"{name}: classes 0 to {classes - 1} are expected, as input has {classes}; target "
            f"holds {low} to {high}"
        )
    return kept


def check_class_weight(name: str, weight: Any, input: Any) -> None:
    """Raise ShapeError unless `weight` is None or (C,)."""
    if weight is not None and weight.shape != input.shape[1:2]:
        raise shape_error(
            name, "input (N, C, ...) and weight (C,)", input=input.shape, weight=weight.shape
        )


def class_weights(target: Any, kept: Any, weight: Any, dtype: Any) -> Any:
    """Return what each of the targets weighs: of their shape, 0 for those that are ignored; 1.0 if
    all weigh that."""
    if weight is None:
        return 1.0 if kept is None else kept.astype(dtype)
    weight = weight.astype(dtype, copy=False)
    return weight[target] if kept is None else weight[np.where(kept, target, 0)] * kept


def _on_classes(weight: Any, ndim: int) -> Any:
    """Return (C,) as it broadcasts to (N, C, ...)."""
    return weight.reshape(-1, *(1,) * (ndim - 2))


def _spots(target: Any) -> tuple[Any, ...]:
    """Return the index into (N, C, ...) that chooses the class of every target."""
    module, ndim = array_module(target), target.ndim
    grid = [
        module.arange(size).reshape(-1, *(1,) * (ndim - 1 - axis))
        for axis, size in enumerate(target.shape)
    ]
    return grid[0], target, *grid[1:]


NEAR = 32.0
"""Logits that lie within this range of each other are shifted by one number: the exponential of the
least is far from vanishing."""


def _shifted(x: Any) -> Any:
    """Return logits, shifted so that no exponential overflows, and some in each row do not vanish.

    The largest of all is found in a tenth of the time that those of short rows take.
    """
    top = x.max() if x.size else 0
    if not (x.size and top - x.min() <= NEAR):
        top = x.max(axis=1, keepdims=True)
    return x - top


def _check_smoothing(value: float) -> None:
    if not 0 <= value <= 1:
        raise UsageError(f"label_smoothing is from 0 to 1; found {value}")


def _sample_classes(rng: np.random.Generator) -> tuple[Any, ...]:
    shape = [(4,), (4, 2), (3, 2, 2)][int(rng.integers(3))]
    input = rng.normal(size=(shape[0], 3, *shape[1:]))
    target = rng.integers(0, 3, size=shape)
    target[0] = 1
    options = {
        "weight": rng.uniform(0.5, 2, size=3) if rng.random() < 0.5 else None,
        "ignore_index": int(rng.choice([-100, 0])),
        "label_smoothing": float(rng.choice([0.0, 0.2])),
        "reduction": str(rng.choice(["mean", "sum", "none"])),
    }
    return (input, target), options


def _of_parts(
    input: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Return what `cross_entropy` does, from the logarithm of the softmax."""
    logs, target = log_softmax(input, dim=1), raw(target)
    kept = check_classes("cross_entropy", input, target, ignore_index)
    counts = class_weights(target, kept, weight, np.float64)
    safe = target if kept is None else np.where(kept, target, 0)
    shares = array_module(target).zeros(input.shape, dtype=np.float64)
    if label_smoothing:
        even = np.ones(1) if weight is None else _on_classes(weight, input.ndim)
        shares += even * (label_smoothing / input.shape[1])
        if kept is not None:
            shares *= np.expand_dims(kept, 1)
    shares[_spots(safe)] += (1 - label_smoothing) * counts
    each = -(logs * shares.astype(input.dtype)).sum(dim=1)
    total = target.size if isinstance(counts, float) else float(counts.sum())
    return reduced(each, reduction, total)[0]


@primitive(sample=_sample_classes, second=_of_parts)
def cross_entropy(
    input: Any,
    target: Any,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Ruled:
    """Return -log softmax of the target's class: input (N, C, ...), target (N, ...) of integers.

    Targets equal to `ignore_index` count nothing. `weight` (C,) scales the loss of each class, and
    a mean divides by the weights of the targets. `label_smoothing` gives that share of the target
    to all classes evenly (Szegedy et al., 2016). The mean of nothing is NaN.
    """
    kept = check_classes("cross_entropy", input, target, ignore_index)
    check_class_weight("cross_entropy", weight, input)
    _check_smoothing(label_smoothing)
    dtype, ndim = accumulator(input.dtype), input.ndim
    counts = class_weights(target, kept, weight, dtype)
    spots = _spots(target if kept is None else np.where(kept, target, 0))
    e = _shifted(input.astype(dtype, copy=False))
    picked = e[spots]
    if label_smoothing:
        smooth: Any = label_smoothing / input.shape[1]
        if weight is not None:
            smooth = _on_classes(weight.astype(dtype, copy=False) * smooth, ndim)
        spread = (e * smooth).sum(axis=1)
        mass = smooth * input.shape[1] if weight is None else smooth.sum()
    np.exp(e, out=e)
    # Summing short rows one by one takes several times as long as a product with ones.
    sums = e.sum(axis=1) if ndim > 2 else np.matmul(e, np.ones_like(e, shape=e.shape[1]))
    sharp = counts * (1 - label_smoothing)
    each = (np.log(sums) - picked) * sharp
    if label_smoothing:
        even = np.log(sums) * mass - spread
        each += even if kept is None else even * kept
    total = target.size if isinstance(counts, float) else float(counts.sum())
    value, share = reduced(each, reduction, total)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = g.astype(dtype, copy=False) * share
        own = each * sharp
        if not label_smoothing:
            part = e * np.expand_dims(own / sums, 1)
        else:
            others = each if kept is None else each * kept
            part = e * np.expand_dims((own + others * mass) / sums, 1)
            part -= smooth * (np.expand_dims(others, 1) if np.ndim(others) else others)
        part[spots] -= own
        return part, None

    return value.astype(input.dtype, copy=False), pullback


def _sample_soft(rng: np.random.Generator) -> tuple[Any, ...]:
    shape = [(4, 3), (2, 3, 2)][int(rng.integers(2))]
    options = {
        "weight": rng.uniform(0.5, 2, size=3) if rng.random() < 0.5 else None,
        "label_smoothing": float(rng.choice([0.0, 0.2])),
        "reduction": str(rng.choice(["mean", "sum", "none"])),
    }
    return (rng.normal(size=shape), rng.uniform(size=shape)), options


def _soft_of_parts(
    input: Any,
    target: Any,
    *,
    weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """Return what `soft_cross_entropy` does, from the logarithm of the softmax."""
    shares = target * (1 - label_smoothing) + label_smoothing / input.shape[1]
    if weight is not None:
        shares = shares * _on_classes(weight.astype(input.dtype, copy=False), input.ndim)
    each = -(log_softmax(input, dim=1) * shares).sum(dim=1)
    return reduced(each, reduction)[0]


@primitive(sample=_sample_soft, promote=True, second=_soft_of_parts)
@in_float
def soft_cross_entropy(
    input: Any,
    target: Any,
    *,
    weight: Any = None,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Ruled:
    """Return the cross-entropy of softmax with probabilities: both are (N, C, ...).

    The mean is over the N * ... distributions. `weight` and `label_smoothing` are as in
    `cross_entropy`.
    """
    if input.ndim < 2 or target.shape != input.shape:
        raise shape_error(
            "cross_entropy",
            "input and probabilities of one shape (N, C, ...)",
            input=input.shape,
            target=target.shape,
        )
    if not is_floating(target.dtype):
        raise UsageError(f"cross_entropy: probabilities are floats; found {target.dtype}")
    check_class_weight("cross_entropy", weight, input)
    _check_smoothing(label_smoothing)
    heavy: Any = 1.0
    if weight is not None:
        heavy = _on_classes(weight.astype(input.dtype, copy=False), input.ndim)
    shares = (target * (1 - label_smoothing) + label_smoothing / input.shape[1]) * heavy
    shifted = _shifted(input)
    e = np.exp(shifted)
    sums = e.sum(axis=1, keepdims=True)
    logs = np.subtract(shifted, np.log(sums), out=shifted)
    value, share = reduced(-(shares * logs).sum(axis=1), reduction)

    def pullback(g: Any) -> tuple[Any, ...]:
        each = (g if reduction != "none" else np.expand_dims(g, 1)) * share

        def by_input() -> Any:
            part = e * (shares.sum(axis=1, keepdims=True) / sums)
            part -= shares
            part *= each
            return part

        return by_input, lambda: logs * (each * (label_smoothing - 1) * heavy)

    return value, pullback
