"""The layers that carry a state from step to step of a sequence."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

from holdfast.core.errors import shape_error
from holdfast.core.nn import functional as F
from holdfast.core.nn.cells import check_nonlinearity, draw
from holdfast.core.nn.module import Module
from holdfast.core.nn.packed import PackedSequence
from holdfast.core.nn.weights import empty
from holdfast.core.ops.gru import gru
from holdfast.core.ops.index import index
from holdfast.core.ops.lstm import lstm
from holdfast.core.ops.recurrent import rnn
from holdfast.core.ops.shape import concatenate, stack
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]

Weights = Sequence[Tensor]
States = Sequence[Tensor | None]
Layer = Callable[..., tuple[Tensor, ...]]


class RNNBase(Module):
    """What RNN, LSTM and GRU share: `num_layers` layers, each in one or two directions.

    The weights of layer k are `weight_ih_lk` (gates * hidden, in), `weight_hh_lk` (gates * hidden,
    hidden), `bias_ih_lk` and `bias_hh_lk`; those of the other direction end in `_reverse`.
    """

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if hidden_size < 1 or num_layers < 1:
            raise UsageError(
                f"{name}: hidden_size and num_layers are at least 1; found {hidden_size} and "
                f"{num_layers}"
            )
        if not 0 <= dropout <= 1:
            raise UsageError(f"{name}: dropout is a probability, 0 to 1; found {dropout}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional = bidirectional
        rows = self.gates * hidden_size
        for layer, suffix in self._places():
            width = hidden_size * (1 + bidirectional) if layer else input_size
            shapes: dict[str, tuple[int, ...]]
            shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
            if bias:
                shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
            for kind, shape in shapes.items():
                setattr(self, f"{kind}_l{layer}{suffix}", empty(*shape, device=device, dtype=dtype))
        self.reset_parameters()

    def _places(self) -> "product[tuple[int, str]]":
        """Return layer and suffix of every direction of every layer, in order."""
        return product(range(self.num_layers), ("", "_reverse") if self.bidirectional else ("",))

    def _weights(self, layer: int, suffix: str) -> Weights:
        """Return w_ih, w_hh and, where there are any, b_ih and b_hh of one direction."""
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if self.bias else 2]
        return [getattr(self, f"{kind}_l{layer}{suffix}") for kind in kinds]

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The weights of every direction of every layer."""
        return [list(self._weights(layer, suffix)) for layer, suffix in self._places()]

    def reset_parameters(self) -> None:
        """Draw the weights afresh, evenly within 1 / sqrt(hidden_size)."""
        draw(self, self.hidden_size)

    def flatten_parameters(self) -> None:
        """Do nothing: the arena holds the weights in one buffer already."""

    def _sequence(
        self, x: Tensor, first: States, weights: Weights, **how: Any
    ) -> tuple[Tensor, ...]:
        """Run one direction of one layer: return its output and its last states."""
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Return (output, h_n) of a batch (T, B, in), one sequence (T, in), or a PackedSequence.

        With `batch_first` a batch and its output are (B, T, ...). The output is (T, B, directions *
        hidden), the states (layers * directions, B, hidden); `hx` None is zeros.
        """
        output, (h_n,) = self._run(input, [hx])
        return output, h_n

    def _run(self, input: Any, first: States) -> tuple[Any, list[Tensor]]:
        """Return the output, of the kind of `input`, and the last states (layers, B, hidden)."""
        if isinstance(input, PackedSequence):
            x, sizes, batched = input.data, input.sizes, True
            batch = sizes[0]
        else:
            x, sizes, batched = self._steps_first(input), None, input.ndim == 3
            batch = x.shape[1]
        if x.shape[-1] != self.input_size:
            raise shape_error(
                type(self).__name__, f"an input (..., {self.input_size})", input=x.shape
            )
        first = [self._first(state, batch, batched) for state in first]
        if isinstance(input, PackedSequence) and input.sorted_indices is not None:
            order = (slice(None), input.sorted_indices.array)
            first = [state if state is None else index(state, at=order) for state in first]
        output, last = self._layers(x, first, sizes)
        if isinstance(input, PackedSequence):
            if input.unsorted_indices is not None:
                order = (slice(None), input.unsorted_indices.array)
                last = [index(state, at=order) for state in last]
            return input._replace(data=output), last
        if not batched:
            return output.squeeze(1), [state.squeeze(1) for state in last]
        return (output.transpose(0, 1) if self.batch_first else output), last

    def _layers(
        self, x: Tensor, first: States, sizes: tuple[int, ...] | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Run all layers on (T, B, in) or packed data."""
        outputs: list[Tensor] = []
        last: list[tuple[Tensor, ...]] = []
        for place, (layer, suffix) in enumerate(self._places()):
            if layer and len(outputs) == 1 + self.bidirectional:
                x = outputs[0] if len(outputs) == 1 else concatenate(*outputs, dim=-1)
                x = F.dropout(x, self.dropout, self.training)
                outputs = []
            begin = [None if state is None else state[place] for state in first]
            weights = self._weights(layer, suffix)
            output, *ends = self._sequence(x, begin, weights, sizes=sizes, reverse=bool(suffix))
            outputs.append(output)
            last.append(tuple(ends))
        joined = outputs[0] if len(outputs) == 1 else concatenate(*outputs, dim=-1)
        return joined, [_layered(each) for each in zip(*last, strict=True)]

    def _steps_first(self, input: Tensor) -> Tensor:
        """Return a plain input as (T, B, in)."""
        if input.ndim == 2:
            return input.unsqueeze(1)
        if input.ndim != 3:
            raise shape_error(
                type(self).__name__,
                "an input (B, T, in)" if self.batch_first else "an input (T, B, in), or (T, in)",
                input=input.shape,
            )
        return input.transpose(0, 1) if self.batch_first else input

    def _first(self, state: Tensor | None, batch: int, batched: bool) -> Tensor | None:
        """Return a given first state as (layers * directions, B, hidden)."""
        if state is None:
            return None
        layers = self.num_layers * (1 + self.bidirectional)
        wanted = (layers, batch, self.hidden_size) if batched else (layers, self.hidden_size)
        if state.shape != wanted:
            raise shape_error(type(self).__name__, f"a first state {wanted}", state=state.shape)
        return state if batched else state.unsqueeze(1)

    def extra_repr(self) -> str:
        """Return the sizes, leaving out what is as usual."""
        text = f"{self.input_size}, {self.hidden_size}"
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0}
        for name, value in {**usual, "bidirectional": False}.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)}"
        return text


