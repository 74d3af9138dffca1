"""Functions that a module calls before and after its forward and its backward, and with its state.

Names, arguments and order are PyTorch's. What a forward hook returns takes the place of the input
or output, what a backward hook returns that of the gradients; None leaves them as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.core.hooks import RemovableHandle
from holdfast.core.ops.observe import observe
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.nn.module import Module

Gradients = tuple[Any, ...]
"""One entry per positional argument or output of a module: a tensor, or None without a gradient."""


@dataclass(frozen=True)
class PreHook:
    """A hook before the forward pass, called with and without keyword arguments alike."""

    hook: Callable[..., Any]
    with_kwargs: bool

    def __call__(
        self, module: "Module", args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments as the hook leaves them."""
        found = self.hook(module, args, kwargs) if self.with_kwargs else self.hook(module, args)
        if found is None:
            return args, kwargs
        if not self.with_kwargs:
            return (found if isinstance(found, tuple) else (found,)), kwargs
        if not (isinstance(found, tuple) and len(found) == 2):
            raise UsageError(
                "a forward pre-hook with_kwargs returns None or a pair of the new positional and "
                f"keyword arguments; found {found!r}"
            )
        return found


@dataclass(frozen=True)
class PostHook:
    """A hook after the forward pass, called with and without keyword arguments alike."""

    hook: Callable[..., Any]
    with_kwargs: bool
    always_call: bool

    def __call__(
        self, module: "Module", args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """Return the result as the hook leaves it."""
        given = (args, kwargs, result) if self.with_kwargs else (args, result)
        found = self.hook(module, *given)
        return result if found is None else found


@dataclass
class Hooks:
    """The hooks of one module, each kind in the order of calling."""

    forward_pre: dict[int, Any] = field(default_factory=dict)  # of PreHook
    forward: dict[int, Any] = field(default_factory=dict)  # of PostHook
    backward_pre: dict[int, Callable[..., Any]] = field(default_factory=dict)
    backward: dict[int, Callable[..., Any]] = field(default_factory=dict)
    state_pre: dict[int, Callable[..., None]] = field(default_factory=dict)
    state_post: dict[int, Callable[..., None]] = field(default_factory=dict)
    load_pre: dict[int, Callable[..., None]] = field(default_factory=dict)
    load_post: dict[int, Callable[..., None]] = field(default_factory=dict)

    def call(self, module: "Module", args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the module's forward with its hooks around."""
        result = None
        always = {id: hook for id, hook in self.forward.items() if hook.always_call}
        try:
            for before in tuple(self.forward_pre.values()):
                args, kwargs = before(module, args, kwargs)
            watch = _Backward(module, self) if self.backward or self.backward_pre else None
            if watch is not None:
                args = watch.enter(args)
            result = module.forward(*args, **kwargs)
            for id, after in tuple(self.forward.items()):
                always.pop(id, None)
                result = after(module, args, kwargs, result)
            return result if watch is None else watch.leave(result)
        except BaseException:
            for after in always.values():
                result = after(module, args, kwargs, result)
            raise


class Hooked:
    """What a module's hooks are registered with. Each returns a handle to take the hook away."""

    _hooks: Hooks | None = None  # most modules have none, and are called the quicker for it

    def _own_hooks(self) -> Hooks:
        if self._hooks is None:
            self._hooks = Hooks()
        return self._hooks

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)`, or `hook(module, args, kwargs)`, before each forward.

        It may return other arguments: a tuple or a single one, or a pair (args, kwargs).
        """
        return RemovableHandle(self._own_hooks().forward_pre, PreHook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable[..., Any],
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call `hook(module, args, output)`, or with kwargs before output, after each forward.

        It may return another output. With `always_call` it is also called where forward raises,
        with None for the output, and the error goes on.
        """
        made = PostHook(hook, with_kwargs, always_call)
        return RemovableHandle(self._own_hooks().forward, made, prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_output)` when backward comes to the module's outputs.

        `grad_output` is a tuple of tensors: None for outputs that require no gradient, zeros for
        those that none came to. A tuple that the hook returns takes its place.
        """
        return RemovableHandle(self._own_hooks().backward_pre, hook, prepend)

    def register_full_backward_hook(
        self, hook: Callable[..., Any], prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when backward has passed the module.

        Both are tuples of tensors, one entry per positional argument and output, None for those
        that require no gradient. A tuple that the hook returns takes `grad_input`'s place.
        """
        return RemovableHandle(self._own_hooks().backward, hook, prepend)

    def register_state_dict_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call `hook(module, prefix, keep_vars)` before the module's part of a state is made."""
        return RemovableHandle(self._own_hooks().state_pre, hook)

    def register_state_dict_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, metadata)` after its part has been added."""
        return RemovableHandle(self._own_hooks().state_post, hook)

    def register_load_state_dict_pre_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call `hook(...)` before a state is looked at, which it may change: it is a copy.

        Its arguments are module, state_dict, prefix, metadata, strict, missing_keys,
        unexpected_keys and error_msgs; what it adds to the last three counts.
        """
        return RemovableHandle(self._own_hooks().load_pre, hook)

    def register_load_state_dict_post_hook(self, hook: Callable[..., None]) -> RemovableHandle:
        """Call `hook(module, incompatible_keys)` when a state has been loaded, strict or not."""
        return RemovableHandle(self._own_hooks().load_post, hook)


class _Backward:
    """Shows the backward hooks of a module the cotangents at its border, in one call of it.

    Its inputs and its outputs each pass a primitive that does nothing but to show what comes back
    through it: so a tensor that is also used elsewhere shows only what came through this module.
    """

    def __init__(self, module: "Module", hooks: Hooks) -> None:
        self.module = module
        self.hooks = hooks
        self.inputs = 0
        self.watched: list[int] = []  # the places of the inputs that get a gradient
        self.grad_output: Gradients | None = None

    def enter(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the arguments, those that require a gradient under watch."""
        self.inputs = len(args)
        args, self.watched = _watched(args, self.at_input)
        return args

    def leave(self, result: Any) -> Any:
        """Return the outputs under watch: a tensor, or a tuple that has some."""
        if not isinstance(result, (Tensor, tuple)):
            raise UsageError(
                f"a module with backward hooks returns a tensor or a tuple of them; "
                f"{type(self.module).__name__} returned {type(result).__name__}"
            )
        results = result if isinstance(result, tuple) else (result,)
        count = len(results)
        results, places = _watched(results, lambda parts: self.at_output(parts, places, count))
        return results if isinstance(result, tuple) else results[0]

    def at_output(self, parts: Gradients, places: list[int], count: int) -> Gradients:
        """Call the pre-hooks, and where no input will be reached, the hooks."""
        grads = _spread(parts, places, count)
        for hook in tuple(self.hooks.backward_pre.values()):
            grads = _replaced(hook(self.module, grads), grads, "grad_output")
        self.grad_output = grads
        if not self.watched:
            self.show((None,) * self.inputs)
        return tuple(grads[place] for place in places)

    def at_input(self, parts: Gradients) -> Gradients:
        """Call the hooks with the gradients of inputs and outputs."""
        if self.grad_output is None:
            return parts  # an input that is also an output came back without the module
        grads = self.show(_spread(parts, self.watched, self.inputs))
        return tuple(grads[place] for place in self.watched)

    def show(self, grads: Gradients) -> Gradients:
        """Call the hooks and return the inputs' gradients as they leave them."""
        for hook in tuple(self.hooks.backward.values()):
            grads = _replaced(hook(self.module, grads, self.grad_output), grads, "grad_input")
        self.grad_output = None
        return grads


def _watched(
    values: tuple[Any, ...], seen: Callable[[Gradients], Gradients]
) -> tuple[tuple[Any, ...], list[int]]:
    """Return `values` with the tensors among them that require a gradient watched; their places."""
    places = [
        i for i, value in enumerate(values) if isinstance(value, Tensor) and value.requires_grad
    ]
    if not places:
        return values, places

    def tensors(parts: tuple[Any, ...]) -> tuple[Any, ...]:
        found = seen(tuple(p if isinstance(p, Tensor) else wrap(p) for p in parts))
        pairs = zip(found, parts, strict=True)
        return tuple(new if isinstance(part, Tensor) else new.array for new, part in pairs)

    watched = observe(*(values[i] for i in places), seen=tensors)
    replaced = list(values)
    for place, value in zip(places, watched, strict=True):
        replaced[place] = value
    made = type(values)
    return (made._make(replaced) if hasattr(made, "_make") else tuple(replaced)), places


def _spread(parts: Gradients, places: list[int], count: int) -> Gradients:
    """Return `count` entries, None but for `parts` at their places."""
    found: list[Any] = [None] * count
    for place, part in zip(places, parts, strict=True):
        found[place] = part
    return tuple(found)


def _replaced(given: Any, grads: Gradients, what: str) -> Gradients:
    """Return what a backward hook gave instead of `grads`, if it did."""
    if given is None:
        return grads
    found = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    if len(found) != len(grads):
        raise UsageError(
            f"a backward hook returns None or {len(grads)} entries of {what}; found {len(found)}"
        )
    # Where there was no gradient there is none to replace; where there is one it cannot vanish.
    for before, after in zip(grads, found, strict=True):
        if before is not None and not isinstance(after, Tensor):
            raise UsageError(f"a backward hook returned {after!r} in {what} in place of a tensor")
    return found
