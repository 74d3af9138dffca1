"""Sequences of different lengths in a batch: the public face of `holdfast.core.nn.packed`."""

from holdfast.core.nn.packed import *
