"""The schedules, a file for each family, and how one is found by name."""

from holdfast.collectives.schedules.all_reduce import all_reduce

__all__ = ["all_reduce"]
