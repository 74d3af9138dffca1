"""What PyTorch has at its top level of this: functions of elements, comparisons, reductions.

A function is the tensor's method, with the tensor as its first argument.
"""

from typing import Any

from holdfast.core.methods.reductions import std_mean, var_mean
from holdfast.core.ops import elementwise
from holdfast.core.ops.elementwise import where
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
    "ceil",
    "clamp",
    "clamp_max",
    "clamp_min",
    "clip",
    "cos",
    "cosh",
    "count_nonzero",
    "cumprod",
    "cumsum",
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
    "floor",
    "floor_divide",
    "fmod",
    "frac",
    "ge",
    "greater",
    "greater_equal",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "le",
    "lerp",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
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
    "mul",
    "multiply",
    "nan_to_num",
    "nanmean",
    "nansum",
    "ne",
    "neg",
    "negative",
    "norm",
    "not_equal",
    "pow",
    "prod",
    "reciprocal",
    "relu",
    "remainder",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
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
]  # fmt: skip

add, sub, mul, div = Tensor.add, Tensor.sub, Tensor.mul, Tensor.div
subtract, multiply, divide = Tensor.subtract, Tensor.multiply, Tensor.divide
true_divide, floor_divide = Tensor.true_divide, Tensor.floor_divide
remainder, fmod = Tensor.remainder, Tensor.fmod
addcmul, addcdiv, lerp = Tensor.addcmul, Tensor.addcdiv, Tensor.lerp
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
erf, erfc, erfinv, logit = Tensor.erf, Tensor.erfc, Tensor.erfinv, Tensor.logit
relu, sigmoid = Tensor.relu, Tensor.sigmoid
softmax, log_softmax = Tensor.softmax, Tensor.log_softmax

floor, ceil, round, trunc = Tensor.floor, Tensor.ceil, Tensor.round, Tensor.trunc
fix, frac, nan_to_num = Tensor.fix, Tensor.frac, Tensor.nan_to_num
clamp, clip = Tensor.clamp, Tensor.clip
clamp_min, clamp_max, masked_fill = Tensor.clamp_min, Tensor.clamp_max, Tensor.masked_fill

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
var, std, norm, dist = Tensor.var, Tensor.std, Tensor.norm, Tensor.dist
amax, amin, aminmax = Tensor.amax, Tensor.amin, Tensor.aminmax
max, min, median = Tensor.max, Tensor.min, Tensor.median
argmax, argmin = Tensor.argmax, Tensor.argmin
all, any, count_nonzero = Tensor.all, Tensor.any, Tensor.count_nonzero


def pow(self: Any, exponent: Any) -> Tensor:
    """Return `self` to the power `exponent`: tensors, or a number and a tensor."""
    return elementwise.power(self, exponent)
