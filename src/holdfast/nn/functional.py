"""Layers and losses as functions: the public face of `holdfast.core.nn.functional`."""

from holdfast.core.nn.functional import *
