"""Models out of parts: modules, layers, losses, and how weights begin."""

from holdfast.core.nn import functional, init
from holdfast.core.nn.layers import (
    AvgPool2d,
    Conv2d,
    Dropout,
    Flatten,
    Linear,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    Softmax,
    Tanh,
)
from holdfast.core.nn.losses import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from holdfast.core.nn.module import Module
from holdfast.core.parameter import Parameter

__all__ = [
    "AvgPool2d",
    "BCELoss",
    "BCEWithLogitsLoss",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "Linear",
    "MSELoss",
    "MaxPool2d",
    "Module",
    "Parameter",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Tanh",
    "functional",
    "init",
]
