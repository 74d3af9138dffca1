"""What is trained in the benchmarks: four models, each written once for both libraries.

Holdfast's names are PyTorch's, so a model is a function of `nn` and `functional`, and a training
step one function too: whatever the libraries differ in is theirs. This file is also imported by a
Python that has PyTorch and not Holdfast; it loads neither of them, nor NumPy, before it is asked.
"""

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

IMAGES = 8192
WINDOWS = 4096
LENGTH = 64
"""Characters in a sample of text."""
CHARACTERS = 97

GPT_LAYERS, GPT_WIDTH, GPT_HEADS = 4, 128, 4
LSTM_EMBEDDING, LSTM_HIDDEN = 64, 128

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Library:
    """What both libraries have under the same names; `tensor` makes one of a NumPy array."""

    name: str
    version: str
    nn: Any
    functional: Any
    optim: Any
    tensor: Callable[[Any], Any]


@dataclass(frozen=True)
class Workload:
    """A model, what it trains on (`images` or `text`), and how.

    `model` takes `nn` and `functional`; the model it returns gives one row of logits for each
    target. `settings` are those of the optimizer, which both libraries have under this name.
    """

    name: str
    batch: int
    data: str
    model: Callable[[Any, Any], Any]
    optimizer: str
    settings: Mapping[str, Any]

    def make_optimizer(self, library: Library, parameters: Any, **more: Any) -> Any:
        """Return the optimizer; `more` are settings that only this library has."""
        return getattr(library.optim, self.optimizer)(parameters, **self.settings, **more)

    def batches(self, library: Library, inputs: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
        """Return batches of tensors over and over; they are made once, before the first."""
        starts = range(0, len(inputs) - self.batch + 1, self.batch)
        parts = [slice(start, start + self.batch) for start in starts]
        return itertools.cycle(
            [(library.tensor(inputs[at]), library.tensor(targets[at].reshape(-1))) for at in parts]
        )


def lenet(nn: Any, functional: Any) -> Any:
    """The model of examples/fashion_lenet.py."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def perceptron(*widths: int) -> Callable[[Any, Any], Any]:
    """A perceptron of flattened images, with ReLU between its layers."""

    def made(nn: Any, functional: Any) -> Any:
        layers = [nn.Flatten()]
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    return made


mlp = perceptron(784, 512, 512, 10)


def gpt(nn: Any, functional: Any) -> Any:
    """A decoder of characters: normalization before each part, GELU, learned positions."""

    class Attention(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(GPT_WIDTH, 3 * GPT_WIDTH)
            self.out = nn.Linear(GPT_WIDTH, GPT_WIDTH)

        def forward(self, x: Any) -> Any:
            batch, length, width = x.shape
            query, key, value = (
                part.reshape(batch, length, GPT_HEADS, width // GPT_HEADS).transpose(1, 2)
                for part in self.project(x).chunk(3, dim=-1)
            )
            y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(batch, length, width))

    class Block(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.attention = nn.LayerNorm(GPT_WIDTH), Attention()
            self.norm2 = nn.LayerNorm(GPT_WIDTH)
            self.up = nn.Linear(GPT_WIDTH, 4 * GPT_WIDTH)
            self.down = nn.Linear(4 * GPT_WIDTH, GPT_WIDTH)

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.down(functional.gelu(self.up(self.norm2(x))))

    class GPT(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.characters = nn.Embedding(CHARACTERS, GPT_WIDTH)
            self.positions = nn.Embedding(LENGTH, GPT_WIDTH)
            self.blocks = nn.Sequential(*(Block() for _ in range(GPT_LAYERS)))
            self.norm = nn.LayerNorm(GPT_WIDTH)
            self.head = nn.Linear(GPT_WIDTH, CHARACTERS, bias=False)

        def forward(self, characters: Any) -> Any:
            x = self.characters(characters) + self.positions.weight
            return self.head(self.norm(self.blocks(x))).reshape(-1, CHARACTERS)

    return GPT()


def lstm(nn: Any, functional: Any) -> Any:
    """A recurrent model of characters."""

    class LSTM(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.characters = nn.Embedding(CHARACTERS, LSTM_EMBEDDING)
            self.lstm = nn.LSTM(LSTM_EMBEDDING, LSTM_HIDDEN, batch_first=True)
            self.head = nn.Linear(LSTM_HIDDEN, CHARACTERS)

        def forward(self, characters: Any) -> Any:
            hidden, _ = self.lstm(self.characters(characters))
            return self.head(hidden).reshape(-1, CHARACTERS)

    return LSTM()


WORKLOADS: Mapping[str, Workload] = {
    each.name: each
    for each in (
        Workload("mlp", 256, "images", mlp, "Adam", {"lr": 1e-3}),
        Workload("lenet", 128, "images", lenet, "SGD", {"lr": 0.01, "momentum": 0.9}),
        Workload("gpt", 16, "text", gpt, "AdamW", {"lr": 1e-3}),
        Workload("lstm", 32, "text", lstm, "Adam", {"lr": 1e-3}),
    )
}

ADAM = "Adam", {"lr": 1e-3}
OVER_A_WIRE: Mapping[str, Workload] = {
    **{name: WORKLOADS[name] for name in ("gpt", "mlp")},
    "wide": Workload("wide", 2048, "images", mlp, *ADAM),
    "deep": Workload("deep", 1024, "images", perceptron(784, 128, *(512, 128) * 6, 10), *ADAM),
    "even": Workload("even", 1024, "images", perceptron(784, 256, *(384,) * 6, 10), *ADAM),
}
"""What is trained where communicating takes about as long as computing."""


def chosen(names: str, known: Mapping[str, Workload] = WORKLOADS) -> list[Workload]:
    """Return the workloads of a list with commas, each once; raises UsageError."""
    from holdfast.errors import UsageError

    for name in names.split(","):
        if name not in known:
            raise UsageError(f"--models: {', '.join(known)} are known, {name!r} was given")
    return [known[name] for name in dict.fromkeys(names.split(","))]


def samples(data: str, images: int = IMAGES) -> "tuple[npt.NDArray[Any], npt.NDArray[Any]]":
    """Return inputs and targets: images and classes, or characters and those that follow them."""
    import numpy as np

    from holdfast import datasets

    if data == "images":
        return datasets.fashion_mnist()[0][np.arange(images)]
    text = datasets.standard_library_text()
    assert len(text.alphabet) == CHARACTERS
    windows = text.windows(LENGTH)
    return windows[np.linspace(0, len(windows) - 1, WINDOWS).astype(np.int64)]


def use_one_thread() -> None:
    """Let both libraries compute on one thread; to be called before NumPy is loaded."""
    assert "numpy" not in sys.modules, "NumPy has read its environment already"
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))


def load_holdfast() -> Library:
    """Load Holdfast."""
    import holdfast
    import holdfast.nn.functional as functional
    from holdfast import nn, optim

    return Library("holdfast", holdfast.__version__, nn, functional, optim, holdfast.tensor)


def load_torch() -> Library:
    """Load PyTorch, for one thread."""
    import torch
    import torch.nn.functional as functional
    from torch import nn, optim

    torch.set_num_threads(1)
    return Library("torch", str(torch.__version__), nn, functional, optim, torch.from_numpy)


def require_torch() -> None:
    """Raise MissingDependency where this Python has no PyTorch."""
    import importlib.util

    from holdfast.errors import MissingDependency

    if importlib.util.find_spec("torch") is None:
        raise MissingDependency(
            f"PyTorch is compared with in one process, and {sys.executable} does not have it: "
            f"{sys.executable} -m pip install torch "
            "--extra-index-url https://download.pytorch.org/whl/cpu"
        )


def training_step(
    library: Library,
    model: Any,
    optimizer: Any,
    batches: Iterator[tuple[Any, Any]],
) -> Callable[[], Any]:
    """Return what trains on the next batch and returns the loss, a tensor."""
    loss_of = library.functional.cross_entropy

    def step() -> Any:
        inputs, targets = next(batches)
        optimizer.zero_grad()
        loss = loss_of(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    return step


def rows(
    columns: Sequence[tuple[str, int, str]],
    results: Sequence[Mapping[str, Any]],
    first: str = "model",
) -> str:
    """Return results as a table: a column of names, `first`, then (name, width, format) columns."""
    lines = [f"{first:10}" + "".join(f"{name:>{width}}" for name, width, _ in columns)]
    for result in results:
        cells = (format(result[name], form).rjust(width) for name, width, form in columns)
        lines.append(f"{result[first]:10}" + "".join(cells))
    return "\n".join(lines)
