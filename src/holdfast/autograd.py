"""Gradients as results: the public face of `holdfast.core.higher` and its neighbours."""

from holdfast.core.anomaly import detect_anomaly
from holdfast.core.gradcheck import check_gradients, check_second_gradients
from holdfast.core.higher import grad
from holdfast.core.recording import enable_grad, no_grad, set_grad_enabled

__all__ = [
    "check_gradients",
    "check_second_gradients",
    "detect_anomaly",
    "enable_grad",
    "grad",
    "no_grad",
    "set_grad_enabled",
]