def _layered(states: Sequence[Tensor]) -> Tensor:
    """Return states (B, hidden) as (layers, B, hidden)."""
    return states[0].unsqueeze(0) if len(states) == 1 else stack(*states)


class RNN(RNNBase):
    """Elman's network: h = tanh(w_ih x + b_ih + w_hh h + b_hh), or relu instead of tanh."""

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_nonlinearity(nonlinearity)
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.nonlinearity = nonlinearity

    def _sequence(
        self, x: Tensor, first: States, weights: Weights, **how: Any
    ) -> tuple[Tensor, ...]:
        made: Any = rnn(x, *first, *weights, relu=self.nonlinearity == "relu", **how)
        return tuple(made)


class GRU(RNNBase):
    """The gated recurrent unit (Cho et al., 2014), with gates in the order reset, update, new."""

    gates = 3

    def _sequence(
        self, x: Tensor, first: States, weights: Weights, **how: Any
    ) -> tuple[Tensor, ...]:
        made: Any = gru(x, *first, *weights, **how)
        return tuple(made)


class LSTM(RNNBase):
    """The long short-term memory, with gates in the order input, forget, candidate, output."""

    gates = 4

    def _sequence(
        self, x: Tensor, first: States, weights: Weights, **how: Any
    ) -> tuple[Tensor, ...]:
        made: Any = lstm(x, *first, *weights, **how)
        return tuple(made)

    def forward(
        self, input: Any, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Any, tuple[Tensor, Tensor]]:
        """Return (output, (h_n, c_n)) of a batch (T, B, in), one sequence (T, in), or a
        PackedSequence.

        With `batch_first` a batch and its output are (B, T, ...). The output is (T, B, directions *
        hidden), the states (layers * directions, B, hidden); `hx` is (h_0, c_0), None for zeros.
        """
        output, (h_n, c_n) = self._run(input, [None, None] if hx is None else list(hx))
        return output, (h_n, c_n)
