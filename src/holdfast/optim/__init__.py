"""Optimizers, schedules and averages: the public face of `holdfast.core.optim`."""

from holdfast.core.optim import (
    LAMB,
    LARS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    Yogi,
    lr_scheduler,
    swa_utils,
)

__all__ = [
    "LAMB",
    "LARS",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Yogi",
    "lr_scheduler",
    "swa_utils",
]
