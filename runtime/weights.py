"""A state of tensors in a file: `holdfast.save(model.state_dict(), path)`, `holdfast.load(path)`.

The file is safetensors, which PyTorch and its libraries read and write too. Rule: it is written
aside and renamed, so that at any moment `path` holds all of the old bytes or all of the new.
"""

from collections import OrderedDict
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from holdfast.core.backend import Array
from holdfast.core.nn.serialization import pack, unpack
from holdfast.core.tensor import Tensor
from holdfast.errors import CheckpointCorrupt, CheckpointError
from holdfast.runtime.files import OS_FILES, Files, write_atomically


def save(
    state: Mapping[str, Tensor | Array],
    path: str | PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    files: Files = OS_FILES,
) -> None:
    """Write tensors or arrays by name, and `metadata` of texts, to a safetensors file.

    The file is on the disk on return. Raises UsageError for what such a file cannot hold,
    CheckpointError if the disk refuses; a file at `path` is untouched then.
    """
    data = pack(state, metadata)
    try:
        write_atomically(Path(path), data, files)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error}. What was there is untouched"
        ) from error


def load(path: str | PathLike[str], *, device: str = "cpu") -> "OrderedDict[str, Tensor]":
    """Return the tensors of a safetensors file by name, on "cpu" or "cuda".

    Raises CheckpointError if it cannot be read, CheckpointCorrupt if it is not whole or of another
    format.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} could not be read: {error}") from error
    try:
        return unpack(data, device)
    except CheckpointCorrupt as error:
        raise CheckpointCorrupt(f"{path}: {error}") from error
