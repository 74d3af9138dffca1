"""Checkpoints on disk: a new folder for each, that is whole or does not count.

```
step_00000230/
├── model.safetensors      the parameters
├── optimizer.safetensors  the optimizer's state
├── state.json             data position, random state, schedule, names and versions
├── manifest.json          the size and SHA-256 of each of those
└── COMMITTED              the SHA-256 of the manifest: the mark
```

Rule: a checkpoint is written aside, every file and folder synced, then renamed; an older one is
removed only after that, its mark first. So at any moment, and after a crash at any moment, the
newest committed checkpoint is whole, and a folder without a mark is nobody's.

One process at a time writes to a store; any number may read.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from holdfast.errors import CheckpointCorrupt, CheckpointError, UsageError
from holdfast.runtime.files import OS_FILES, Files, make_folders, write_synced

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
Arrays = Mapping[str, npt.NDArray[Any]]

FORMAT = 1
MODEL_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"
MANIFEST_NAME = "manifest.json"
MARK_NAME = "COMMITTED"

_CONTENT = (MODEL_NAME, OPTIMIZER_NAME, STATE_NAME)
_ASIDE = ".tmp-"
_FOLDER = re.compile(r"step_(\d{8,})")
_DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read and checked. `step` is how many steps the run had finished.

    The arrays are read-only views of what was read; copy them to where they are used.
    """

    path: Path
    step: int
    model: Arrays
    optimizer: Arrays
    state: Mapping[str, Json]


class CheckpointStore:
    """The checkpoints of one run in `folder`, of which the newest `keep` are kept.

    `report` gets a line for everything that is put up with: an invalid checkpoint passed over, an
    old one that cannot be removed. `files` makes the system calls that write.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 3,
        files: Files = OS_FILES,
        report: Callable[[str], None],
    ) -> None:
        if keep < 1:
            raise UsageError(f"at least 1 checkpoint must be kept, got keep={keep}")
        self.folder = folder
        self.keep = keep
        self._files = files
        self._report = report

    def save(
        self, step: int, *, model: Arrays, optimizer: Arrays, state: Mapping[str, Json]
    ) -> Path:
        """Commit a checkpoint of `step` and return its folder, which is on the disk by then.

        A valid one of that step is left as it is; an invalid one is replaced. Leftovers of broken
        attempts are swept first, and checkpoints beyond `keep` removed last. Raises UsageError for
        what a checkpoint cannot hold, CheckpointError if the disk refuses (full, read-only); older
        checkpoints are untouched then.
        """
        if step < 0:
            raise UsageError(f"a checkpoint's step counts from 0, got {step}")
        parts = {
            MODEL_NAME: _pack(MODEL_NAME, model),
            OPTIMIZER_NAME: _pack(OPTIMIZER_NAME, optimizer),
            STATE_NAME: _pack_state(state),
        }
        path = self.folder / f"step_{step:08d}"
        aside = self.folder / f"{_ASIDE}{path.name}"
        try:
            make_folders(self.folder, self._files)
            self._sweep()
            if self._is_valid(path):
                return path
            self._write(aside, step, parts)
            if path.exists():  # invalid, or it would have been left: a folder can't be renamed over
                self._remove(path)
            self._files.rename(aside, path)
            self._files.sync_folder(self.folder)
        except OSError as error:
            self._try_to_remove(aside)
            raise CheckpointError(
                f"the checkpoint of step {step} could not be written to {path}: {error}. Older "
                f"checkpoints are untouched; free or repair the disk and resume"
            ) from error
        for old in self.steps()[: -self.keep]:
            if old != step:
                self._try_to_remove(self.folder / f"step_{old:08d}")
        return path

    def newest(self) -> Checkpoint | None:
        """Return the newest valid checkpoint, or None; invalid ones are reported by name."""
        for path in reversed(self._folders()):
            try:
                return self.load(path)
            except CheckpointCorrupt as error:
                self._report(f"{error}; trying the one before it")
        return None

    def load(self, path: Path) -> Checkpoint:
        """Return the checkpoint in the folder `path`, which need not be in this store.

        Raises CheckpointCorrupt, saying which file and why, unless all its bytes are those that
        were written.
        """
        try:
            return _read(path)
        except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
            raise CheckpointCorrupt(f"the checkpoint {path} cannot be used: {error}") from error

    def steps(self) -> list[int]:
        """Return the steps that have a committed checkpoint, ascending; contents aren't read."""
        return [_step_of(path) for path in self._folders() if (path / MARK_NAME).is_file()]

    def _folders(self) -> list[Path]:
        """Return the folders named as checkpoints are, marked or not, by ascending step."""
        if not self.folder.is_dir():
            return []
        named = [each for each in self.folder.iterdir() if _FOLDER.fullmatch(each.name)]
        return sorted(named, key=_step_of)

    def _is_valid(self, path: Path) -> bool:
        if not path.exists():
            return False
        try:
            self.load(path)
        except CheckpointCorrupt as error:
            self._report(f"{error}; replacing it")
            return False
        return True

    def _write(self, aside: Path, step: int, parts: Mapping[str, bytes]) -> None:
        manifest = {
            "format": FORMAT,
            "step": step,
            "files": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in parts.items()
            },
        }
        packed = (json.dumps(manifest, indent=2) + "\n").encode()
        mark = (hashlib.sha256(packed).hexdigest() + "\n").encode()
        self._files.make_folder(aside)
        for name, data in (*parts.items(), (MANIFEST_NAME, packed), (MARK_NAME, mark)):
            write_synced(aside / name, [data], self._files)
        self._files.sync_folder(aside)

    def _sweep(self) -> None:
        """Remove what broken attempts left: folders written aside, and those without a mark."""
        leftovers = sorted(self.folder.glob(f"{_ASIDE}step_*"))
        unmarked = [each for each in self._folders() if not (each / MARK_NAME).is_file()]
        for path in (*leftovers, *unmarked):
            self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove a checkpoint's folder; it stops counting before any of its bytes are gone."""
        mark = path / MARK_NAME
        if mark.exists():
            self._files.remove(mark)
            self._files.sync_folder(path)
        for each in sorted(path.iterdir()):
            self._files.remove(each)
        self._files.remove_folder(path)
        self._files.sync_folder(path.parent)

    def _try_to_remove(self, path: Path) -> None:
        """Remove a folder that is only in the way; the next save tries again if that fails."""
        if not path.exists():
            return
        try:
            self._remove(path)
        except OSError as error:
            self._report(f"{path} could not be removed: {error}; the next save tries again")


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step_"))


