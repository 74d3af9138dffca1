"""Durations and rates as people write them: `3s`, `200ms`, `100mbit`. Pure."""

import re
from decimal import Decimal, DecimalException

from holdfast.errors import UsageError

_SECONDS = {"us": Decimal("1e-6"), "ms": Decimal("1e-3"), "s": Decimal(1), "m": Decimal(60)}
_BITS = {"bit": Decimal(1), "kbit": Decimal(1000), "mbit": Decimal(10**6), "gbit": Decimal(10**9)}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)


def seconds(text: str | float) -> float:
    """Return a duration in seconds: `3s`, `1.5s`, `200ms`, `50us`, `2m`, or a number of seconds."""
    return _amount(text, _SECONDS, "a duration such as 3s, 200ms or 50us")


def bits_per_second(text: str | float) -> float:
    """Return a rate in bit/s: `100mbit`, `1gbit`, `500kbit`, or a number of bit/s."""
    return _amount(text, _BITS, "a rate such as 100mbit or 1gbit")


def _amount(text: str | float, units: dict[str, Decimal], expected: str) -> float:
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise UsageError(f"{expected} was expected, found {text!r}")
    if not isinstance(text, str):
        value = float(text)
    else:
        match = _AMOUNT.fullmatch(text.strip())
        if match is None or (match[2] and match[2].lower() not in units):
            raise UsageError(f"{expected} was expected, found {text!r}")
        try:
            value = float(Decimal(match[1]) * (units[match[2].lower()] if match[2] else 1))
        except DecimalException:
            value = float("inf")
    if not 0 <= value < float("inf"):
        raise UsageError(f"{expected} was expected, found {text!r}")
    return value


def format_seconds(value: float) -> str:
    """Return `seconds`' inverse, in the largest unit up to seconds that it has one of: `200ms`."""
    return _format(value, _SECONDS, ("s", "ms", "us"))


def format_rate(value: float) -> str:
    """Return `bits_per_second`'s inverse: `100mbit`."""
    return _format(value, _BITS, ("gbit", "mbit", "kbit", "bit"))


def _format(value: float, units: dict[str, Decimal], names: tuple[str, ...]) -> str:
    """Write a value down so that reading it gives the same float."""
    exact = Decimal(repr(value))
    name = next((name for name in names if exact >= units[name]), names[-1] if exact else names[0])
    return f"{(exact / units[name]).normalize():f}{name}"
