"""Jacobians and Hessians, whole or times a vector: the public face of `holdfast.core.jacobians`."""

from holdfast.core.jacobians import hessian, hvp, jacobian, jvp, vhp, vjp

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]
