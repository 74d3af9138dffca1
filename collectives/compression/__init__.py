"""Fewer bytes on the wire, for some of the bits; start at `compressor.py`."""

from holdfast.collectives.compression.by_name import compression, compressions, register

__all__ = ["compression", "compressions", "register"]
