"""How a tensor is multiplied by others as a matrix: PyTorch's methods."""

from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.errors import shape_error
from holdfast.core.methods.shapes import ShapeMethods, axis
from holdfast.core.ops import elementwise, linear, reduce
from holdfast.core.ops.shape import broadcast, reshape
from holdfast.core.variable import raw

if TYPE_CHECKING:
    from holdfast.core.tensor import Tensor


class ProductMethods(ShapeMethods):
    """Products of matrices and vectors."""

    __slots__ = ()

    def matmul(self, other: Any) -> "Tensor":
        """Multiply matrices; batches broadcast."""
        return linear.matmul(self, other)

    def mm(self, mat2: "Tensor") -> "Tensor":
        """Multiply two matrices."""
        return _product("mm", self, 2, mat2, 2)

    def bmm(self, mat2: "Tensor") -> "Tensor":
        """Multiply matrices (batch, n, k) and (batch, k, m)."""
        if self.array.ndim == 3 and raw(mat2).shape[:1] != self.array.shape[:1]:
            raise shape_error("bmm", "batches of equal size", input=self.shape, mat2=mat2.shape)
        return _product("bmm", self, 3, mat2, 3)

    def mv(self, vec: "Tensor") -> "Tensor":
        """Multiply a matrix and a vector."""
        return _product("mv", self, 2, vec, 1)

    def dot(self, tensor: "Tensor") -> "Tensor":
        """Return the inner product of two vectors."""
        return _product("dot", self, 1, tensor, 1)

    vdot = dot  # which differs for complex numbers only

    def kron(self, other: Any) -> "Tensor":
        """Return Kronecker's product: each element of self times all of `other`, in its place."""
        ndim = max(self.array.ndim, raw(other).ndim)
        left = (1,) * (ndim - self.array.ndim) + self.array.shape
        right = (1,) * (ndim - raw(other).ndim) + raw(other).shape
        apart = self.reshape([n for size in left for n in (size, 1)])
        beside = reshape(other, shape=tuple(n for size in right for n in (1, size)))
        return elementwise.mul(apart, beside).reshape(
            [a * b for a, b in zip(left, right, strict=True)]
        )

    def cross(self, other: Any, dim: int | None = None) -> "Tensor":
        """Return the vector products along `dim`, by default the first axis of 3 elements; the
        other axes broadcast."""
        common = np.broadcast_shapes(self.array.shape, raw(other).shape)
        given = common.index(3) if dim is None and 3 in common else -1 if dim is None else dim
        at = axis(given, len(common))
        if common[at] != 3:
            raise shape_error(
                "cross", f"3 elements along {dim=}", input=self.shape, other=raw(other).shape
            )
        left, right = self.expand(common), broadcast(other, shape=common)
        (a, b), (c, d) = ((part.roll(-1, at), part.roll(-2, at)) for part in (left, right))
        return elementwise.sub(elementwise.mul(a, d), elementwise.mul(b, c))

    def outer(self, vec2: "Tensor") -> "Tensor":
        """Return the products of every element of one vector with every one of another."""
        if self.array.ndim != 1 or raw(vec2).ndim != 1:
            raise shape_error("outer", "two vectors", input=self.shape, vec2=raw(vec2).shape)
        return elementwise.mul(self.reshape(-1, 1), vec2)

    ger = outer

    def inner(self, other: "Tensor") -> "Tensor":
        """Return the sums of products over the last axis of both."""
        if not self.array.ndim or not raw(other).ndim:
            return elementwise.mul(self, other)
        if self.array.shape[-1] != raw(other).shape[-1]:
            raise shape_error(
                "inner", "last axes of equal size", input=self.shape, other=raw(other).shape
            )
        rows, columns = self.array.shape[:-1], other.shape[:-1]
        size = self.array.shape[-1]
        flat = linear.matmul(self.reshape(-1, size), other.reshape(-1, size).T)
        return flat.reshape(*rows, *columns)

    def addmm(self, mat1: Any, mat2: Any, *, beta: float = 1, alpha: float = 1) -> "Tensor":
        """Return `beta * self + alpha * (mat1 @ mat2)` of matrices."""
        return _sum(self, beta, _product("addmm", mat1, 2, mat2, 2), alpha)

    def addmv(self, mat: Any, vec: Any, *, beta: float = 1, alpha: float = 1) -> "Tensor":
        """Return `beta * self + alpha * (mat @ vec)` of a matrix and a vector."""
        return _sum(self, beta, _product("addmv", mat, 2, vec, 1), alpha)

    def addr(self, vec1: "Tensor", vec2: Any, *, beta: float = 1, alpha: float = 1) -> "Tensor":
        """Return `beta * self + alpha * outer(vec1, vec2)`."""
        return _sum(self, beta, vec1.outer(vec2), alpha)

    def baddbmm(self, batch1: Any, batch2: Any, *, beta: float = 1, alpha: float = 1) -> "Tensor":
        """Return `beta * self + alpha * (batch1 @ batch2)` of batches of matrices."""
        return _sum(self, beta, _product("baddbmm", batch1, 3, batch2, 3), alpha)

    def trace(self) -> "Tensor":
        """Return the sum of a matrix' diagonal."""
        if self.array.ndim != 2:
            raise shape_error("trace", "a matrix", input=self.shape)
        return reduce.sum(self.diagonal())


def _product(name: str, left: Any, left_axes: int, right: Any, right_axes: int) -> "Tensor":
    """Multiply operands that have so many axes."""
    if raw(left).ndim != left_axes or raw(right).ndim != right_axes:
        raise shape_error(
            name,
            f"operands of {left_axes} and {right_axes} axes",
            left=raw(left).shape,
            right=raw(right).shape,
        )
    return linear.matmul(left, right)


def _sum(first: Any, beta: float, second: "Tensor", alpha: float) -> "Tensor":
    """Return `beta * first + alpha * second`; a beta of 0 hides even NaN in `first`."""
    scaled = second if alpha == 1 else elementwise.mul(second, alpha)
    if beta == 0:
        return scaled
    return elementwise.add(first if beta == 1 else elementwise.mul(first, beta), scaled)
