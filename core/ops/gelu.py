"""The Gaussian error linear unit: x times the probability that a normal variable is below x.

D. Hendrycks and K. Gimpel, "Gaussian Error Linear Units", arXiv:1606.08415. Value and slope are
computed in one pass over blocks that stay in the cache; backward is then one multiplication.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.backend import array_module
from holdfast.core.backward import Pullback
from holdfast.core.kernels import loops_for
from holdfast.core.ops import elementwise, special, transcendental
from holdfast.core.ops.precision import in_float
from holdfast.core.primitive import primitive
from holdfast.core.recording import recording
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor

Ruled = tuple[Any, Pullback]

BLOCK = 32 * 1024
"""Elements computed at once: with float32, six arrays of them fit a second-level cache."""

ROOT_HALF = math.sqrt(0.5)
ROOT_2_BY_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715

# erfc(z) = exp(-z^2) (a1 t + ... + a5 t^5) with t = 1 / (1 + p z), for z >= 0, within 1.5e-7:
# M. Abramowitz and I. Stegun, Handbook of Mathematical Functions, 7.1.26.
_P = 0.3275911
_A = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)

_DENSITY = 1 / math.sqrt(2 * math.pi)
_LOG_DENSITY = math.log(_DENSITY)
_BY_DENSITY = tuple(a / (2 * _DENSITY) for a in _A)
_SIGN = np.uint32(0x80000000)


def _again(x: "Tensor", *, approximate: str = "none") -> "Tensor":
    """Compute the same of other primitives."""
    if approximate == "tanh":
        bent = transcendental.tanh((x + x * x * x * CUBIC) * ROOT_2_BY_PI)
    else:
        bent = special.erf(x * ROOT_HALF)
    return elementwise.mul(x, bent * 0.5 + 0.5)


@primitive(
    sample=lambda rng: (
        (rng.normal(scale=2, size=(3, 8)),),
        {"approximate": str(rng.choice(["none", "tanh"]))},
    ),
    second=_again,
)
@in_float
def gelu(x: Any, *, approximate: str = "none") -> Ruled:
    """Return x * P(X <= x) of a normal X: exactly, or with approximate="tanh" by that function."""
    if approximate not in ("none", "tanh"):
        raise UsageError(f"gelu: expected approximate='none' or 'tanh'; found {approximate!r}")
    x = np.asarray(x) if isinstance(x, np.generic) else x
    loops = loops_for(x) if approximate == "none" else None
    if loops is not None:
        return _compiled(loops, x)
    exact = _exact_single if x.dtype == np.float32 else _exact
    block = _by_tanh if approximate == "tanh" else exact
    y, slope = _in_blocks(block, x, recording.enabled)
    return y, lambda g: (g * slope,)


def _compiled(loops: ModuleType, x: Any) -> Ruled:
    """Compute the value, and the slope when it is asked for: `x` is all that is kept."""
    y = np.empty_like(x)
    loops.gelu(x.reshape(-1), y.reshape(-1))

    def pullback(g: Any) -> tuple[Any, ...]:
        part = np.empty_like(x)
        loops.gelu_back(x.reshape(-1), np.ascontiguousarray(g).reshape(-1), part.reshape(-1))
        return (part,)

    return y, pullback


def _in_blocks(block: Callable[..., Any], x: Any, sloped: bool) -> tuple[Any, Any]:
    """Return value and slope (None unless `sloped`), computed by `block` into slices of them."""
    module = array_module(x)
    flat = x.reshape(-1)
    y = module.empty_like(flat)
    slope = module.empty_like(flat) if sloped else None
    size = BLOCK if module is np else max(flat.size, 1)
    for start in range(0, flat.size, size):
        part = slice(start, start + size)
        block(flat[part], y[part], None if slope is None else slope[part])
    return y.reshape(x.shape), None if slope is None else slope.reshape(x.shape)


def _exact(x: Any, y: Any, slope: Any) -> None:
    """Write value and slope through erf, for float64."""
    below = special.error_function(x * ROOT_HALF)
    below *= 0.5
    below += 0.5
    np.multiply(x, below, out=y)
    if slope is not None:
        density = np.exp(x * x * -0.5)
        density *= x
        density *= _DENSITY
        np.add(below, density, out=slope)


def _exact_single(x: Any, y: Any, slope: Any) -> None:
    """Write value and slope of float32, with one exponential for both."""
    a = np.abs(x)
    t = a * np.float32(_P * ROOT_HALF)
    t += 1
    np.reciprocal(t, out=t)
    density = x * x
    density *= np.float32(-0.5)
    density += np.float32(_LOG_DENSITY)
    np.exp(density, out=density)
    rest = t * np.float32(_BY_DENSITY[0])
    for coefficient in _BY_DENSITY[1:]:
        rest += np.float32(coefficient)
        rest *= t
    rest *= density  # the probability beyond |x|
    np.subtract(np.float32(0.5), rest, out=rest)  # that between 0 and |x|, which is not negative
    signed = x.view(np.uint32) & _SIGN
    signed |= rest.view(np.uint32)
    below = signed.view(np.float32)
    below += np.float32(0.5)
    np.multiply(x, below, out=y)
    if slope is not None:
        density *= x
        np.add(below, density, out=slope)


def _by_tanh(x: Any, y: Any, slope: Any) -> None:
    """Write value and slope of the approximation."""
    square = x * x
    t = square * (ROOT_2_BY_PI * CUBIC)
    t += ROOT_2_BY_PI
    t *= x
    np.tanh(t, out=t)
    half = x * 0.5
    np.multiply(half, t, out=y)
    y += half
    if slope is not None:
        square *= 3 * ROOT_2_BY_PI * CUBIC
        square += ROOT_2_BY_PI
        square *= half
        np.multiply(t, t, out=half)
        np.subtract(1, half, out=half)
        square *= half
        t *= 0.5
        t += 0.5
        np.add(square, t, out=slope)
