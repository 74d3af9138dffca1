"""Sequences of different lengths in one batch: padded to one length, or packed without padding.

Packed data holds the elements of all sequences at step 0, then those at step 1, and so on, longest
sequence first; so a recurrent layer computes nothing for padding.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from holdfast.core.backend import array_module, to_host
from holdfast.core.creation import as_tensor, full
from holdfast.core.ops.elementwise import where
from holdfast.core.ops.index import index, place
from holdfast.core.ops.shape import concatenate
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import UsageError

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


class PackedSequence(NamedTuple):
    """Packed sequences, made by `pack_padded_sequence` and `pack_sequence`.

    Attributes:
        data: (elements, ...), step by step.
        batch_sizes: integers (T,), on the host: how many sequences have an element at each step.
        sorted_indices: the order, longest first, that brought the batch here; None if it came so.
        unsorted_indices: the order that brings it back.
    """

    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None = None
    unsorted_indices: Tensor | None = None

    @property
    def sizes(self) -> tuple[int, ...]:
        """The batch sizes as Python's integers."""
        return tuple(self.batch_sizes.tolist())

    @property
    def is_cuda(self) -> bool:
        """Whether the data lie on a GPU."""
        return self.data.device == "cuda"

    def to(self, target: Any) -> "PackedSequence":
        """Convert the data to a dtype, or move them and the orders to "cpu" or "cuda"."""
        moves = isinstance(target, str) and target in ("cpu", "cuda")
        orders = (
            order.to(target) if moves and order is not None else order
            for order in (self.sorted_indices, self.unsorted_indices)
        )
        return PackedSequence(self.data.to(target), self.batch_sizes, *orders)


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """Return the permutation that undoes `permutation`; None for None."""
    if permutation is None:
        return None
    return wrap(np.argsort(permutation.array, kind="stable"))


def _lengths(lengths: Any, batch: int, longest: int) -> Any:
    """Return lengths as an array (B,) on the host, each from 1 to `longest`."""
    array = to_host(np.asarray(raw(lengths)) if isinstance(lengths, Sequence) else raw(lengths))
    if array.shape != (batch,) or array.dtype.kind not in "iu":
        raise UsageError(
            f"lengths holds an integer for each of the {batch} sequences; found shape "
            f"{array.shape} of {array.dtype}"
        )
    if array.size and (array.min() < 1 or array.max() > longest):
        raise UsageError(
            f"lengths are from 1 to {longest}, the steps there are; found {array.min()} to "
            f"{array.max()}"
        )
    return array


def _places(sizes: Any, module: Any) -> tuple[Any, Any]:
    """Return step and sequence of each packed element."""
    steps = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    sequences = np.arange(len(steps)) - np.repeat(starts, sizes)
    return module.asarray(steps), module.asarray(sequences)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack `input` (T, B, ...), (B, T, ...) with `batch_first`, of which sequence b has
    `lengths[b]` elements.

    Sequences come longest first; with `enforce_sorted=False` they are brought into that order,
    which layers and `pad_packed_sequence` undo. Raises UsageError if they do not fit.
    """
    if input.ndim < 2:
        raise UsageError(f"a batch of sequences has two axes or more; found shape {input.shape}")
    if batch_first:
        input = input.transpose(0, 1)
    longest, batch = input.shape[:2]
    counts = _lengths(lengths, batch, longest)
    module = array_module(input.array)
    order = None
    if not enforce_sorted:
        ranks = np.argsort(-counts, kind="stable")
        counts, order = counts[ranks], wrap(module.asarray(ranks))
    elif (counts[1:] > counts[:-1]).any():
        raise UsageError(
            f"lengths must fall from sequence to sequence; found {counts.tolist()}: sort them, or "
            "give enforce_sorted=False"
        )
    sizes = (counts[None, :] > np.arange(counts[0] if batch else 0)[:, None]).sum(axis=1)
    steps, sequences = _places(sizes, module)
    if order is not None:
        sequences = order.array[sequences]
    data = index(input, at=(steps, sequences))
    return PackedSequence(data, wrap(sizes), order, invert_permutation(order))


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what was packed as (T, B, ...) with padding, (B, T, ...) with `batch_first`, and the
    lengths.

    T is the longest length, or `total_length`, which must not be smaller.
    """
    data, module = sequence.data, array_module(sequence.data.array)
    sizes = to_host(sequence.batch_sizes.array)
    longest, batch = len(sizes), int(sizes[0])
    steps_in_all = longest if total_length is None else total_length
    if steps_in_all < longest:
        raise UsageError(
            f"total_length is at least the longest sequence's {longest}; found {total_length}"
        )
    steps, sequences = _places(sizes, module)
    lengths = (sizes[None, :] > np.arange(batch)[:, None]).sum(axis=1)
    if sequence.sorted_indices is not None and sequence.unsorted_indices is not None:
        sequences = sequence.sorted_indices.array[sequences]
        lengths = lengths[to_host(sequence.unsorted_indices.array)]
    at, sizes_of_batch = (steps, sequences), (steps_in_all, batch)
    if batch_first:
        at, sizes_of_batch = at[::-1], sizes_of_batch[::-1]
    padded = place(data, at=at, shape=(*sizes_of_batch, *data.shape[1:]))
    if padding_value:
        held = module.zeros(sizes_of_batch, dtype=bool)
        held[at] = True
        padded = where(held.reshape(held.shape + (1,) * (data.ndim - 1)), padded, padding_value)
    return padded, wrap(lengths)


def pad_sequence(
    sequences: Sequence[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: Literal["left", "right"] = "right",
) -> Tensor:
    """Return tensors (length, ...) as one (T, B, ...), (B, T, ...) with `batch_first`, padded."""
    if not len(sequences):
        raise UsageError("pad_sequence needs at least one sequence; found none")
    if padding_side not in ("left", "right"):
        raise UsageError(f"padding_side is 'left' or 'right'; found {padding_side!r}")
    longest = max(len(each) for each in sequences)
    rows = []
    for each in sequences:
        missing = longest - len(each)
        if missing:
            shape = (missing, *each.shape[1:])
            padding = full(shape, padding_value, dtype=each.dtype, device=each.device)
            both = (padding, each) if padding_side == "left" else (each, padding)
            each = concatenate(*both)
        rows.append(each.unsqueeze(0 if batch_first else 1))
    return concatenate(*rows, dim=0 if batch_first else 1)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Any, batch_first: bool = False
) -> list[Tensor]:
    """Return the sequences of a batch (T, B, ...) without their padding."""
    batch = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    counts = _lengths(lengths, *batch.shape[:2]).tolist()
    return [batch[i, :count] for i, count in enumerate(counts)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack tensors (length, ...), longest first unless `enforce_sorted` is False."""
    lengths = as_tensor([len(each) for each in sequences])
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """Return the sequences that were packed."""
    padded, lengths = pad_packed_sequence(packed_sequences, batch_first=True)
    return unpad_sequence(padded, lengths, batch_first=True)
