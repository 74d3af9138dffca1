"""Models out of parts: the public face of `holdfast.core.nn`."""

from holdfast.core.nn import *
from holdfast.nn import utils as utils
