"""Optimizers over the arena, schedules of their rates, and averages of the weights."""

from holdfast.core.optim import lr_scheduler, swa_utils
from holdfast.core.optim.adadelta import Adadelta
from holdfast.core.optim.adagrad import Adagrad
from holdfast.core.optim.adam import Adam, AdamW
from holdfast.core.optim.adamax import Adamax
from holdfast.core.optim.lamb import LAMB
from holdfast.core.optim.lars import LARS
from holdfast.core.optim.lion import Lion
from holdfast.core.optim.nadam import NAdam
from holdfast.core.optim.optimizer import Optimizer
from holdfast.core.optim.radam import RAdam
from holdfast.core.optim.rmsprop import RMSprop
from holdfast.core.optim.sgd import SGD
from holdfast.core.optim.yogi import Yogi

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
