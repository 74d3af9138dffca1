"""The folder that a local Ray keeps its sockets and logs in: one per launch, gone with it.

Ray's own default is one folder for all that runs on a machine, where two that start at the same
moment race for the same sockets. A launcher that is killed leaves its folder; the next one sweeps
it: a lock, which the kernel releases with the process, tells which are still in use.
"""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "holdfast-ray-"

_LOCK = "lock"
_LONGEST = 24
"""Characters that leave room in a Unix socket's path (107) for what Ray puts below."""


class RayFolder:
    """A fresh folder from `__enter__` to `__exit__`, and the end of abandoned ones."""

    def __init__(self, parent: Path | None = None) -> None:
        given = Path(tempfile.gettempdir())
        self._parent = parent or (given if len(str(given)) <= _LONGEST else Path("/tmp"))
        self._lock: int | None = None
        self.path = Path()

    def __enter__(self) -> Self:
        self._sweep()
        # Locked before it gets its name, so that nobody sweeps it in between.
        fresh = Path(tempfile.mkdtemp(prefix=".holdfast-", dir=self._parent))
        self._lock = os.open(fresh / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.path = fresh.rename(self._parent / f"{PREFIX}{fresh.name.removeprefix('.holdfast-')}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Ray's processes are ending: what one of them still writes is swept by the next launch.
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _sweep(self) -> None:
        for folder in self._parent.glob(f"{PREFIX}*"):
            if _is_abandoned(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_abandoned(folder: Path) -> bool:
    """Whether the folder is ours and its launcher has ended."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
            return False
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Taken away at this moment, or what is left of one that was: the lock goes first.
        return folder.is_dir()
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
