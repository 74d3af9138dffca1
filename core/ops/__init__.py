"""The primitives: each function of arrays beside its gradient, one file per kind."""

from holdfast.core.ops import activation, conv, elementwise, linear, loss, pool, reduce, shape

__all__ = ["activation", "conv", "elementwise", "linear", "loss", "pool", "reduce", "shape"]
