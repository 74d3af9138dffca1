"""Models out of parts: modules, layers, losses, and how weights begin; a file per family."""

from holdfast.core.nn import functional as functional
from holdfast.core.nn import init as init
from holdfast.core.nn.activation import *
from holdfast.core.nn.attention import *
from holdfast.core.nn.cells import *
from holdfast.core.nn.containers import *
from holdfast.core.nn.convolution import *
from holdfast.core.nn.dropout import *
from holdfast.core.nn.embedding import *
from holdfast.core.nn.linear import *
from holdfast.core.nn.losses import *
from holdfast.core.nn.module import Module as Module
from holdfast.core.nn.normalization import *
from holdfast.core.nn.padding import *
from holdfast.core.nn.parameters import *
from holdfast.core.nn.pooling import *
from holdfast.core.nn.position import *
from holdfast.core.nn.recurrent import *
from holdfast.core.nn.softmax import *
from holdfast.core.nn.transformer import *
from holdfast.core.nn.upsampling import *
from holdfast.core.parameter import Parameter as Parameter
