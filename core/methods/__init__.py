"""What a tensor can be asked for by name, other than operators: PyTorch's methods.

Each passes its arguments on to a primitive of `ops/`; a file per kind.
"""

from holdfast.core.methods.elementwise import ElementwiseMethods
from holdfast.core.methods.fresh import FreshMethods
from holdfast.core.methods.indexing import IndexingMethods
from holdfast.core.methods.ordering import OrderingMethods
from holdfast.core.methods.products import ProductMethods
from holdfast.core.methods.reductions import ReductionMethods


class Methods(
    ElementwiseMethods,
    ReductionMethods,
    IndexingMethods,
    OrderingMethods,
    ProductMethods,
    FreshMethods,
):
    """The methods of a tensor that make another one."""

    __slots__ = ()
