"""Layers and losses as functions, with PyTorch's names and arguments, a file per family."""

from holdfast.core.nn.functional.activation import *
from holdfast.core.nn.functional.attention import *
from holdfast.core.nn.functional.convolution import *
from holdfast.core.nn.functional.distance import *
from holdfast.core.nn.functional.dropout import *
from holdfast.core.nn.functional.embedding import *
from holdfast.core.nn.functional.interpolate import *
from holdfast.core.nn.functional.linear import *
from holdfast.core.nn.functional.loss import *
from holdfast.core.nn.functional.margin import *
from holdfast.core.nn.functional.normalization import *
from holdfast.core.nn.functional.padding import *
from holdfast.core.nn.functional.pooling import *
