"""What a network leaves behind when its process is killed, and how the next one sweeps it.

Each network writes down in a folder of its own which process groups it started. When the process
that made it is gone, `sweep` ends the groups that are left and deletes the folder. Namespaces are
swept apart from that: see `kernel/namespaces.py`.

Rule: a process is known by its number and its start time, so that nobody else's is ever ended.
"""

import contextlib
import os
import secrets
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from holdfast.errors import FabricError

_GROUPS = "groups"
_HALF_MADE_SECONDS = 60.0  # after which a folder without its name is nobody's any more
_OWNER = "owner"


def start_time(pid: int) -> int | None:
    """Return when a process began, in the kernel's ticks; None if there is none."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = line.rsplit(")", 1)[1].split()
    return None if fields[0] in "ZX" else int(fields[19])


def identity(pid: int) -> str:
    """Return a process as it is written down: its number and start time."""
    return f"{pid} {start_time(pid) or 0}"


def lives(identity: str) -> bool:
    """Return whether that very process still runs."""
    pid, began = map(int, identity.split())
    return start_time(pid) == began


class Traces:
    """The folder of one network: sockets, and the process groups that it started."""

    def __init__(self) -> None:
        root = _root()
        self.name = secrets.token_hex(4)
        aside = root / f".{self.name}"
        aside.mkdir()
        (aside / _OWNER).write_text(identity(os.getpid()), encoding="ascii")
        self.folder = root / self.name
        aside.rename(self.folder)  # never seen without its owner

    def started(self, group: int) -> None:
        """Write down a process group, known by its leader."""
        with open(self.folder / _GROUPS, "a", encoding="ascii") as file:
            file.write(identity(group) + "\n")

    def remove(self) -> None:
        """End the groups that are left and delete the folder; may be called again."""
        clear(self.folder)


def sweep() -> list[str]:
    """Clear up after networks whose process is gone; return the names that they had."""
    swept = []
    for folder in abandoned():
        clear(folder)
        swept.append(folder.name)
    return swept


def abandoned() -> Iterator[Path]:
    """Yield the folders of networks whose process is gone."""
    for folder in _root().iterdir():
        with contextlib.suppress(FileNotFoundError):
            if folder.name.startswith("."):
                if time.time() - folder.stat().st_mtime > _HALF_MADE_SECONDS:
                    yield folder
            elif not lives((folder / _OWNER).read_text()):
                yield folder


def clear(folder: Path) -> None:
    """End the groups that a network has left and delete its folder; may be called again."""
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / _GROUPS).read_text(encoding="ascii").splitlines():
            group = int(line.split()[0])
            # A leader's number is nobody else's while its group has members, even without it.
            if lives(line) or start_time(group) is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _root() -> Path:
    root = Path(tempfile.gettempdir()) / f"holdfast-fabric-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise FabricError(
            f"{root} must be a folder that is yours alone (mode 700), as it says which processes "
            "are ended: remove what is there, or set TMPDIR"
        )
    return root
