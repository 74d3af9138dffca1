"""Compressions by name: `compression("bfloat16")`, `compression("top-k:0.01")`.

Another package adds one with `register`.
"""

from collections.abc import Callable

from holdfast.collectives.compression.compressor import Compression
from holdfast.collectives.compression.feedback import FRACTION, RANK, PowerSGD, TopK
from holdfast.collectives.compression.rounding import Bfloat16, Float16, Int8
from holdfast.errors import UsageError

_kinds: dict[str, Callable[[float | None], Compression]] = {}


def register(name: str, make: Callable[[float | None], Compression]) -> None:
    """Make a compression known as `name`; `make` gets the number behind the colon, if any.

    It raises UsageError for a number that it has no use for.
    """
    if name in _kinds or ":" in name:
        raise ValueError(f"{name!r} names a compression already, or has a colon")
    _kinds[name] = make


def compressions() -> list[str]:
    """Return the names that `compression` takes."""
    return sorted(_kinds)


def compression(text: str) -> Compression:
    """Return the compression called `NAME` or `NAME:NUMBER`, as `top-k:0.01`.

    Raises UsageError for a name that is not known or a number that it does not take.
    """
    name, colon, number = text.partition(":")
    if name not in _kinds:
        raise UsageError(
            f"a compression of {', '.join(compressions())} was expected, found {text!r}"
        )
    if not colon:
        return _kinds[name](None)
    try:
        return _kinds[name](float(number))
    except ValueError:
        raise UsageError(f"{name}:NUMBER was expected, found {text!r}") from None


def _without_number(name: str, made: Compression) -> None:
    def make(number: float | None) -> Compression:
        if number is not None:
            raise UsageError(f"the compression {name} takes no number; found {number:g}")
        return made

    register(name, make)


def _top_k(number: float | None) -> Compression:
    fraction = FRACTION if number is None else number
    if not 0 < fraction <= 1:
        raise UsageError(f"top-k takes a fraction above 0 and up to 1; found {fraction:g}")
    return lambda layout: TopK(layout, fraction)


def _power_sgd(number: float | None) -> Compression:
    rank = RANK if number is None else number
    if not (1 <= rank < 1 << 16 and rank == int(rank)):
        raise UsageError(f"powersgd takes a rank, a whole number from 1; found {rank:g}")
    return lambda layout: PowerSGD(layout, int(rank))


_without_number("bfloat16", Bfloat16)
_without_number("float16", Float16)
_without_number("int8", Int8)
register("top-k", _top_k)
register("powersgd", _power_sgd)
