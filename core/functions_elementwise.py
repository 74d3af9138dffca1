"""What PyTorch has at its top level of this: functions of elements, comparisons, reductions.

A function is the tensor's method, with the tensor as its first argument, which is called `input`.
"""

from typing import Any

from holdfast.core.creation import as_tensor
from holdfast.core.methods.named import function
from holdfast.core.methods.reductions import std_mean, var_mean
from holdfast.core.ops import elementwise
from holdfast.core.ops.ask import ask
from holdfast.core.tensor import Tensor

__all__ = [
    "abs",
    "absolute",
    "acos",
    "acosh",
    "add",
    "addcdiv",
    "addcmul",
    "all",
    "allclose",
    "amax",
    "amin",
    "aminmax",
    "any",
    "arccos",
    "arccosh",
    "arcsin",
    "arcsinh",
    "arctan",
    "arctan2",
    "arctanh",
    "argmax",
    "argmin",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_not",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "copysign",
    "corrcoef",
    "cos",
    "cosh",
    "count_nonzero",
    "cov",
    "cummax",
    "cummin",
    "cumprod",
    "cumsum",
    "deg2rad",
    "diff",
    "digamma",
    "dist",
    "div",
    "divide",
    "eq",
    "equal",
    "erf",
    "erfc",
    "erfinv",
    "exp",
    "exp2",
    "expm1",
    "fix",
    "float_power",
    "floor",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "frac",
    "gcd",
    "ge",
    "greater",
    "greater_equal",
    "gt",
    "heaviside",
    "histc",
    "hypot",
    "isclose",
    "isfinite",
    "isin",
    "isinf",
    "isnan",
    "lcm",
    "le",
    "lerp",
    "less",
    "less_equal",
    "lgamma",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
    "logaddexp",
    "logaddexp2",
    "logcumsumexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logit",
    "logsumexp",
    "lt",
    "masked_fill",
    "max",
    "maximum",
    "mean",
    "median",
    "min",
    "minimum",
    "mode",
    "mul",
    "multiply",
    "nan_to_num",
    "nanmean",
    "nanmedian",
    "nanquantile",
    "nansum",
    "ne",
    "neg",
    "negative",
    "norm",
    "not_equal",
    "polygamma",
    "positive",
    "pow",
    "prod",
    "quantile",
    "rad2deg",
    "reciprocal",
    "relu",
    "remainder",
    "round",
    "rsqrt",
    "rsub",
    "sgn",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinc",
    "sinh",
    "softmax",
    "sqrt",
    "square",
    "std",
    "std_mean",
    "sub",
    "subtract",
    "sum",
    "tan",
    "tanh",
    "true_divide",
    "trunc",
    "var",
    "var_mean",
    "where",
    "xlogy",
]  # fmt: skip

add, sub, mul, div = Tensor.add, Tensor.sub, Tensor.mul, Tensor.div
subtract, multiply, divide = Tensor.subtract, Tensor.multiply, Tensor.divide
true_divide, floor_divide = Tensor.true_divide, Tensor.floor_divide
remainder, fmod = Tensor.remainder, Tensor.fmod
addcmul, addcdiv, lerp = function(Tensor.addcmul), function(Tensor.addcdiv), function(Tensor.lerp)
neg, negative, reciprocal = Tensor.neg, Tensor.negative, Tensor.reciprocal
square, sqrt, rsqrt = Tensor.square, Tensor.sqrt, Tensor.rsqrt
abs, absolute, sign = Tensor.abs, Tensor.absolute, Tensor.sign
maximum, minimum = Tensor.maximum, Tensor.minimum

exp, exp2, expm1 = Tensor.exp, Tensor.exp2, Tensor.expm1
log, log2, log10, log1p = Tensor.log, Tensor.log2, Tensor.log10, Tensor.log1p
sin, cos, tan = Tensor.sin, Tensor.cos, Tensor.tan
asin, acos, atan, atan2 = Tensor.asin, Tensor.acos, Tensor.atan, Tensor.atan2
arcsin, arccos, arctan, arctan2 = Tensor.arcsin, Tensor.arccos, Tensor.arctan, Tensor.arctan2
sinh, cosh, tanh = Tensor.sinh, Tensor.cosh, Tensor.tanh
asinh, acosh, atanh = Tensor.asinh, Tensor.acosh, Tensor.atanh
arcsinh, arccosh, arctanh = Tensor.arcsinh, Tensor.arccosh, Tensor.arctanh
erf, erfc, erfinv, logit = Tensor.erf, Tensor.erfc, Tensor.erfinv, function(Tensor.logit)
relu, sigmoid = Tensor.relu, Tensor.sigmoid
softmax, log_softmax = function(Tensor.softmax), function(Tensor.log_softmax)

