"""What a rank shows at the meeting that begins a call, so that ranks that disagree are told."""

import struct
import zlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from holdfast.collectives.communicator import COMBINE
from holdfast.errors import CollectiveMismatch

CALLS = (
    "all_reduce",
    "reduce_scatter",
    "all_gather",
    "broadcast",
    "all_to_all",
    "reduce",
    "gather",
    "scatter",
    "barrier",
    "allocate",
    "gather_chunks",
)
OPS = tuple(COMBINE)
PRIVATE = (-1, 0)
"""The place of an array that peers cannot read."""
_LAYOUT = struct.Struct("<8q")


class Call(NamedTuple):
    """One rank's call of a collective, and where its arrays lie."""

    call: int
    detail: int
    """The operation and the root, or for `allocate` whether the memory is common."""
    dtype: int
    """See `dtype_sign`: NumPy's own number of a dtype may differ between processes."""
    elements: int
    source: int = -1
    """Segment of the input, or -1 if it is private memory; for `allocate` the descriptor."""
    source_at: int = 0
    target: int = -1
    target_at: int = 0

    def pack(self) -> bytes:
        """Return it as the bytes that are shown."""
        return _LAYOUT.pack(*self)

    def __str__(self) -> str:
        if CALLS[self.call] == "allocate":
            arguments = [f"{self.elements} bytes", f"common={bool(self.detail)}"]
        else:
            arguments = [f"{self.elements} elements of dtype {dtype_name(self.dtype)}"]
            op, root = self.detail % (len(OPS) + 1), self.detail // (len(OPS) + 1)
            arguments += [f"op={OPS[op]}"] if op < len(OPS) else []
            arguments += [f"root={root - 1}"] if root else []
        return f"{CALLS[self.call]}({', '.join(arguments)})"


def describe(
    call: str,
    dtype: np.dtype[Any],
    elements: int,
    *,
    op: str | None = None,
    root: int | None = None,
    source: tuple[int, int] = PRIVATE,
    target: tuple[int, int] = PRIVATE,
) -> Call:
    """Return the call named `call` (of `CALLS`); `source` and `target` are places of arrays."""
    number = len(OPS) if op is None else OPS.index(op)
    place = 0 if root is None else root + 1
    return Call(
        CALLS.index(call),
        place * (len(OPS) + 1) + number,
        dtype_sign(dtype),
        elements,
        *source,
        *target,
    )


def dtype_sign(dtype: np.dtype[Any]) -> int:
    """Return a number that tells dtypes apart and is the same in every process."""
    return zlib.crc32(f"{dtype.str} {dtype.name}".encode())


@cache
def _names() -> dict[int, str]:
    """Return the names of the usual dtypes by their signs."""
    usual = [np.dtype(code) for code in np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?"]
    usual += [dtype.newbyteorder() for dtype in usual]
    names = {dtype_sign(dtype): dtype.name for dtype in usual if dtype.isnative}
    names |= {dtype_sign(dtype): dtype.str for dtype in usual if not dtype.isnative}
    # bfloat16 as ml_dtypes has it, without which no rank can have such an array.
    return names | {zlib.crc32(b"<V2 bfloat16"): "bfloat16"}


def dtype_name(sign: int) -> str:
    """Return the name of the dtype that has this sign, as far as it is a usual one."""
    return _names().get(sign, f"number {sign:08x}")


def agreed(shown: bytes, rank: int) -> list[Call]:
    """Return all ranks' calls; raise CollectiveMismatch if one differs from that of `rank`."""
    calls = [Call._make(words) for words in _LAYOUT.iter_unpack(shown)]
    own = calls[rank]
    for peer, call in enumerate(calls):
        if call[:4] != own[:4]:
            raise CollectiveMismatch(
                f"rank {rank} called {own}, rank {peer} called {call}: every rank makes the same "
                "calls in the same order"
            )
    return calls
