"""What a tensor can be asked for by name, other than operators: PyTorch's methods.

Each passes its arguments on to a primitive of `ops/`; a file per kind.
"""

from holdfast.core.methods.elementwise import ElementwiseMethods
from holdfast.core.methods.reductions import ReductionMethods


class Methods(ElementwiseMethods, ReductionMethods):
    """The methods of a tensor that make another one."""

    __slots__ = ()
