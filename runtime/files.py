"""The system calls that write files, as a seam: real ones here, faulty ones in tests.

Rule: what must survive a crash is written through `Files`, so that a test can stop the process
between any two calls, fill the disk, or lose what was not synced.
"""

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """The calls that change a file system. Each raises OSError as the system call does."""

    def make_folder(self, path: Path) -> None:
        """Create one folder whose parent exists."""

    def create(self, path: Path) -> int:
        """Create a file that isn't there yet and return a descriptor to write to."""

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data` and return how many bytes."""

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes are on the disk."""

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""

    def sync_folder(self, path: Path) -> None:
        """Return when the folder's entries are on the disk."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name, atomically; a file there is replaced."""

    def remove(self, path: Path) -> None:
        """Remove a file."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""


class OsFiles:
    """The operating system's own calls."""

    def make_folder(self, path: Path) -> None:
        """Create one folder whose parent exists."""
        os.mkdir(path)

    def create(self, path: Path) -> int:
        """Create a file that isn't there yet and return a descriptor to write to."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of `data` and return how many bytes."""
        return os.write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        """Return when the file's bytes are on the disk."""
        os.fsync(descriptor)

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""
        os.close(descriptor)

    def sync_folder(self, path: Path) -> None:
        """Return when the folder's entries are on the disk."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name, atomically; a file there is replaced."""
        os.rename(source, target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)


OS_FILES: Files = OsFiles()
"""The one everybody uses unless a test says otherwise; it has no state."""


def make_folders(path: Path, files: Files = OS_FILES) -> None:
    """Create `path` and the parents it lacks, each of them on the disk on return."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        try:
            files.make_folder(folder)
        except FileExistsError:
            if not folder.is_dir():  # else another process was first, which is as good
                raise
        files.sync_folder(folder.parent)


def write_synced(path: Path, parts: Iterable[bytes], files: Files = OS_FILES) -> None:
    """Create `path` with `parts` one after the other; its bytes are on the disk on return.

    The folder's entry is not: the caller syncs the folder once all its files are written.
    """
    descriptor = files.create(path)
    try:
        for part in parts:
            left = memoryview(part).cast("B")
            while left:
                left = left[files.write(descriptor, left) :]
        files.sync(descriptor)
    finally:
        files.close(descriptor)


def write_atomically(path: Path, data: bytes, files: Files = OS_FILES) -> None:
    """Replace `path` by `data`: after a crash it holds all of the old bytes or all of the new.

    Written aside in the same folder, synced, renamed. Raises OSError, and then leaves `path` as it
    was and nothing beside it, unless the disk refuses even that.
    """
    aside = path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        write_synced(aside, [data], files)
        files.rename(aside, path)
    except OSError:
        if aside.exists():
            files.remove(aside)
        raise
    files.sync_folder(path.parent)
