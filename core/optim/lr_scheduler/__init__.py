"""Schedules: the groups' learning rates as functions of the number of `step()` calls."""

from holdfast.core.optim.lr_scheduler.compound import ChainedScheduler, SequentialLR
from holdfast.core.optim.lr_scheduler.curves import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from holdfast.core.optim.lr_scheduler.cycles import (
    CosineAnnealingWarmRestarts,
    CyclicLR,
    OneCycleLR,
)
from holdfast.core.optim.lr_scheduler.plateau import ReduceLROnPlateau
from holdfast.core.optim.lr_scheduler.scheduler import LRScheduler
from holdfast.core.optim.lr_scheduler.warmup import WarmupLR

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupLR",
]
