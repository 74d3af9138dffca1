"""One step of a recurrent layer at a time, made of small primitives, so differentiable twice."""

import math
from typing import Any

from holdfast.core.backend import array_module
from holdfast.core.errors import shape_error
from holdfast.core.nn import functional as F
from holdfast.core.nn import init
from holdfast.core.nn.module import Module
from holdfast.core.nn.weights import empty
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.errors import UsageError

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


def check_nonlinearity(name: str) -> None:
    """Raise UsageError unless `name` is one that a plain recurrent layer has."""
    if name not in ("tanh", "relu"):
        raise UsageError(f"nonlinearity is 'tanh' or 'relu'; found {name!r}")


def draw(module: Module, hidden_size: int) -> None:
    """Draw all weights of `module` evenly within 1 / sqrt(hidden_size), as PyTorch does."""
    bound = 1 / math.sqrt(hidden_size)
    for parameter in module.parameters():
        init.uniform_(parameter, -bound, bound)


class RNNCellBase(Module):
    """What the cells share: one step, on (B, in) or (in,), made of small primitives."""

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if hidden_size < 1:
            raise UsageError(
                f"{type(self).__name__}: hidden_size is at least 1; found {hidden_size}"
            )
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = self.gates * hidden_size
        self.weight_ih = empty(rows, input_size, device=device, dtype=dtype)
        self.weight_hh = empty(rows, hidden_size, device=device, dtype=dtype)
        for name in ("bias_ih", "bias_hh"):
            biases = empty(rows, device=device, dtype=dtype) if bias else None
            self.register_parameter(name, biases)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights afresh, evenly within 1 / sqrt(hidden_size)."""
        draw(self, self.hidden_size)

    def _parts(self, input: Tensor, h: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return what the input gives to each gate, and what the state gives; None is zeros."""
        name = type(self).__name__
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise shape_error(
                name, f"an input (B, {self.input_size}) or ({self.input_size},)", input=input.shape
            )
        wanted = (*input.shape[:-1], self.hidden_size)
        if h is None:
            h = _zeros(input, wanted)
        if h.shape != wanted:
            raise shape_error(name, f"a state {wanted}", state=h.shape)
        size = self.hidden_size
        by_input = F.linear(input, self.weight_ih, self.bias_ih)
        by_state = F.linear(h, self.weight_hh, self.bias_hh)
        cuts = [slice(k * size, (k + 1) * size) for k in range(self.gates)]
        return [by_input[..., cut] for cut in cuts], [by_state[..., cut] for cut in cuts]

    def extra_repr(self) -> str:
        """Return the sizes, leaving out what is as usual."""
        text = f"{self.input_size}, {self.hidden_size}"
        return text if self.bias else text + ", bias=False"


def _zeros(input: Tensor, shape: tuple[int, ...]) -> Tensor:
    return wrap(array_module(input.array).zeros(shape, dtype=input.dtype))


class RNNCell(RNNCellBase):
    """One step of an RNN: tanh(w_ih x + b_ih + w_hh h + b_hh), or relu instead of tanh."""

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        check_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (B, hidden); `hx` None is zeros."""
        (by_input,), (by_state,) = self._parts(input, hx)
        total = by_input + by_state
        return F.relu(total) if self.nonlinearity == "relu" else F.tanh(total)

    def extra_repr(self) -> str:
        """Return the sizes, leaving out what is as usual."""
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity}"


class GRUCell(RNNCellBase):
    """One step of a GRU, with gates in the order reset, update, new."""

    gates = 3

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Return the next state (B, hidden); `hx` None is zeros."""
        if hx is None:
            hx = _zeros(input, (*input.shape[:-1], self.hidden_size))
        (a_r, a_z, a_n), (b_r, b_z, b_n) = self._parts(input, hx)
        r, z = F.sigmoid(a_r + b_r), F.sigmoid(a_z + b_z)
        n = F.tanh(a_n + r * b_n)
        return n + z * (hx - n)


class LSTMCell(RNNCellBase):
    """One step of an LSTM, with gates in the order input, forget, candidate, output."""

    gates = 4

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the next state and cell, both (B, hidden); `hx` is a pair, None for zeros."""
        h, c = (None, None) if hx is None else hx
        i, f, n, o = (a + b for a, b in zip(*self._parts(input, h), strict=True))
        if c is None:
            c = _zeros(input, (*input.shape[:-1], self.hidden_size))
        elif c.shape[-1] != self.hidden_size:
            raise shape_error("LSTMCell", f"a cell (..., {self.hidden_size})", cell=c.shape)
        cell = F.sigmoid(f) * c + F.sigmoid(i) * F.tanh(n)
        return F.sigmoid(o) * F.tanh(cell), cell
