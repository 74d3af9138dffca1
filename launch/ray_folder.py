"""The folder that a local Ray keeps its sockets and logs in: one per launch, gone with it.

Ray's own default is one folder for all that runs on a machine, where two that start at the same
moment race for the same sockets. `ray_guard.py` watches over each folder and its processes. Where
it was killed too, the next launch sweeps the folder: a lock, which the kernel releases with the
launcher, tells which are still in use.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "holdfast-ray-"

_LOCK = "lock"
_GUARD = str(Path(__file__).with_name("ray_guard.py"))
_GUARD_DEADLINE = 10.0
_LONGEST = 24
"""Characters that leave room in a Unix socket's path (107) for what Ray puts below."""


class RayFolder:
    """A fresh folder from `__enter__` to `__exit__`, and then the end of what still uses it."""

    def __init__(self, parent: Path | None = None) -> None:
        self._parent = parent or usual_parent()
        self._stack = contextlib.ExitStack()
        self.path = Path()

    def __enter__(self) -> Self:
        for folder in abandoned(self._parent):
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.ExitStack() as stack:
            # Locked before it gets its name, so that nobody sweeps it in between.
            fresh = Path(tempfile.mkdtemp(prefix=".holdfast-", dir=self._parent))
            lock = os.open(fresh / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            name = f"{PREFIX}{fresh.name.removeprefix('.holdfast-')}"
            self.path = fresh.rename(self._parent / name)
            guard = subprocess.Popen(
                [sys.executable, "-S", "-E", _GUARD, str(self.path), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(_dismiss, guard)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()


def usual_parent() -> Path:
    """Return where the folders are made: for temporary files, at a path that is short enough."""
    given = Path(tempfile.gettempdir())
    return given if len(str(given)) <= _LONGEST else Path("/tmp")


def abandoned(parent: Path) -> list[Path]:
    """Return the folders of launches that were killed, together with what guarded them."""
    return [folder for folder in sorted(parent.glob(f"{PREFIX}*")) if _is_abandoned(folder)]


def _dismiss(guard: "subprocess.Popen[bytes]") -> None:
    """Have the guard do its work, and wait until it is done."""
    if guard.stdin is not None:
        guard.stdin.close()
    # Nobody needs to wait longer for what the kernel cannot end: the guard stays with it.
    with contextlib.suppress(subprocess.TimeoutExpired):
        guard.wait(_GUARD_DEADLINE)


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
