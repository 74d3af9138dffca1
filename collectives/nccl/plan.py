"""Which of NCCL's calls make up a collective, as data: offsets and counts, no pointers.

A plan is a list of calls that are made as one group. Offsets and counts are in elements of the type
that NCCL is told (`ElementType`), within one source and one target, each contiguous.

Three things differ from NCCL. Its reduce-scatter splits evenly, ours at `chunk_bounds`: where those
are uneven, each chunk is a reduce of its own to its rank, all in one group, which moves the same
bytes and needs neither padding nor a copy. It has no gather, scatter or all-to-all before 2.28:
grouped sends and receives. And a binding may take only 32-bit counts: then calls are cut.

Source: NCCL user guide, "Collective Operations", "Point-to-point communication", "Data types".
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from holdfast.collectives.communicator import COMBINE
from holdfast.errors import UsageError

Verb: TypeAlias = Literal[
    "all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "send", "recv"
]

CODES = {
    "int8": 0,
    "uint8": 1,
    "int32": 2,
    "uint32": 3,
    "int64": 4,
    "uint64": 5,
    "float16": 6,
    "float32": 7,
    "float64": 8,
    "bfloat16": 9,
}
"""`ncclDataType_t` by NumPy's names."""

OPERATIONS = {"sum": 0, "prod": 1, "max": 2, "min": 3, "mean": 4}
"""`ncclRedOp_t` by our names."""

_PARTS = {"complex64": "float32", "complex128": "float64"}


class Abilities(NamedTuple):
    """What a binding and the library below it can do."""

    version: tuple[int, int, int]
    """NCCL's."""
    most_elements: int
    """The largest count of elements that one call takes."""
    blocking: bool
    """Whether its calls may block: then no deadline holds inside them."""
    mean: bool
    bfloat16: bool
    shrink: bool


class ElementType(NamedTuple):
    """What NCCL is told of the elements: its code, and how many of them make one of ours."""

    code: int
    size: int
    """Bytes of one of NCCL's elements."""
    each: int
    """NCCL's elements in one of ours."""


class Call(NamedTuple):
    """One call: where in the source and target, how many elements, with which root or peer.

    `source` or `target` is None where this rank has none.
    """

    verb: Verb
    source: int | None
    target: int | None
    length: int
    peer: int = 0


def summed(dtype: "np.dtype[np.generic]", op: str, abilities: Abilities) -> ElementType:
    """Return how NCCL is told to combine `dtype` by `op`; UsageError where it cannot.

    The sum of complex numbers is that of their parts. NCCL adds no 16-bit integers.
    """
    if op not in OPERATIONS:
        raise UsageError(f"an operation of {', '.join(COMBINE)} was expected, found {op!r}")
    if op == "mean" and dtype.kind in "iu":
        raise UsageError(f"the mean of {dtype} is not {dtype}: convert the array to float first")
    name = _PARTS.get(dtype.name, dtype.name) if op in ("sum", "mean") else dtype.name
    if name not in CODES:
        raise UsageError(
            f"NCCL has no {op} of {dtype}; it combines {', '.join(CODES)}, and adds complex "
            "numbers: convert the array first"
        )
    if name == "bfloat16" and not abilities.bfloat16:
        raise UsageError(
            "this binding of NCCL has no bfloat16: take nccl4py, or convert the array to float32"
        )
    if op == "mean" and not abilities.mean:
        raise UsageError(
            "this binding of NCCL has no mean: take nccl4py, or the sum and divide it by the "
            "world size"
        )
    size = 2 if name == "bfloat16" else np.dtype(name).itemsize
    return ElementType(CODES[name], size, dtype.itemsize // size)


def moved(dtype: "np.dtype[np.generic]") -> ElementType:
    """Return how NCCL is told to move `dtype` unchanged: as bytes, so that any dtype goes."""
    return ElementType(CODES["uint8"], 1, dtype.itemsize)


def pieces(count: int, most: int) -> Iterator[tuple[int, int]]:
    """Yield (offset, count) of the parts of at most `most` that `count` is cut into."""
    for start in range(0, count, most):
        yield start, min(most, count - start)


def all_reduce(count: int, most: int) -> list[Call]:
    """Every rank's source, combined, in every rank's target."""
    return [Call("all_reduce", at, at, size) for at, size in pieces(count, most)]


def reduce_scatter(bounds: Sequence[int], rank: int, most: int) -> list[Call]:
    """Chunk r (from bounds[r] to bounds[r + 1]) of the combined source in rank r's target."""
    sizes = {end - start for start, end in itertools.pairwise(bounds)}
    if len(sizes) == 1 and 0 < (size := sizes.pop()) <= most:
        return [Call("reduce_scatter", 0, 0, size)]
    return [
        Call("reduce", start + at, at if root == rank else None, size, root)
        for root, (start, end) in enumerate(itertools.pairwise(bounds))
        for at, size in pieces(end - start, most)
    ]


def all_gather(count: int, world_size: int, rank: int, most: int) -> list[Call]:
    """Every rank's source of `count`, one after the other, in every rank's target."""
    if 0 < count <= most:
        return [Call("all_gather", 0, 0, count)]
    return [
        Call("broadcast", at if root == rank else None, root * count + at, size, root)
        for root in range(world_size)
        for at, size in pieces(count, most)
    ]


def broadcast(count: int, root: int, most: int) -> list[Call]:
    """The root's array in every rank's, in place: source and target are the same."""
    return [Call("broadcast", at, at, size, root) for at, size in pieces(count, most)]


def reduce(count: int, root: int, rank: int, most: int) -> list[Call]:
    """Every rank's source, combined, in the root's target."""
    return [
        Call("reduce", at, at if root == rank else None, size, root)
        for at, size in pieces(count, most)
    ]


def all_to_all(count: int, world_size: int, most: int) -> list[Call]:
    """Part r of the source, of `count`, to rank r; its part for this rank as part r of the target.

    A rank sends to itself too: within a group NCCL makes that a copy.
    """
    return [
        call
        for peer in range(world_size)
        for at, size in pieces(count, most)
        for call in (
            Call("send", peer * count + at, None, size, peer),
            Call("recv", None, peer * count + at, size, peer),
        )
    ]


def gather(count: int, world_size: int, root: int, rank: int, most: int) -> list[Call]:
    """Every rank's source of `count`, one after the other, in the root's target."""
    calls = send(count, root, most)
    if rank == root:
        calls += [call for peer in range(world_size) for call in recv(count, peer, most, peer)]
    return calls


def scatter(count: int, world_size: int, root: int, rank: int, most: int) -> list[Call]:
    """Part r of the root's source, of `count`, in rank r's target."""
    calls = recv(count, root, most)
    if rank == root:
        calls += [call for peer in range(world_size) for call in send(count, peer, most, peer)]
    return calls


def send(count: int, peer: int, most: int, part: int = 0) -> list[Call]:
    """Part number `part` of the source, of `count`, to `peer`."""
    return [Call("send", part * count + at, None, n, peer) for at, n in pieces(count, most)]


def recv(count: int, peer: int, most: int, part: int = 0) -> list[Call]:
    """What `peer` sends, of `count`, as part number `part` of the target."""
    return [Call("recv", None, part * count + at, n, peer) for at, n in pieces(count, most)]
