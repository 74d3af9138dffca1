"""How a tensor is brought to another dtype or device: PyTorch's methods."""

import builtins
from typing import TYPE_CHECKING, Any, cast

import ml_dtypes
import numpy as np

from holdfast.core.backend import is_floating, to_device
from holdfast.core.device import DEVICES, Device
from holdfast.core.ops import elementwise
from holdfast.core.primitive import wrap
from holdfast.core.variable import Variable

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class ConversionMethods(Variable):
    """Conversions; each returns the tensor itself where there is nothing to do."""

    __slots__ = ()

    def to(
        self,
        target: Any = None,
        dtype: Any = None,
        *,
        device: Any = None,
        copy: builtins.bool = False,
        non_blocking: builtins.bool = False,
    ) -> "Tensor":
        """Convert to a dtype, move to the device "cpu" or "cuda", or both.

        `target` is a dtype, a device, or a tensor whose dtype and device are taken. A move leaves
        the graph. With `copy` the result is a new tensor in any case. `non_blocking` is
        PyTorch's, and makes no difference.
        """
        if isinstance(target, Variable):
            device, dtype = target.device, target.dtype
        elif isinstance(target, str) and target.partition(":")[0] in DEVICES:
            device = target
        elif target is not None:
            dtype = target
        mine = cast("Tensor", self)
        result = mine
        if device is not None and (device := Device(device)) != self.device:
            result = wrap(to_device(self.array, device))
        if dtype is not None and np.dtype(dtype) != self.array.dtype:
            result = elementwise.cast(result, dtype=np.dtype(dtype))
            if not is_floating(result.dtype):
                result.node = None  # a gradient has no way back through integers
        return elementwise.clone(self) if copy and result is mine else result

    def type(self, dtype: Any = None) -> Any:
        """Convert to `dtype`; without one, return the name of the tensor's own."""
        return self.array.dtype.name if dtype is None else self.to(dtype)

    def type_as(self, other: "Tensor") -> "Tensor":
        """Convert to the dtype and device of `other`."""
        return self.to(other)

    def cpu(self) -> "Tensor":
        """Move to the host."""
        return self.to("cpu")

    def cuda(self) -> "Tensor":
        """Move to the GPU."""
        return self.to("cuda")

    def float(self) -> "Tensor":
        """Convert to float32."""
        return self.to(np.float32)

    def double(self) -> "Tensor":
        """Convert to float64."""
        return self.to(np.float64)

    def half(self) -> "Tensor":
        """Convert to float16."""
        return self.to(np.float16)

    def bfloat16(self) -> "Tensor":
        """Convert to bfloat16."""
        return self.to(ml_dtypes.bfloat16)

    def long(self) -> "Tensor":
        """Convert to int64."""
        return self.to(np.int64)

    def int(self) -> "Tensor":
        """Convert to int32."""
        return self.to(np.int32)

    def short(self) -> "Tensor":
        """Convert to int16."""
        return self.to(np.int16)

    def char(self) -> "Tensor":
        """Convert to int8."""
        return self.to(np.int8)

    def byte(self) -> "Tensor":
        """Convert to uint8."""
        return self.to(np.uint8)

    def bool(self) -> "Tensor":
        """Convert to booleans: what is not 0 is True."""
        return self.to(np.bool_)
