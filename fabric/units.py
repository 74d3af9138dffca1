"""Durations and rates as people write them: `3s`, `200ms`, `100mbit`. Pure."""

import re

from holdfast.errors import UsageError

_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
_BITS = {"bit": 1.0, "kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([a-z]*)", re.IGNORECASE)


def seconds(text: str | float) -> float:
    """Return a duration in seconds: `3s`, `1.5s`, `200ms`, `50us`, `2m`, or a number of seconds."""
    return _amount(text, _SECONDS, "a duration such as 3s, 200ms or 50us")


def bits_per_second(text: str | float) -> float:
    """Return a rate in bit/s: `100mbit`, `1gbit`, `500kbit`, or a number of bit/s."""
    return _amount(text, _BITS, "a rate such as 100mbit or 1gbit")


def _amount(text: str | float, units: dict[str, float], expected: str) -> float:
    if not isinstance(text, str):
        value = float(text)
    else:
        match = _AMOUNT.fullmatch(text.strip())
        if match is None or (match[2] and match[2].lower() not in units):
            raise UsageError(f"{expected} was expected, found {text!r}")
        value = float(match[1]) * (units[match[2].lower()] if match[2] else 1.0)
    if not 0 <= value < float("inf"):
        raise UsageError(f"{expected} was expected, found {text!r}")
    return value


def format_seconds(value: float) -> str:
    """Return `seconds`' inverse, in the unit that is shortest: `200ms`."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size or unit == "us":
            return f"{value / size:.6g}{unit}"
    raise AssertionError(value)


def format_rate(value: float) -> str:
    """Return `bits_per_second`'s inverse: `100mbit`."""
    for unit in ("gbit", "mbit", "kbit", "bit"):
        if value >= _BITS[unit] or unit == "bit":
            return f"{value / _BITS[unit]:.6g}{unit}"
    raise AssertionError(value)