def _pack(name: str, arrays: Arrays) -> bytes:
    for key, array in arrays.items():
        if array.dtype.name not in _DTYPES:
            raise UsageError(
                f"{name}: {key!r} has dtype {array.dtype}; a checkpoint holds {', '.join(_DTYPES)}"
            )
    # Not ascontiguousarray, which turns a scalar into an array of one dimension.
    return safetensors.numpy.save(
        {key: np.asarray(array, order="C") for key, array in arrays.items()}
    )


def _pack_state(state: Mapping[str, Json]) -> bytes:
    try:
        return (json.dumps(dict(state), indent=2, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{STATE_NAME}: a checkpoint's state must be finite JSON: {error}"
        ) from error


def _read(path: Path) -> Checkpoint:
    """Read and check a checkpoint; raise ValueError, or whatever a wrong file makes us raise."""
    if not path.is_dir():
        raise ValueError("there is no such folder")
    if not (path / MARK_NAME).is_file():
        raise ValueError(f"it has no {MARK_NAME} mark: its writing or removal was interrupted")
    packed = (path / MANIFEST_NAME).read_bytes()
    _check(MANIFEST_NAME, packed, (path / MARK_NAME).read_text(encoding="ascii").strip())
    manifest = json.loads(packed)
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{MANIFEST_NAME}: expected format {FORMAT}, found {manifest['format']}: it was "
            f"written by another version of Holdfast"
        )
    if set(manifest["files"]) != set(_CONTENT):
        raise ValueError(
            f"{MANIFEST_NAME}: expected {sorted(_CONTENT)}, found {sorted(manifest['files'])}"
        )
    if _FOLDER.fullmatch(path.name) and _step_of(path) != manifest["step"]:
        raise ValueError(f"{MANIFEST_NAME}: it is of step {manifest['step']}")
    contents = {}
    for name in _CONTENT:
        entry = manifest["files"][name]
        size = (path / name).stat().st_size
        if size != entry["bytes"]:
            raise ValueError(f"{name}: expected {entry['bytes']} bytes, found {size}")
        contents[name] = (path / name).read_bytes()
        _check(name, contents[name], entry["sha256"])
    return Checkpoint(
        path=path,
        step=manifest["step"],
        model=safetensors.numpy.load(contents[MODEL_NAME]),
        optimizer=safetensors.numpy.load(contents[OPTIMIZER_NAME]),
        state=json.loads(contents[STATE_NAME]),
    )


def _check(name: str, data: bytes, expected: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise ValueError(f"{name}: expected the SHA-256 {expected}, found {found}")
