"""What a worker tells of its links and steps, and how a drill's faults reach it.

Links lost and restored always become events of the job. In a drill the worker also has a `Player`
(`fabric/stage.py`): it stops where a fault is to be put in place, tells when its steps end, and
finds its disk full or slow when the script says so.
"""

import errno
import os
import time
from pathlib import Path

from holdfast.fabric.stage import Player
from holdfast.runtime.files import Files, OsFiles
from holdfast.runtime.recorder import Events
from holdfast.runtime.worker import WorkerSpec


class JobWitness:
    """The witness of one job's collectives and steps. Thread-safe.

    `step` is the step that the worker is in, counted from 0.
    """

    def __init__(self, spec: WorkerSpec, events: Events) -> None:
        self.step = 0
        self._events = events
        self._player = None if spec.stage is None else Player(spec.stage, spec.rank, spec.host)

    def files(self) -> Files:
        """Return the calls with which checkpoints are written."""
        return OsFiles() if self._player is None else TroubledFiles(self._player)

    # What the collectives tell

    def phase(self, name: str) -> None:
        """Let a drill put a fault in place in this phase of the current step."""
        if self._player is not None:
            self._player.reach(self.step, name)

    def link_lost(self, peer: int, why: str) -> None:
        """Make it an event."""
        self._tell("link lost", peer=peer, why=why)

    def link_restored(self, peer: int, seconds: float) -> None:
        """Make it an event."""
        self._tell("link restored", peer=peer, seconds=round(seconds, 6))

    def traffic(self, peer: int, sent: int, received: int) -> None:
        """Tell a drill, which draws it."""
        if self._player is not None:
            self._player.tell(
                {
                    "event": "traffic",
                    "time": time.monotonic(),
                    "peer": peer,
                    "sent": sent,
                    "received": received,
                }
            )

    # What the job tells

    def step_begins(self, step: int) -> None:
        """Take note of the step that all phases from now on belong to."""
        self.step = step
        self.phase("step")

    def step_ended(self, step: int) -> None:
        """Tell a drill."""
        if self._player is not None:
            self._player.tell({"event": "step", "time": time.monotonic(), "step": step})

    def close(self) -> None:
        """Leave the stage; may be called again."""
        if self._player is not None:
            self._player.close()

    def _tell(self, event: str, **values: object) -> None:
        self._events.emit(event, step=self.step, **values)
        if self._player is not None:
            self._player.tell({"event": event, "time": time.monotonic(), **values})


_PIECE_SECONDS = 0.05
_LONGEST_SECONDS = 1.0


class TroubledFiles(OsFiles):
    """The operating system's calls on a disk that a drill can fill or slow down."""

    def __init__(self, player: Player) -> None:
        self._player = player

    def make_folder(self, path: Path) -> None:
        """Create a folder, unless the disk is full."""
        self._check()
        super().make_folder(path)

    def create(self, path: Path) -> int:
        """Create a file, unless the disk is full."""
        self._check()
        return super().create(path)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write at the disk's rate, unless it is full."""
        self._check()
        if self._player.disk == "slow":
            # A piece so small that a disk which is healed meanwhile is soon quick again.
            piece = max(1, int(self._player.disk_rate / 8 * _PIECE_SECONDS))
            data = data[:piece]
            time.sleep(min(8 * len(data) / max(self._player.disk_rate, 1.0), _LONGEST_SECONDS))
        return super().write(descriptor, data)

    def _check(self) -> None:
        if self._player.disk == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
