"""Modules as functions: the public face of `holdfast.core.nn.stateless`."""

from holdfast.core.nn.stateless import functional_call

__all__ = ["functional_call"]
