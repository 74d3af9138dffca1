"""A network that exists in a virtual clock; start at `engine.py`."""

from holdfast.fabric.simulated.engine import (
    RankRun,
    SimulatedEngine,
    SimulatedRun,
    contribution,
    simulate_all_reduce,
)

__all__ = ["RankRun", "SimulatedEngine", "SimulatedRun", "contribution", "simulate_all_reduce"]
