"""Gradients as results: the public face of `holdfast.core.higher` and its neighbours."""

from holdfast.autograd import function, functional
from holdfast.core.anomaly import detect_anomaly
from holdfast.core.function import Function
from holdfast.core.gradcheck import (
    check_gradients,
    check_second_gradients,
    gradcheck,
    gradgradcheck,
)
from holdfast.core.higher import backward, grad
from holdfast.core.recording import enable_grad, no_grad, set_grad_enabled

__all__ = [
    "Function",
    "backward",
    "check_gradients",
    "check_second_gradients",
    "detect_anomaly",
    "enable_grad",
    "function",
    "functional",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "no_grad",
    "set_grad_enabled",
]
