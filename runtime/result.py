"""How a run ended: `result.json`, the last file a run directory gets."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from holdfast.errors import UsageError
from holdfast.runtime.files import make_folders, write_atomically

RESULT_NAME = "result.json"

Status = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True)
class RunResult:
    """What a run did and how it ended.

    `steps` and `samples` are those of the whole run, `seconds` the wall time of this attempt to
    train, `samples_per_second` its rate over all ranks. `metrics` are the final ones, such as
    `test_accuracy`; in the file they stand beside the other fields. `weights_sha256` is None where
    no weights are known, `exit_status` 0 for a finished run, `error` what ended another.
    """

    status: Status
    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    samples_per_second: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights_sha256: str | None = None
    world_size: int = 1
    transport: str | None = None
    restarts: int = 0
    exit_status: int = 0
    error: str | None = None

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise UsageError(f"a run's status is one of {get_args(Status)}, got {self.status!r}")
        taken = sorted(_FIELDS & self.metrics.keys())
        if taken:
            raise UsageError(f"metrics may not be named as fields of the result are: {taken}")

    def to_json(self) -> dict[str, Any]:
        """Return the flat mapping that `result.json` holds; a metric that isn't finite is null."""
        plain = {name: getattr(self, name) for name in _ORDER if name != "metrics"}
        metrics = {
            name: float(value) if math.isfinite(value) else None
            for name, value in self.metrics.items()
        }
        return plain | metrics

    @classmethod
    def from_json(cls, flat: Mapping[str, Any]) -> "RunResult":
        """Return the result that `to_json` gave `flat` for."""
        metrics = {
            name: math.nan if value is None else float(value)
            for name, value in flat.items()
            if name not in _FIELDS
        }
        return cls(metrics=metrics, **{name: flat[name] for name in _FIELDS & flat.keys()})


_ORDER = tuple(each.name for each in fields(RunResult))
_FIELDS = frozenset(_ORDER) - {"metrics"}


def write_result(run_dir: Path, result: RunResult) -> Path:
    """Write `result.json` atomically into `run_dir`, which is made if it isn't there."""
    make_folders(run_dir)
    path = run_dir / RESULT_NAME
    write_atomically(path, (json.dumps(result.to_json(), indent=2) + "\n").encode())
    return path


def read_result(run_dir: Path) -> RunResult | None:
    """Return how the run in `run_dir` ended, or None if it has not.

    Raises UsageError if the file is there and is not a result.
    """
    path = run_dir / RESULT_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        flat = json.loads(text)
        if not isinstance(flat, dict):
            raise TypeError(f"expected a JSON object, found a {type(flat).__name__}")
        return RunResult.from_json(flat)
    except (ValueError, TypeError, UsageError) as error:
        raise UsageError(f"{path} is not the result of a run: {error}") from error


def weights_sha256(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of the arrays' elements, one after the other, as hexadecimal digits.

    Elements count in C order and little-endian, whatever the arrays' layout and the machine; names
    and shapes do not count. The order of the arrays is the caller's to fix.
    """
    digest = hashlib.sha256()
    for array in arrays:
        little = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
        digest.update(little.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
