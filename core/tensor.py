"""A tensor: an array, how it came about, and what can be done with it.

Names, defaults and meaning are PyTorch's; the work is done by the primitives of `ops/`.
"""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import holdfast.core.higher as higher  # as a module: it needs this one to be complete
from holdfast.core import dispatch
from holdfast.core.backend import array_module
from holdfast.core.backward import KEEP, Leaf, Node, backward
from holdfast.core.changes import mark, next_sequence
from holdfast.core.errors import shape_error
from holdfast.core.hooks import RemovableHandle
from holdfast.core.inplace import InPlaceMethods
from holdfast.core.methods import Methods
from holdfast.core.ops import comparison, elementwise, index, linear, rounding
from holdfast.core.ops.ask import ask
from holdfast.core.primitive import wrap
from holdfast.core.recording import recording
from holdfast.core.variable import Variable, raw
from holdfast.errors import GradientError


class Tensor(Methods, InPlaceMethods):
    """An array with PyTorch's operators and methods; make one with `holdfast.core.tensor`.

    What changes it in place is in `inplace.py`; NumPy's functions take it too: `dispatch.py`.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        """Take an array as it is; numbers in lists become float32, as torch.Tensor has them."""
        array = np.array(data, np.float32) if isinstance(data, (list, tuple)) else data
        super().__init__(array, requires_grad)

    # -- gradient and data --------------------------------------------------------------------

    @property
    def grad(self) -> "Tensor | None":
        """The gradient that backward left here, sharing its memory; None if there is none."""
        leaf = self.node
        if isinstance(leaf, Node):
            return leaf.kept  # type: ignore[no-any-return]
        if leaf is None or not leaf.filled:
            return None
        if leaf.traced is not None:
            return leaf.traced  # type: ignore[no-any-return]
        return wrap(leaf.gradient if leaf.shown is None else leaf.shown)

    @grad.setter
    def grad(self, value: "Tensor | None") -> None:
        leaf = self.node
        if not isinstance(leaf, Leaf):
            raise GradientError("only a leaf that requires a gradient has one to set")
        if value is None:
            leaf.clear()
            return
        if value.shape != leaf.shape:
            raise shape_error("grad", "the tensor's own shape", tensor=self.shape, grad=value.shape)
        if leaf.filled and leaf.shown is not None:
            leaf.shown[...] = value.array
        else:
            leaf.clear()
            leaf.receive(value.array.astype(leaf.dtype, copy=False))

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False
    ) -> None:
        """Compute the gradient of every leaf that this tensor depends on, and free the graph.

        `gradient` is the cotangent of this tensor, of its shape; it may be left out for a single
        element (then it is 1), where it may also be a Python number. Gradients add up until
        `zero_grad`. Raises GradientError where there is nothing to go back through.
        """
        node, array = self.node, self.array
        if node is None:
            raise GradientError(
                "backward() of a tensor that requires no gradient: no input of it has "
                "requires_grad=True, or it was computed under no_grad()"
            )
        if gradient is None or isinstance(gradient, (int, float)):
            if array.size != 1:
                raise GradientError(
                    f"backward() without a gradient needs a single element, this tensor has "
                    f"shape {self.shape}: reduce it, say with sum(), or give the gradient"
                )
            value = 1.0 if gradient is None else gradient
            seed = array_module(array).full(array.shape, value, dtype=array.dtype)
        else:
            given = gradient.array if isinstance(gradient, Variable) else gradient
            seed = array_module(array).asarray(given, dtype=array.dtype)
            if seed.shape != array.shape:
                raise shape_error(
                    "backward",
                    "the gradient in the tensor's shape",
                    tensor=self.shape,
                    gradient=seed.shape,
                )
        if create_graph:
            higher.backward_with_graph(node, seed, retain_graph is not False)
        else:
            backward(node, seed, bool(retain_graph))

    def zero_grad(self) -> None:
        """Forget the gradient: the next backward starts a new one."""
        if isinstance(self.node, Leaf):
            self.node.clear()

    def register_post_accumulate_grad_hook(self, hook: "Callable[[Tensor], None]") -> None:
        """Call `hook(tensor)` when a backward has finished with this leaf's gradient.

        That is once per backward, after the last contribution, while backward goes on elsewhere;
        not at all where backward leaves no gradient.
        """
        if not isinstance(self.node, Leaf):
            raise GradientError("hooks can be set on leaves that require a gradient only")
        self.node.hooks.append(_weak_call(hook, self))

    def register_hook(self, hook: "Callable[[Tensor], Tensor | None]") -> RemovableHandle:
        """Call `hook(gradient)` with this tensor's gradient in each backward that reaches it.

        What it returns goes on in the gradient's place, unless it is None.
        """

        def call(g: Any) -> Any:
            seen = hook(g if isinstance(g, Tensor) else wrap(g))
            if seen is None:
                return g
            if seen.shape != g.shape:
                raise shape_error(
                    "hook", "a gradient of the same shape", gradient=g.shape, returned=seen.shape
                )
            seen = seen.to(g.dtype)
            return seen if isinstance(g, Tensor) else raw(seen)

        origin = self.node
        if origin is None:
            raise GradientError("a hook needs a tensor that requires a gradient")
        if isinstance(origin, Leaf):
            origin.watchers = {} if origin.watchers is None else origin.watchers
            return RemovableHandle(origin.watchers, call)
        origin.hooks = {} if origin.hooks is None else origin.hooks
        return RemovableHandle(origin.hooks, call)

    def retain_grad(self) -> None:
        """Keep the gradient that reaches this tensor in `.grad`, though it is not a leaf."""
        node = self.node
        if not isinstance(node, Node):
            return  # a leaf keeps it anyway

        def keep(g: "Tensor") -> None:
            node.kept = g if node.kept is None else node.kept + g

        node.hooks = {} if node.hooks is None else node.hooks
        node.hooks[KEEP] = lambda g: keep(g if isinstance(g, Tensor) else wrap(g))

    @property
    def data(self) -> "Tensor":
        """The same memory without history, to be changed without one; assigning copies into it."""
        alias = wrap(self.array)
        alias.unrecorded = True
        return alias

    @data.setter
    def data(self, value: "Tensor") -> None:
        self._store(value)

    def detach(self) -> "Tensor":
        """Return a tensor over the same memory that requires no gradient."""
        return wrap(self.array)

    def requires_grad_(self, value: bool = True) -> "Tensor":
        """Set `requires_grad` and return the tensor."""
        self.requires_grad = value
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tensor":
        """Copy a leaf: its values, outside of any arena, without gradient and hooks."""
        if isinstance(self.node, Node):
            raise GradientError("only leaves can be copied deeply: detach() this tensor first")
        copied = type(self)(self.array.copy(), self.requires_grad)
        memo[id(self)] = copied
        return copied

    def clone(self) -> "Tensor":
        """Return a copy that the gradient flows back from."""
        return elementwise.clone(self)

    # -- operators ----------------------------------------------------------------------------

    def __add__(self, other: Any) -> "Tensor":
        return elementwise.add(self, other)

    def __radd__(self, other: Any) -> "Tensor":
        return elementwise.add(other, self)

    def __sub__(self, other: Any) -> "Tensor":
        return elementwise.sub(self, other)

    def __rsub__(self, other: Any) -> "Tensor":
        return elementwise.sub(other, self)

    def __mul__(self, other: Any) -> "Tensor":
        return elementwise.mul(self, other)

    def __rmul__(self, other: Any) -> "Tensor":
        return elementwise.mul(other, self)

    def __truediv__(self, other: Any) -> "Tensor":
        return elementwise.div(self, other)

    def __rtruediv__(self, other: Any) -> "Tensor":
        return elementwise.div(other, self)

    def __pow__(self, other: Any) -> "Tensor":
        return elementwise.power(self, other)

    def __rpow__(self, other: Any) -> "Tensor":
        return elementwise.power(other, self)

    def __matmul__(self, other: Any) -> "Tensor":
        return linear.matmul(self, other)

    def __rmatmul__(self, other: Any) -> "Tensor":
        return linear.matmul(other, self)

    def __pos__(self) -> "Tensor":
        return self

    def __neg__(self) -> "Tensor":
        return elementwise.neg(self)

    def __abs__(self) -> "Tensor":
        return elementwise.absolute(self)

    def __floordiv__(self, other: Any) -> "Tensor":
        return self.floor_divide(other)

    def __rfloordiv__(self, other: Any) -> "Tensor":
        return rounding.floor_divide(other, self)

    def __mod__(self, other: Any) -> "Tensor":
        return self.remainder(other)

    def __rmod__(self, other: Any) -> "Tensor":
        return rounding.remainder(other, self)

    def __iadd__(self, other: Any) -> "Tensor":
        return self._become(elementwise.add, other)

    def __isub__(self, other: Any) -> "Tensor":
        return self._become(elementwise.sub, other)

    def __imul__(self, other: Any) -> "Tensor":
        return self._become(elementwise.mul, other)

    def __itruediv__(self, other: Any) -> "Tensor":
        return self._become(elementwise.div, other)

    def __eq__(self, other: object) -> Any:
        return False if other is None else comparison.eq(self, other)

    def __ne__(self, other: object) -> Any:
        return True if other is None else comparison.ne(self, other)

    def __lt__(self, other: Any) -> "Tensor":
        return comparison.lt(self, other)

    def __le__(self, other: Any) -> "Tensor":
        return comparison.le(self, other)

    def __gt__(self, other: Any) -> "Tensor":
        return comparison.gt(self, other)

    def __ge__(self, other: Any) -> "Tensor":
        return comparison.ge(self, other)

    def __invert__(self) -> "Tensor":
        return ask(self, question="invert")

    def __and__(self, other: Any) -> "Tensor":
        return ask(self, other, question="bitwise_and")

    def __or__(self, other: Any) -> "Tensor":
        return ask(self, other, question="bitwise_or")

    def __xor__(self, other: Any) -> "Tensor":
        return ask(self, other, question="bitwise_xor")

    def __lshift__(self, other: Any) -> "Tensor":
        return ask(self, other, question="left_shift")

    def __rshift__(self, other: Any) -> "Tensor":
        return ask(self, other, question="right_shift")

    def __contains__(self, element: Any) -> bool:
        return bool((self == element).any())

    __hash__ = Variable.__hash__  # a tensor is a key by identity, though == compares elements

    def __getitem__(self, at: Any) -> "Tensor":
        return index.choose(self, at)

    def __setitem__(self, at: Any, value: Any) -> None:
        if self._linked(value) or recording.tracer is not None:
            self._become(lambda x, v: index.put(x, at, v), value)
            return
        index.assign(self.array, at, raw(value))
        mark(self.array)
        if self.node is not None:
            self.node.changed = next_sequence()

    # -- NumPy's protocols --------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        return dispatch.universal(ufunc, method, *inputs, **options)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return dispatch.function(function, args, kwargs)

    def astype(self, dtype: Any, copy: bool = True) -> "Tensor":
        """Do what `to` does, as NumPy calls it."""
        return self.to(dtype)

    def __iter__(self) -> Iterator["Tensor"]:
        return iter(self.unbind())


def _weak_call(hook: Callable[[Tensor], None], owner: Tensor) -> Callable[[], None]:
    """Bind `hook` to its tensor without keeping that alive from the graph."""
    reference = weakref.ref(owner)

    def call() -> None:
        tensor = reference()
        if tensor is not None:
            hook(tensor)

    return call
