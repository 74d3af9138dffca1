"""What a tensor can be asked for by name, other than operators: PyTorch's methods.

Each passes its arguments on to a primitive of `ops/`; a file per kind.
"""

from holdfast.core.methods.elementwise import ElementwiseMethods
from holdfast.core.methods.fresh import FreshMethods
from holdfast.core.methods.indexing import IndexingMethods
from holdfast.core.methods.mathematics import MathematicalMethods
from holdfast.core.methods.ordering import OrderingMethods
from holdfast.core.methods.products import ProductMethods
from holdfast.core.methods.samples import SampleMethods
from holdfast.core.methods.storage import StorageMethods


class Methods(
    ElementwiseMethods,
    MathematicalMethods,
    SampleMethods,
    IndexingMethods,
    OrderingMethods,
    ProductMethods,
    FreshMethods,
    StorageMethods,
):
    """The methods of a tensor that make another one."""

    __slots__ = ()
