"""What a tensor can be asked for element by element beyond arithmetic: PyTorch's methods."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.methods.conversions import ConversionMethods
from holdfast.core.methods.named import of_one, of_two
from holdfast.core.ops import elementwise, gamma, pair, special
from holdfast.core.ops.ask import ask
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class MathematicalMethods(ConversionMethods):
    """Special functions, signs, and operations on the bits of integers."""

    __slots__ = ()

    # -- functions ----------------------------------------------------------------------------

    lgamma, sinc = of_one(gamma.lgamma), of_one(special.sinc)
    logaddexp, logaddexp2 = of_two(pair.logaddexp), of_two(pair.logaddexp2)
    hypot, xlogy, copysign = of_two(pair.hypot), of_two(pair.xlogy), of_two(pair.copysign)

    def digamma(self) -> "Tensor":
        """Return the derivative of the logarithm of the gamma function."""
        return gamma.polygamma(self, n=0)

    def polygamma(self, n: int) -> "Tensor":
        """Return the `n`-th derivative of `digamma`."""
        if n < 0:
            raise UsageError(f"polygamma: an order that is not negative is expected; found {n}")
        return gamma.polygamma(self, n=n)

    def float_power(self, exponent: Any) -> "Tensor":
        """Return self to the power `exponent`, computed in float64."""
        wide = exponent.to(np.float64) if hasattr(exponent, "to") else float(exponent)
        return elementwise.power(self.to(np.float64), wide)

    def deg2rad(self) -> "Tensor":
        """Convert degrees to radians."""
        return elementwise.mul(self, math.pi / 180)

    def rad2deg(self) -> "Tensor":
        """Convert radians to degrees."""
        return elementwise.mul(self, 180 / math.pi)

    # -- choices and signs --------------------------------------------------------------------

    def fmax(self, other: Any) -> "Tensor":
        """Return the larger of two, or that which is not NaN; the first where they are equal."""
        mine = ask(self, other, question="greater_equal") | ask(other, question="isnan")
        return elementwise.where(mine, self, other)

    def fmin(self, other: Any) -> "Tensor":
        """Return the smaller of two, or that which is not NaN; the first where they are equal."""
        mine = ask(self, other, question="less_equal") | ask(other, question="isnan")
        return elementwise.where(mine, self, other)

    def signbit(self) -> "Tensor":
        """Return where the sign is minus, that of -0.0 included."""
        return ask(self, question="signbit")

    def heaviside(self, values: Any) -> "Tensor":
        """Return 0 where self is below 0, 1 where it is above, and `values` where it is 0."""
        return ask(self, values, question="heaviside")

    def positive(self) -> "Tensor":
        """Return the tensor itself. Raises UsageError for booleans."""
        if self.array.dtype == bool:
            raise UsageError("positive: expected numbers; found booleans")
        return self.to()

    # -- bits and divisors --------------------------------------------------------------------

    def bitwise_and(self, other: Any) -> "Tensor":
        """Return the bits that both have."""
        return ask(self, other, question="bitwise_and")

    def bitwise_or(self, other: Any) -> "Tensor":
        """Return the bits that at least one has."""
        return ask(self, other, question="bitwise_or")

    def bitwise_xor(self, other: Any) -> "Tensor":
        """Return the bits that exactly one has."""
        return ask(self, other, question="bitwise_xor")

    def bitwise_not(self) -> "Tensor":
        """Return the bits that it has not."""
        return ask(self, question="invert")

    def bitwise_left_shift(self, other: Any) -> "Tensor":
        """Shift the bits of integers to the left: multiply by 2 to the power `other`."""
        return ask(self, other, question="left_shift")

    def bitwise_right_shift(self, other: Any) -> "Tensor":
        """Shift the bits of integers to the right: divide by 2 to the power `other`, downwards."""
        return ask(self, other, question="right_shift")

    def gcd(self, other: Any) -> "Tensor":
        """Return the greatest common divisors of integers."""
        return ask(self, other, question="gcd")

    def lcm(self, other: Any) -> "Tensor":
        """Return the least common multiples of integers."""
        return ask(self, other, question="lcm")
