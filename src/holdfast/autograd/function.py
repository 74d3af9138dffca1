"""Operations of one's own: the public face of `holdfast.core.function`."""

from holdfast.core.function import Function, FunctionCtx, once_differentiable

__all__ = ["Function", "FunctionCtx", "once_differentiable"]
