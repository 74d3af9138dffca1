"""Inference plans: a model traced once into a list of steps, improved, and run without a graph.

Start reading at `program.py` (what a plan is), then `trace.py` (how one comes about), `passes.py`
(what is dropped, folded and fused) and `executor.py` (how it is run, with memory used again).
"""

from holdfast.core.plan.executor import Plan
from holdfast.core.plan.program import Program, Step
from holdfast.core.plan.trace import trace

__all__ = ["Plan", "Program", "Step", "trace"]
