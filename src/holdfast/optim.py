"""Optimizers and schedules: the public face of `holdfast.core.optim`."""

from holdfast.core.optim import SGD, Adam, AdamW, Optimizer, lr_scheduler

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
