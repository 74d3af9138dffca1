"""How a plan comes about: a model is run once on example inputs, and every primitive noted."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from holdfast.core.creation import as_tensor
from holdfast.core.nn.module import Module
from holdfast.core.plan.executor import Plan
from holdfast.core.plan.passes import improved
from holdfast.core.plan.program import Kind, Program, Ref, Step
from holdfast.core.primitive import wrap
from holdfast.core.recording import no_grad, recording
from holdfast.core.tensor import Tensor
from holdfast.core.variable import Variable
from holdfast.core.watch import watching
from holdfast.errors import UsageError

if TYPE_CHECKING:
    from holdfast.core.primitive import Primitive


def trace(model: Callable[..., Any], *examples: Tensor, improve: bool = True) -> Plan:
    """Return a plan that computes `model(*inputs)` for inputs of the examples' shapes and dtypes.

    The model, a module or a function of tensors, is run once under `no_grad`, a module in
    evaluation mode; it returns a tensor or a tuple of them. Python's own control flow is not seen:
    the plan does what this run did. Constants are shared with the model unless a pass has rewritten
    them, so trace again after training on.

    What changes a tensor in place makes a new value of the program.

    Raises UsageError where Python reads values that come from an input, as in `if x.sum() > 0`: the
    plan could not decide anew. Only `tensor.array` passes it by.
    """
    if isinstance(model, Tensor):
        raise UsageError(
            "trace: a module or a function of tensors is expected, found a tensor; the sum of a "
            "matrix's diagonal is x.trace()"
        )
    inputs = tuple(wrap(as_tensor(example).array.view()) for example in examples)
    training = {} if not isinstance(model, Module) else {m: m.training for m in model.modules()}
    if isinstance(model, Module):
        model.eval()
    recorder = _Recorder(model, inputs)
    before = recording.tracer
    try:
        with no_grad(), watching(recorder, innermost=True):
            recording.tracer = recorder
            result = model(*inputs)
    finally:
        recording.tracer = before
        for module, mode in training.items():
            module.training = mode
    program = recorder.program(result if isinstance(result, tuple) else (result,))
    return Plan(improved(program) if improve else program, single=not isinstance(result, tuple))


class _Recorder:
    """A watcher that numbers values by the arrays that hold them."""

    def __init__(self, model: Any, examples: tuple[Tensor, ...]) -> None:
        self._numbers: dict[int, int] = {}  # by the identity of an array
        self._alive: list[Any] = []  # so that no identity is given twice
        self._kinds: dict[int, Kind] = {}
        self._constants: dict[int, Any] = {}
        self._names: dict[int, str] = {}
        self._steps: list[Step] = []
        self._inputs = tuple(self._new(example.array) for example in examples)
        self._from_inputs = set(self._inputs)
        self._held: dict[int, str] = {}
        if isinstance(model, Module):
            self._held = {id(t.array): name for name, t in model.named_parameters()}
            self._held.update({id(t.array): name for name, t in model.named_buffers()})

    def _new(self, array: Any) -> int:
        number = len(self._kinds)
        self._numbers[id(array)] = number
        self._alive.append(array)
        self._kinds[number] = Kind(array.shape, array.dtype)
        return number

    def _ref(self, argument: Any) -> Any:
        """Return what stands for an argument in the program."""
        array = argument.array if isinstance(argument, Variable) else argument
        if not isinstance(array, np.ndarray) and not hasattr(array, "__array_interface__"):
            return array
        if id(array) not in self._numbers:
            number = self._new(array)
            self._constants[number] = array
            if id(array) in self._held:
                self._names[number] = self._held[id(array)]
        return Ref(self._numbers[id(array)])

    def __call__(
        self,
        primitive: "Primitive",
        arguments: tuple[Any, ...],
        options: dict[str, Any],
        run: Callable[..., Any],
    ) -> Any:
        refs = tuple(self._ref(argument) for argument in arguments)
        out = run(*arguments, **options)
        made = out if isinstance(out, tuple) else (out,)
        numbers = tuple(self._new(part.array) for part in made)
        self._steps.append(Step(primitive.name, refs, dict(options), numbers))
        if any(isinstance(ref, Ref) and ref.number in self._from_inputs for ref in refs):
            self._from_inputs.update(numbers)
        return out

    def read(self, array: Any) -> None:
        """Refuse that Python reads values which another input would change."""
        if self._numbers.get(id(array)) in self._from_inputs:
            raise UsageError(
                "the model reads values that come from its inputs, as in `if x.sum() > 0` or "
                "x.item(): a plan would not decide anew; use where(), or trace the parts"
            )

    def program(self, results: tuple[Any, ...]) -> Program:
        """Return what was recorded, with `results` for outputs."""
        for i, result in enumerate(results):
            if not isinstance(result, Variable):
                raise UsageError(
                    f"a plan returns a tensor or a tuple of tensors; output {i} of the model is a "
                    f"{type(result).__name__}"
                )
            if self._numbers.get(id(result.array)) not in self._from_inputs:
                raise UsageError(
                    f"output {i} of the model was not computed by primitives from its inputs: a "
                    "plan cannot tell how it depends on them"
                )
        outputs = tuple(self._numbers[id(result.array)] for result in results)
        return Program(
            self._inputs, outputs, self._constants, self._kinds, tuple(self._steps), self._names
        )
