"""A state of tensors by name as the bytes of a safetensors file, and back.

PyTorch's safetensors files are read as they are, and ours are read by PyTorch. The rule: nothing
is ever unpickled.
"""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from holdfast.core.backend import BFLOAT16, Array, to_device, to_host
from holdfast.core.primitive import wrap
from holdfast.core.tensor import Tensor
from holdfast.core.variable import raw
from holdfast.errors import CheckpointCorrupt, UsageError

METADATA = {"format": "pt"}
"""What readers that ask for the kind of names take for PyTorch's."""

_KINDS: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    "BF16": BFLOAT16,
}
_NAMES = {kind.name for kind in _KINDS.values()}


def pack(state: Mapping[str, Tensor | Array], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a safetensors file that holds `state`, with `metadata` of texts.

    A tensor under two names is written twice, as PyTorch's `load_state_dict` expects it. Raises
    UsageError for a dtype that such a file cannot hold.
    """
    arrays = {}
    for name, value in state.items():
        array = np.asarray(to_host(raw(value)), order="C")
        if array.dtype.name not in _NAMES:
            raise UsageError(
                f"{name!r} has dtype {array.dtype}; a file holds {', '.join(sorted(_NAMES))}"
            )
        arrays[name] = array if sys.byteorder == "little" else array.byteswap()
    specs = {
        name: safetensors.TensorSpec(
            dtype=array.dtype.name,
            shape=array.shape,
            data_ptr=array.ctypes.data,
            data_len=array.nbytes,
        )
        for name, array in arrays.items()  # `arrays` keeps the memory alive
    }
    return bytes(safetensors.serialize(specs, metadata={**METADATA, **(metadata or {})}))


def unpack(data: bytes, device: str = "cpu") -> "OrderedDict[str, Tensor]":
    """Return the tensors that `pack` or PyTorch packed, by name, on `device`.

    Raises CheckpointCorrupt if these are not the bytes of a safetensors file, UsageError for a
    dtype that there is no array of.
    """
    try:
        found = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise CheckpointCorrupt(f"this is no whole safetensors file: {error}") from error
    state = OrderedDict()
    for name, part in sorted(found):
        if part["dtype"] not in _KINDS:
            raise UsageError(
                f"{name!r} has dtype {part['dtype']}; expected one of {', '.join(_KINDS)}"
            )
        array = np.frombuffer(part["data"], dtype=_KINDS[part["dtype"]]).reshape(part["shape"])
        state[name] = wrap(to_device(array, device))
    return state
