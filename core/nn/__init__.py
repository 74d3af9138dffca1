"""Models out of parts: modules, layers, losses, and how weights begin; a file per family."""

from holdfast.core.nn import functional as functional
from holdfast.core.nn import init as init
from holdfast.core.nn.activation import *
from holdfast.core.nn.containers import *
from holdfast.core.nn.convolution import *
from holdfast.core.nn.linear import *
from holdfast.core.nn.losses import *
from holdfast.core.nn.module import Module as Module
from holdfast.core.nn.pooling import *
from holdfast.core.parameter import Parameter as Parameter
