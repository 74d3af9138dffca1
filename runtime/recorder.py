"""What a run leaves behind and shows: metrics, events, checkpoints, the plot, the result.

Rank 0 records; on other ranks, and for a run without a directory, every method does nothing, so
that the job need not ask. Outside effects of a step come here only when the step is complete.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import CheckpointCorrupt, CheckpointError, UsageError
from holdfast.runtime.checkpoint import Checkpoint, CheckpointStore
from holdfast.runtime.files import OS_FILES, Files, make_folders
from holdfast.runtime.progress import ProgressView
from holdfast.runtime.result import RunResult, write_result
from holdfast.runtime.worker import WorkerSpec

if TYPE_CHECKING:
    from holdfast.runtime.metrics import MetricsLog

CHECKPOINTS = "checkpoints"


class Events:
    """Tells the launcher what happens, as JSON lines; without a launcher, the terminal."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._fd = spec.events_fd
        self._rank = spec.rank
        self._view = ProgressView() if spec.events_fd is None and spec.rank == 0 else None

    def emit(self, event: str, **values: Any) -> None:
        """Tell one event."""
        message = {"event": event, **values}
        if self._view is not None:
            self._view.handle(message)
        elif self._fd is not None:
            try:
                os.write(self._fd, (json.dumps(message) + "\n").encode())
            except BrokenPipeError:
                self._fd = None  # the launcher is gone, and will take this process with it

    def close(self) -> None:
        """Leave the terminal as it was; may be called again."""
        if self._view is not None:
            self._view.close()


class Recorder:
    """Keeps the run directory of one job."""

    def __init__(
        self, spec: WorkerSpec, events: Events, *, keep: int, files: Files = OS_FILES
    ) -> None:
        self.run_dir = spec.run_dir if spec.rank == 0 else None
        self._spec = spec
        self._events = events
        self._metrics: MetricsLog | None = None
        self._store: CheckpointStore | None = None
        if self.run_dir is not None:
            self._store = CheckpointStore(
                self.run_dir / CHECKPOINTS, keep=keep, report=self._notice, files=files
            )

    def find_checkpoint(self) -> Checkpoint | None:
        """Return the checkpoint to go on from, or None to begin; raise for one that is unusable."""
        store, resume = self._store, self._spec.resume
        if store is None or self.run_dir is None:
            return None
        make_folders(self.run_dir)
        restarted = self._spec.restart_count > 0
        if resume == "never" and not restarted and store.steps():
            raise UsageError(
                f"{self.run_dir} holds checkpoints already and --resume is never: take another "
                "--run-dir, or --resume auto to go on from them"
            )
        if resume in ("auto", "never") or (restarted and store.steps()):
            return store.newest()
        checkpoint = self._load_from(store, Path(resume))
        if any(step > checkpoint.step for step in store.steps()):
            raise UsageError(
                f"{self.run_dir} holds checkpoints of later steps than {checkpoint.path}: to go "
                "on from an earlier one take another --run-dir, so that nothing saved is lost"
            )
        return checkpoint

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Open the metrics, which forget what came after `checkpoint`."""
        if self.run_dir is None:
            return
        from holdfast.runtime.metrics import MetricsLog  # TensorBoard is slow to load

        self._metrics = MetricsLog(self.run_dir, checkpoint.step if checkpoint else 0)
        if checkpoint is not None:
            self._events.emit("resumed", step=checkpoint.step, path=str(checkpoint.path))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record the metrics of `step` finished steps."""
        if self._metrics is not None:
            self._metrics.write(step, values)

    def checkpoint(
        self,
        step: int,
        model: Mapping[str, Any],
        optimizer: Mapping[str, Any],
        state: Mapping[str, Any],
    ) -> None:
        """Commit a checkpoint; a disk that refuses is reported, and training goes on."""
        if self._store is None or self._metrics is None:
            return
        self._metrics.flush()
        try:
            path = self._store.save(step, model=model, optimizer=optimizer, state=state)
        except CheckpointError as error:
            self._notice(str(error))
        else:
            self._events.emit("checkpoint", step=step, path=str(path))

    def result(self, result: RunResult) -> None:
        """Draw the curves and write how the run ended: the last files of its directory."""
        if self.run_dir is None:
            return
        if self._metrics is not None:
            from holdfast.runtime.plot import plot_run  # so is Matplotlib

            self._metrics.close()
            plot_run(self.run_dir)
        write_result(self.run_dir, result)

    def close(self) -> None:
        """Close the metrics; may be called again."""
        if self._metrics is not None:
            self._metrics.close()

    def _load_from(self, store: CheckpointStore, path: Path) -> Checkpoint:
        """Load the checkpoint that the user named: its folder, or the newest of a run directory."""
        if (path / CHECKPOINTS).is_dir():
            found = CheckpointStore(path / CHECKPOINTS, report=self._notice).newest()
            if found is None:
                raise CheckpointCorrupt(f"no whole checkpoint was found in {path / CHECKPOINTS}")
            return found
        return store.load(path)

    def _notice(self, text: str) -> None:
        self._events.emit("notice", text=f"holdfast: {text}")
