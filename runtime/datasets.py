"""Data sets as arrays in memory: Fashion-MNIST, scikit-learn's digits, and text (`corpora`).

A data set holds its inputs as they are stored (Fashion-MNIST: bytes, 47 MB for 60,000 images) and
turns a batch of them into what a model takes when the batch is asked for.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from holdfast.errors import DataError, MissingDependency, UsageError
from holdfast.runtime import fetch
from holdfast.runtime.corpora import (
    Alphabet,
    SequenceDataset,
    Text,
    TokenDataset,
    country_names,
    currency_names,
    language_names,
    standard_library_text,
)
from holdfast.runtime.idx import read_idx

__all__ = [
    "FASHION_MNIST_CLASSES",
    "FASHION_MNIST_MEAN",
    "FASHION_MNIST_STD",
    "Alphabet",
    "ArrayDataset",
    "Dataset",
    "Normalize",
    "SequenceDataset",
    "Text",
    "TokenDataset",
    "country_names",
    "currency_names",
    "digits",
    "fashion_mnist",
    "language_names",
    "standard_library_text",
]

Inputs = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int64]

FASHION_MNIST_MEAN, FASHION_MNIST_STD = 0.2860, 0.3530
"""Of all pixels of the 60,000 training images, on the scale of 0 to 1."""

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)

_DIGITS_TEST_EVERY = 5


class Dataset(Protocol):
    """Numbered samples, of which a job takes batches: what `job.batches` and `job.shard` need."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def __getitem__(
        self, indices: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the batch at `indices`, of shape (k,): inputs (k, …) and targets (k, …)."""


@dataclass(frozen=True)
class Normalize:
    """Turn bytes of 0 … 255 into float32 of (x / 255 - mean) / std; shapes stay as they are."""

    mean: float
    std: float

    def __call__(self, inputs: npt.NDArray[Any]) -> Inputs:
        """Return a new float32 array."""
        # One multiplication and one addition per element, in place after the conversion.
        normal = inputs.astype(np.float32)
        normal *= np.float32(1.0 / (255.0 * self.std))
        normal -= np.float32(self.mean / self.std)
        return normal


@dataclass(frozen=True)
class ArrayDataset:
    """Samples in memory: `inputs` of shape (N, …) and integer `targets` of shape (N,).

    `transform` takes a batch of inputs as they are stored and gives what the model sees, as
    float32; without one they are only converted. `classes` are the targets' names, if they have
    any. The arrays are the data set's own and are not to be changed. Raises DataError if the
    numbers of inputs and targets differ.
    """

    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    transform: Callable[[npt.NDArray[Any]], Inputs] | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.targets.ndim != 1 or len(self.inputs) != len(self.targets):
            raise DataError(
                f"expected one target for each input, found inputs of shape {self.inputs.shape} "
                f"and targets of shape {self.targets.shape}"
            )
        if not np.issubdtype(self.targets.dtype, np.integer):
            raise DataError(f"expected integer targets, found {self.targets.dtype}")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, indices: npt.NDArray[np.int64]) -> tuple[Inputs, Targets]:
        """Return the batch at `indices`, of shape (k,): inputs (k, …) float32, targets (k,) int64.

        Both are new arrays.
        """
        inputs = self.inputs[indices]
        if self.transform is not None:
            inputs = self.transform(inputs)
        return inputs.astype(np.float32, copy=False), self.targets[indices].astype(np.int64)

    def subset(self, chosen: npt.ArrayLike) -> "ArrayDataset":
        """Return the data set of the `chosen` samples: a mask of N booleans, or indices."""
        which = np.asarray(chosen)
        if which.dtype == np.bool_:
            if which.shape != self.targets.shape:
                raise UsageError(
                    f"a mask of {len(self)} samples must have shape {self.targets.shape}, got "
                    f"{which.shape}"
                )
            which = np.flatnonzero(which)
        elif which.size and not np.issubdtype(which.dtype, np.integer):
            raise UsageError(f"samples are chosen by a mask or by integers, got {which.dtype}")
        which = which.astype(np.int64)
        return replace(self, inputs=self.inputs[which], targets=self.targets[which])


def fashion_mnist(root: str | os.PathLike[str] | None = None) -> tuple[ArrayDataset, ArrayDataset]:
    """Return Fashion-MNIST's 60,000 training and 10,000 test images of 28 x 28, ten classes.

    Batches have inputs of shape (k, 1, 28, 28), normalised with the training images' mean and
    standard deviation. With `root`, the four IDX files (gzipped or not) must lie in that folder;
    without, they are looked for in `fetch.places` and fetched if they are in none. Raises DataError
    if a file is missing, truncated, corrupt or another one.
    """
    if root is None:
        folder = fetch.find_fashion_mnist() or fetch.fetch_fashion_mnist()
    else:
        folder = Path(root)
        missing = fetch.missing_files(folder)
        if missing:
            raise DataError(
                f"expected Fashion-MNIST's IDX files in {folder}, but {', '.join(missing)} is "
                f"missing; `holdfast data fetch fashion-mnist` gets them"
            )
    return _fashion_mnist_part(folder, "train"), _fashion_mnist_part(folder, "t10k")


def digits() -> tuple[ArrayDataset, ArrayDataset]:
    """Return scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, ten classes.

    Inputs have shape (k, 1, 8, 8) and are in 0 … 1. Every fifth sample is a test sample: 1,437 to
    train on, 360 to test. Raises MissingDependency where scikit-learn isn't installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependency(
            "the digits data set comes with scikit-learn, which isn't installed: "
            "pip install 'holdfast[digits]'"
        ) from error
    images, targets = load_digits(return_X_y=True)
    inputs = (images / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    everything = ArrayDataset(inputs, targets, classes=tuple(str(digit) for digit in range(10)))
    is_test = np.arange(len(everything)) % _DIGITS_TEST_EVERY == 0
    return everything.subset(~is_test), everything.subset(is_test)


def _fashion_mnist_part(folder: Path, part: str) -> ArrayDataset:
    try:
        images, labels = (
            read_idx(fetch.find_file(folder, each), shape=each.shape, sha256=each.sha256)
            for each in fetch.FASHION_MNIST_FILES
            if each.name.startswith(part)
        )
    except DataError as error:
        raise DataError(
            f"{error}; remove it, and `holdfast data fetch fashion-mnist` gets it again"
        ) from error
    return ArrayDataset(
        images[:, np.newaxis],
        labels,
        transform=Normalize(FASHION_MNIST_MEAN, FASHION_MNIST_STD),
        classes=FASHION_MNIST_CLASSES,
    )