floor, ceil, round, trunc = Tensor.floor, Tensor.ceil, function(Tensor.round), Tensor.trunc
fix, frac, nan_to_num = Tensor.fix, Tensor.frac, function(Tensor.nan_to_num)
clamp, clip = function(Tensor.clamp), function(Tensor.clip)
clamp_min, clamp_max, masked_fill = (
    function(Tensor.clamp_min),
    function(Tensor.clamp_max),
    function(Tensor.masked_fill),
)

eq, ne, lt, le, gt, ge = Tensor.eq, Tensor.ne, Tensor.lt, Tensor.le, Tensor.gt, Tensor.ge
not_equal, less, less_equal = Tensor.not_equal, Tensor.less, Tensor.less_equal
greater, greater_equal = Tensor.greater, Tensor.greater_equal
isnan, isinf, isfinite = Tensor.isnan, Tensor.isinf, Tensor.isfinite
isclose, allclose, equal = Tensor.isclose, Tensor.allclose, Tensor.equal
logical_and, logical_or = Tensor.logical_and, Tensor.logical_or
logical_xor, logical_not = Tensor.logical_xor, Tensor.logical_not

sum, nansum, mean, nanmean = Tensor.sum, Tensor.nansum, Tensor.mean, Tensor.nanmean
prod, logsumexp = Tensor.prod, Tensor.logsumexp
cumsum, cumprod, logcumsumexp = Tensor.cumsum, Tensor.cumprod, Tensor.logcumsumexp
var, std, norm, dist = Tensor.var, Tensor.std, Tensor.norm, function(Tensor.dist)
amax, amin, aminmax = Tensor.amax, Tensor.amin, Tensor.aminmax
max, min, median = Tensor.max, Tensor.min, Tensor.median
argmax, argmin = Tensor.argmax, Tensor.argmin
all, any, count_nonzero = Tensor.all, Tensor.any, Tensor.count_nonzero

lgamma, sinc, sgn = Tensor.lgamma, Tensor.sinc, Tensor.sgn
logaddexp, logaddexp2 = Tensor.logaddexp, Tensor.logaddexp2
hypot, xlogy, copysign = Tensor.hypot, Tensor.xlogy, Tensor.copysign
digamma = function(Tensor.digamma)
deg2rad, rad2deg = function(Tensor.deg2rad), function(Tensor.rad2deg)
float_power, positive = function(Tensor.float_power), function(Tensor.positive)
fmax, fmin = function(Tensor.fmax), function(Tensor.fmin)
signbit, heaviside = function(Tensor.signbit), function(Tensor.heaviside)
bitwise_and, bitwise_or = function(Tensor.bitwise_and), function(Tensor.bitwise_or)
bitwise_xor, bitwise_not = function(Tensor.bitwise_xor), function(Tensor.bitwise_not)
bitwise_left_shift = function(Tensor.bitwise_left_shift)
bitwise_right_shift = function(Tensor.bitwise_right_shift)
gcd, lcm = function(Tensor.gcd), function(Tensor.lcm)

cummax, cummin, nanmedian, mode = Tensor.cummax, Tensor.cummin, Tensor.nanmedian, Tensor.mode
quantile, nanquantile, diff = Tensor.quantile, Tensor.nanquantile, Tensor.diff
histc, cov, corrcoef = function(Tensor.histc), function(Tensor.cov), function(Tensor.corrcoef)


def pow(input: Any, exponent: Any) -> Tensor:
    """Return `input` to the power `exponent`: tensors, or a number and a tensor."""
    return elementwise.power(input, exponent)


def polygamma(n: int, input: Tensor) -> Tensor:
    """Return the `n`-th derivative of `digamma`."""
    return input.polygamma(n)


def rsub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """Return other - alpha * input."""
    return elementwise.sub(other, input if alpha == 1 else input * alpha)


def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """Take `input` where `condition` holds, else `other`.

    With a condition alone, return a tuple of the places where it holds, a tensor for each axis.
    """
    if input is None and other is None:
        return condition.nonzero(as_tuple=True)
    return elementwise.where(condition, input, other)


def isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Tensor:
    """Return which of `elements` are among `test_elements`, or which are not if `invert`.

    Either may be a number. `assume_unique` is PyTorch's, and makes no difference.
    """
    given, sought = (a if hasattr(a, "dtype") else as_tensor(a) for a in (elements, test_elements))
    return ask(given, sought, question="within", invert=invert)
