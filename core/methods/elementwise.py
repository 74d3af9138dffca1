"""What a tensor can be asked for element by element: PyTorch's methods."""

from typing import TYPE_CHECKING, Any

from holdfast.core.methods.conversions import ConversionMethods
from holdfast.core.methods.named import of_one, of_two
from holdfast.core.ops import (
    activation,
    comparison,
    elementwise,
    linear,
    rounding,
    softmax,
    special,
    transcendental,
)
from holdfast.core.variable import raw
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class ElementwiseMethods(ConversionMethods):
    """Arithmetic, comparison, and functions of each element.

    An operation that has no options is a method but for the names of its arguments.
    """

    __slots__ = ()

    # -- arithmetic ---------------------------------------------------------------------------
    # What is called often is PyTorch's function as it stands, whose first argument is `input`.

    def add(input, other: Any, *, alpha: float = 1) -> "Tensor":
        """Return input + alpha * other."""
        return elementwise.add(input, other if alpha == 1 else other * alpha)

    def sub(input, other: Any, *, alpha: float = 1) -> "Tensor":
        """Return input - alpha * other."""
        return elementwise.sub(input, other if alpha == 1 else other * alpha)

    mul = multiply = of_two(elementwise.mul)

    def div(input, other: Any, *, rounding_mode: str | None = None) -> "Tensor":
        """Divide; `rounding_mode` is None, "trunc" (towards 0) or "floor"."""
        if rounding_mode is None:
            return elementwise.div(input, other)
        if rounding_mode == "floor":
            return rounding.floor_divide(input, other)
        if rounding_mode == "trunc":
            return rounding.trunc_divide(input, other)
        raise UsageError(
            f"div: expected rounding_mode None, 'trunc' or 'floor'; found {rounding_mode!r}"
        )

    def addcmul(self, tensor1: Any, tensor2: Any, *, value: float = 1) -> "Tensor":
        """Return self + value * tensor1 * tensor2."""
        return self.add(elementwise.mul(tensor1, tensor2), alpha=value)

    def addcdiv(self, tensor1: Any, tensor2: Any, *, value: float = 1) -> "Tensor":
        """Return self + value * tensor1 / tensor2."""
        return self.add(elementwise.div(tensor1, tensor2), alpha=value)

    subtract, divide, true_divide = sub, div, of_two(elementwise.div)
    square, sqrt = of_one(elementwise.square), of_one(elementwise.sqrt)
    rsqrt = of_one(elementwise.rsqrt)
    neg = negative = of_one(elementwise.neg)
    abs = absolute = of_one(elementwise.absolute)
    reciprocal = of_one(elementwise.reciprocal)
    floor_divide = of_two(rounding.floor_divide)
    remainder, fmod = of_two(rounding.remainder), of_two(rounding.fmod)
    maximum, minimum = of_two(elementwise.maximum), of_two(elementwise.minimum)
    matmul = of_two(linear.matmul)

    def pow(self, exponent: Any) -> "Tensor":
        """Return self to the power `exponent`."""
        return elementwise.power(self, exponent)

    def lerp(self, end: Any, weight: Any) -> "Tensor":
        """Go from self to `end` by the fraction `weight`."""
        return elementwise.lerp(self, end, weight)

    # -- functions ----------------------------------------------------------------------------

    exp, exp2 = of_one(transcendental.exp), of_one(transcendental.exp2)
    expm1, log1p = of_one(transcendental.expm1), of_one(transcendental.log1p)
    log, log2 = of_one(transcendental.log), of_one(transcendental.log2)
    log10 = of_one(transcendental.log10)
    sin, cos = of_one(transcendental.sin), of_one(transcendental.cos)
    tan = of_one(transcendental.tan)
    asin = arcsin = of_one(transcendental.arcsin)
    acos = arccos = of_one(transcendental.arccos)
    atan = arctan = of_one(transcendental.arctan)
    atan2 = arctan2 = of_two(transcendental.arctan2)
    sinh, cosh = of_one(transcendental.sinh), of_one(transcendental.cosh)
    tanh = of_one(transcendental.tanh)
    asinh = arcsinh = of_one(transcendental.arcsinh)
    acosh = arccosh = of_one(transcendental.arccosh)
    atanh = arctanh = of_one(transcendental.arctanh)
    erf, erfc, erfinv = of_one(special.erf), of_one(special.erfc), of_one(special.erfinv)
    relu, sigmoid = of_one(activation.relu), of_one(activation.sigmoid)

    def logit(self, eps: float | None = None) -> "Tensor":
        """Return log(x / (1 - x)), of `x` limited to [eps, 1 - eps] if `eps` is given."""
        return special.logit(self, eps=eps)

    def softmax(self, dim: int, dtype: Any = None) -> "Tensor":
        """Return the exponentials along `dim`, scaled to sum to 1, in `dtype` if given."""
        return softmax.softmax(self if dtype is None else self.to(dtype), dim=dim)

    def log_softmax(self, dim: int, dtype: Any = None) -> "Tensor":
        """Return the logarithms of the softmax along `dim`, in `dtype` if given."""
        return softmax.log_softmax(self if dtype is None else self.to(dtype), dim=dim)

    # -- rounding and selection ---------------------------------------------------------------

    sign = sgn = of_one(rounding.sign)
    floor, ceil = of_one(rounding.floor), of_one(rounding.ceil)
    trunc = fix = of_one(rounding.trunc)
    frac = of_one(rounding.frac)

    def round(self, *, decimals: int = 0) -> "Tensor":
        """Round to the nearest with so many decimals; halves go to the even neighbour."""
        return rounding.round(self, decimals=decimals)

    def nan_to_num(
        self, nan: float | None = None, posinf: float | None = None, neginf: float | None = None
    ) -> "Tensor":
        """Put numbers in the place of NaN and infinities, by default 0 and the largest floats."""
        return rounding.nan_to_num(
            self, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf
        )

    def clamp(self, min: Any = None, max: Any = None) -> "Tensor":
        """Limit to `min` and `max`: numbers, tensors, or None."""
        return elementwise.clamp(self, min, max)

    clip = clamp

    def clamp_min(self, min: Any) -> "Tensor":
        """Limit to at least `min`."""
        return elementwise.clamp(self, min, None)

    def clamp_max(self, max: Any) -> "Tensor":
        """Limit to at most `max`."""
        return elementwise.clamp(self, None, max)

    def where(self, condition: Any, other: Any) -> "Tensor":
        """Keep the elements where `condition` holds, and take those of `other` elsewhere."""
        return elementwise.where(condition, self, other)

    def masked_fill(self, mask: Any, value: Any) -> "Tensor":
        """Put `value`, a number or a tensor without axes, where the boolean `mask` holds.

        `mask` broadcasts to the tensor. Raises UsageError for other masks and values.
        """
        mask = raw(mask)
        if mask.dtype != bool:
            raise UsageError(f"masked_fill: expected a mask of booleans; found {mask.dtype}")
        if getattr(value, "ndim", 0):
            raise UsageError(
                f"masked_fill: expected a value without axes; found shape {value.shape}: "
                "use where()"
            )
        return elementwise.where(mask, value, self)

    # -- comparison ---------------------------------------------------------------------------

    eq, ne, lt = comparison.eq, comparison.ne, comparison.lt
    le, gt, ge = comparison.le, comparison.gt, comparison.ge
    not_equal, less, less_equal = ne, lt, le
    greater, greater_equal = gt, ge
    isnan, isinf, isfinite = comparison.isnan, comparison.isinf, comparison.isfinite
    isclose, allclose, equal = comparison.isclose, comparison.allclose, comparison.equal
    logical_and, logical_or = comparison.logical_and, comparison.logical_or
    logical_not, logical_xor = comparison.logical_not, comparison.logical_xor
