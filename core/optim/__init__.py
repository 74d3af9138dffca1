"""Optimizers over the arena, and schedules of their learning rate."""

from holdfast.core.optim import lr_scheduler
from holdfast.core.optim.adam import Adam, AdamW
from holdfast.core.optim.optimizer import Optimizer
from holdfast.core.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
