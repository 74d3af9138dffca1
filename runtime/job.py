"""A training job as its script sees it: join, batches, backward, step.

    job = holdfast.init()
    job.prepare(model, optimizer)
    for images, labels in job.batches(train, batch_size=256, epochs=5):
        loss = F.cross_entropy(model(images), labels)
        job.backward(loss)
        job.step()

Alone, the same script trains on one process. What the loop's body does after `job.step()` (a
schedule's step, an evaluation) belongs to the step: metrics and checkpoints are written when the
body has ended. The job ends by itself when the script does after the last batch; a loop that is
left before calls `job.finish()`.
"""

import atexit
import math
import os
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from holdfast.collectives import GroupConfig, connect
from holdfast.core import Tensor
from holdfast.core import random as core_random
from holdfast.core.backend import choose_device
from holdfast.core.creation import tensor
from holdfast.core.nn import Module
from holdfast.core.nn.clip import clip_grad_norm_, clip_grad_value_
from holdfast.core.optim import Optimizer
from holdfast.core.optim.swa_utils import AveragedModel
from holdfast.core.scaler import GradScaler
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost, UsageError
from holdfast.runtime import state
from holdfast.runtime.carry import carried
from holdfast.runtime.data_parallel import BUCKET_BYTES, Compression, GradientSum
from holdfast.runtime.datasets import Dataset
from holdfast.runtime.order import DataOrder
from holdfast.runtime.recorder import Events, Recorder
from holdfast.runtime.result import RunResult, weights_sha256
from holdfast.runtime.witness import JobWitness
from holdfast.runtime.worker import WorkerSpec

LOSSES_TOGETHER = 10
"""Losses of this many steps are summed over the ranks in one go, for the metrics."""
PROGRESS_SECONDS = 0.1
EVALUATION_BATCH = 1000
SWITCH_SECONDS = 5e-5
"""How long a thread may keep Python to itself while another wants it, in a job of several ranks.

Sums run beside the computation: with Python's own 5 ms the thread that feeds the network gets its
turn too seldom while the script is busy in pure Python: 25 MB took it 133 ms, and 8 ms with this
one. A step of an MLP takes as much processor time with either, within what can be measured."""


class Scheduler(Protocol):
    """What a learning-rate schedule must have to be kept in checkpoints."""

    def state_dict(self) -> dict[str, Any]:
        """Return its state, of JSON values."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state."""


def init(spec: WorkerSpec | None = None) -> "Job":
    """Join the job that this process was started for, and return it.

    Without a launcher's variables in the environment it is a job of one. The random generator that
    initialises weights is seeded. Call it before making the model. Raises UsageError for an
    environment that does not fit, RendezvousError or AuthenticationError where the ranks do not
    come together.
    """
    return Job(spec or WorkerSpec.from_environ(os.environ))


class Job:
    """One worker's side of a job. Made by `init`; not thread-safe."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.rank = spec.rank
        self.world_size = spec.world_size
        self.local_rank = spec.local_rank
        self.device = choose_device(spec.device)
        """Where this worker computes, `cpu` or `cuda`: make the model there (`model.to`)."""
        self.seed = spec.seed or 0
        self.run_dir = spec.run_dir
        self.steps = 0
        """How many steps the run has finished."""
        self.data_epoch = 0
        """The 0-based pass over the data that the last batch belongs to."""
        self.ends_epoch = False
        """Whether the last batch is the last of its data epoch."""
        self._spec = spec
        self._events = Events(spec)
        self._ended = False
        self._complete = False
        self._recorder: Recorder | None = None
        self._training: state.Training | None = None
        self._sum: GradientSum | None = None
        self._order: DataOrder | None = None
        self._weight = 1.0
        self._backward_done = False
        self._pieces_left = self._pieces_done = 0  # of the rank's part of a batch
        self._loss = 0.0  # of the pieces so far
        self._checkpoint_every = 0
        # This rank's, not yet summed over the ranks: step, loss, and what stands beside it.
        self._losses: list[tuple[int, float, dict[str, float]]] = []
        self._began = time.monotonic()
        self._first_step = 0
        self._seconds = 0.0  # in steps, without evaluation
        self._step_ended = 0.0
        self._last_progress = 0.0
        core_random.manual_seed(self.seed)
        self._witness = JobWitness(spec, self._events)
        self.communicator = connect(
            GroupConfig(
                rank=spec.rank,
                world_size=spec.world_size,
                master_addr=spec.master_addr,
                master_port=spec.master_port,
                token=spec.token,
                transport=spec.transport,
                listen_fd=spec.rendezvous_fd,
                timeout=spec.timeout_seconds,
                meeting=spec.rendezvous_seconds,
                address=spec.address,
                port=spec.port,
                public=spec.public,
                control_address=spec.control_address,
                interfaces=spec.wires.interfaces,
                algorithm=spec.wires.algorithm,
                model=spec.wires.model,
                link=spec.wires.link,
                witness=self._witness,
            )
        )
        self._switch_seconds = sys.getswitchinterval()
        if self.world_size > 1:
            sys.setswitchinterval(min(SWITCH_SECONDS, self._switch_seconds))
        self._previous_hook = sys.excepthook
        sys.excepthook = self._on_error
        atexit.register(self._at_exit)

    # What a script calls

    def prepare(
        self,
        model: Module,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        *,
        checkpoint_every: int = 100,
        keep: int = 3,
        bucket_bytes: int = BUCKET_BYTES,
        compression: Compression = None,
        scaler: GradScaler | None = None,
        averages: AveragedModel | None = None,
    ) -> None:
        """Make `model` and `optimizer` the job's; go on from a checkpoint if there is one.

        Every rank ends with rank 0's weights and state. `scaler` is what `backward` scales the
        gradients by, and `step` unscales them; `averages` are kept in checkpoints, and brought up
        to date by the script. `checkpoint_every` is in steps; the newest
        `keep` checkpoints are kept. `compression` is how gradients travel (docs/compression.md): a
        name as `bfloat16` for all buckets but small ones, or what returns a bucket's; every rank
        must give the same. Raises CheckpointMismatch for a checkpoint of another model or
        optimizer, UsageError for a run directory that may not be used.
        """
        if self._training is not None:
            raise UsageError("job.prepare was called twice: a job trains one model")
        self._training = state.Training(
            model, optimizer, scheduler, averages=averages, scaler=scaler
        )
        self._checkpoint_every = checkpoint_every
        self._sum = self._training.exchange = GradientSum(
            optimizer.arena,
            self.communicator,
            bucket_bytes=bucket_bytes,
            compression=compression,
        )
        files = self._witness.files()
        self._recorder = Recorder(self._spec, self._events, keep=keep, files=files)
        resumed = state.restore(
            self._training, self.communicator, self._recorder, seed=self._spec.seed
        )
        if resumed is not None:
            self.steps, self.seed = resumed.step, resumed.seed
        self._first_step = self.steps

    def batches(
        self, dataset: Dataset, batch_size: int, epochs: int, *, accumulate: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's part of each global batch of `batch_size`, until `epochs` are done.

        A resumed run goes on where the checkpoint was taken. Which samples a step gets depends on
        seed and step alone. Each body must call `backward` and `step` once. With `accumulate`, the
        part is yielded in so many pieces, each with a body of its own, and only the last piece's
        `step` sums the gradients and updates the weights: for what does not fit the memory at once.
        """
        training = self._prepared()
        if accumulate < 1:
            raise UsageError(f"accumulate is a number of pieces from 1 up; found {accumulate}")
        order = DataOrder(len(dataset), batch_size, self.seed)
        training.check_data(order)
        self._order = order
        self._complete = False
        total = epochs * order.steps_per_epoch
        while self.steps < total:
            now = self.steps
            shard = order.shard(now, self.rank, self.world_size)
            self.data_epoch = order.data_epoch(now)
            core_random.manual_seed(state.step_seed(self.seed, now, self.rank))
            self._witness.step_begins(now)
            began = time.monotonic()
            pieces = np.array_split(shard.indices, min(accumulate, max(1, len(shard.indices))))
            for i, piece in enumerate(pieces):
                self._pieces_left = len(pieces) - 1 - i
                self.ends_epoch = not self._pieces_left and (now + 1) % order.steps_per_epoch == 0
                self._weight = shard.weight * len(piece) / max(1, len(shard.indices))
                inputs, targets = dataset[piece]
                yield self._tensor(inputs), self._tensor(targets)
                if self._pieces_left and self._pieces_done != i + 1:
                    raise UsageError(
                        f"the loop's body for piece {i} of step {now} did not call job.backward "
                        "and job.step once"
                    )
            if self.steps != now + 1:
                raise UsageError(
                    f"the loop's body for step {now} called job.step() {self.steps - now} times: "
                    "call job.backward and job.step once for each batch"
                )
            self._seconds += self._step_ended - began
            self._after_step(order, total)
        self._complete = True

    def backward(self, loss: Tensor) -> None:
        """Backpropagate `loss`, the mean over this rank's samples; begin to sum the gradients."""
        self._prepared()
        assert self._sum is not None
        if self._backward_done:
            raise UsageError("job.backward was called twice in a step: add the losses first")
        self._backward_done = True
        self._witness.phase("backward")
        self._loss += loss.item() * self._weight
        scaler = self._prepared().scaler
        scale = 1.0 if scaler is None else scaler.get_scale()
        if self._pieces_left:
            loss.backward(self._weight * scale)
            return
        self._sum.backward(loss, self._weight * scale)
        beside = {"lr": self._prepared().optimizer.lr, "data_epoch": self.data_epoch}
        if scaler is not None:
            beside["loss_scale"] = scale
        self._losses.append((self.steps + 1, self._loss, beside))
        self._loss = 0.0

    def step(self, *, clip_norm: float | None = None, clip_value: float | None = None) -> bool:
        """Wait for the summed gradients, update the weights and mark the gradients as used.

        Before the update, the sums are scaled to a norm of at most `clip_norm` (what it was is
        recorded as `gradient_norm`), or brought between -clip_value and clip_value. With a scaler,
        an update by sums that are not finite is left out. All ranks decide alike.

        Returns whether that was done: not where further pieces of the batch are to come.
        """
        training = self._prepared()
        assert self._sum is not None
        if not self._backward_done:
            raise UsageError("job.step was called before job.backward")
        if self._pieces_left:
            self._backward_done = False
            self._pieces_done += 1
            return False
        self._pieces_done = 0
        self._sum.finish()
        if self._sum.compressed:
            self._losses[-1][2]["gradient_bytes"] = self._sum.sent
        self._witness.phase("update")
        optimizer, scaler = training.optimizer, training.scaler
        if scaler is not None:
            scaler.unscale_(optimizer)
        if clip_norm is not None:
            norm = clip_grad_norm_(optimizer.parameters, clip_norm).item()
            if math.isfinite(norm):
                self._losses[-1][2]["gradient_norm"] = norm
        if clip_value is not None:
            clip_grad_value_(optimizer.parameters, clip_value)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()
        self._backward_done = False
        self.steps += 1
        self._step_ended = time.monotonic()
        self._witness.step_ended(self.steps - 1)
        return True

    def shard(
        self, dataset: Dataset, batch_size: int = EVALUATION_BATCH
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this rank's part of `dataset` in order, each sample on exactly one rank."""
        count = len(dataset)
        first = count * self.rank // self.world_size
        end = count * (self.rank + 1) // self.world_size
        for start in range(first, end, batch_size):
            inputs, targets = dataset[np.arange(start, min(start + batch_size, end))]
            yield self._tensor(inputs), self._tensor(targets)

    def sum(self, value: float) -> float:
        """Return the sum of `value`, one number, over the ranks; every rank must call it."""
        if getattr(value, "ndim", 0):
            shape = tuple(value.shape)  # type: ignore[attr-defined]
            raise UsageError(
                f"job.sum: one number is expected; found an array of shape {shape}: sum its "
                "elements, or take job.communicator.all_reduce, which sums arrays"
            )
        self._settle()
        own = np.array([float(value)], np.float64)
        return float(carried(self.communicator, self.communicator.all_reduce, own)[0])

    def log(self, **metrics: float) -> None:
        """Record metrics of the current step; the last values of each end in `result.json`.

        Every rank must call it, with the values that rank 0 is to record. Raises UsageError for the
        name of a field that the result has already.
        """
        recorder = self._opened()
        values = {name: float(value) for name, value in metrics.items()}
        RunResult("finished", metrics=values)  # refuses a name that is taken
        self._prepared().metrics.update(values)
        self._flush_losses(recorder)
        recorder.metrics(self.steps, {"data_epoch": self.data_epoch, **values})
        if self.rank == 0:
            self._events.emit(
                "evaluated", step=self.steps, data_epoch=self.data_epoch, metrics=values
            )

    def finish(self) -> None:
        """Write the last checkpoint, the plot and the result, and leave; may be called again.

        Every rank must call it. Called by itself when the script ends after its last batch.
        """
        if self._ended:
            return
        training, recorder = self._prepared(), self._opened()
        self._settle()
        self._flush_losses(recorder)
        self._checkpoint(recorder)
        samples = self._samples(self.steps)
        trained = samples - self._samples(self._first_step)
        recorder.result(
            RunResult(
                status="finished",
                steps=self.steps,
                samples=samples,
                seconds=time.monotonic() - self._began,
                samples_per_second=trained / self._seconds if self._seconds else 0.0,
                metrics=training.metrics,
                weights_sha256=weights_sha256(training.weights().values()),
                world_size=self.world_size,
                transport=self.communicator.transport,
                restarts=self._spec.restart_count,
            )
        )
        self.communicator.barrier()  # nobody leaves while another may still need what it sent
        self._events.emit("finished")
        self.close()

    def close(self) -> None:
        """Leave the job without a result; may be called again."""
        self._ended = True
        if sys.excepthook == self._on_error:
            sys.excepthook = self._previous_hook
        atexit.unregister(self._at_exit)
        if self._recorder is not None:
            self._recorder.close()
        self.communicator.close()
        if self._sum is not None:
            self._sum.close()
        sys.setswitchinterval(self._switch_seconds)
        self._events.close()
        self._witness.close()

    # Between steps

    def _after_step(self, order: DataOrder, total: int) -> None:
        recorder = self._opened()
        last = self.steps == total
        save = self.ends_epoch or (
            self._checkpoint_every > 0 and self.steps % self._checkpoint_every == 0
        )
        if save or last or self.steps % LOSSES_TOGETHER == 0:
            self._flush_losses(recorder)
        if save and not last:  # the last one is for `finish`
            self._checkpoint(recorder)
        now = time.monotonic()
        due = last or now - self._last_progress >= PROGRESS_SECONDS
        metrics = self._prepared().metrics
        if self.rank == 0 and due and "loss" in metrics:
            self._last_progress = now
            self._events.emit(
                "progress",
                step=self.steps,
                total_steps=total,
                data_epoch=self.data_epoch,
                epochs=total // order.steps_per_epoch,
                loss=metrics["loss"],
                samples_per_second=(self._samples(self.steps) - self._samples(self._first_step))
                / self._seconds,
            )

    def _settle(self) -> None:
        """Let the ranks sum something else, though a step's sums may have begun."""
        if self._backward_done and not self._pieces_left:
            assert self._sum is not None
            self._sum.settle()

    def _flush_losses(self, recorder: Recorder) -> None:
        """Sum the ranks' losses of the last finished steps and record them."""
        # Between backward and step the last one is of a step that has not ended.
        finished = len(self._losses) - (self._backward_done and not self._pieces_left)
        if finished < 1:
            return
        self._settle()
        own = np.array([loss for _, loss, _ in self._losses[:finished]])
        losses = carried(self.communicator, self.communicator.all_reduce, own)
        for loss, (step, _, beside) in zip(losses, self._losses, strict=False):
            recorder.metrics(step, {"loss": loss, **beside})
        self._prepared().metrics["loss"] = float(losses[-1])
        del self._losses[:finished]

    def _checkpoint(self, recorder: Recorder) -> None:
        if self._order is None:
            return
        assert self._sum is not None
        self._sum.fold()  # with or without a run directory, so that the weights are the same
        if recorder.run_dir is None:
            return
        self._witness.phase("checkpoint")
        model, optimizer, rest = self._prepared().snapshot(self._order, self.steps)
        recorder.checkpoint(self.steps, model, optimizer, rest)

    def _samples(self, steps: int) -> int:
        """Return how many samples the first `steps` steps hold."""
        order = self._order
        if order is None:
            return 0
        epochs, rest = divmod(steps, order.steps_per_epoch)
        return epochs * order.samples + rest * order.batch_size

    def _tensor(self, array: Any) -> Tensor:
        return tensor(array, device=self.device)

    def _prepared(self) -> "state.Training":
        if self._training is None:
            raise UsageError("job.prepare(model, optimizer) comes first")
        return self._training

    def _opened(self) -> Recorder:
        self._prepared()
        assert self._recorder is not None
        return self._recorder

    # The end of the script

    def _on_error(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """Tell the launcher what ended this worker, and let go of the peers."""
        self._previous_hook(kind, error, trace)  # before anything that may take its time
        if self._ended:
            return
        self._events.emit(
            "failed",
            error=kind.__name__,
            message=str(error),
            # A peer that is gone or stuck is what another rank's failure looks like from here.
            consequence=isinstance(error, PeerLost | DeadlineExceeded)
            or kind is CommunicationError,
        )
        if self._recorder is not None and self._spec.events_fd is None:
            interrupted = issubclass(kind, KeyboardInterrupt)
            self._recorder.result(
                RunResult(
                    status="interrupted" if interrupted else "failed",
                    steps=self.steps,
                    samples=self._samples(self.steps),
                    seconds=time.monotonic() - self._began,
                    world_size=self.world_size,
                    transport=self.communicator.transport,
                    restarts=self._spec.restart_count,
                    exit_status=130 if interrupted else 1,
                    error=f"{kind.__name__}: {error}",
                )
            )
        self.close()

    def _at_exit(self) -> None:
        """End the job with its script: well after the last batch, else without a result."""
        if not self._complete:
            if self._order is not None and self.rank == 0 and not self._ended:
                self._events.emit(
                    "notice",
                    text=f"holdfast: the script ended after step {self.steps}, before its last "
                    "batch and without job.finish(): the run has no result",
                )
            self.close()
            return
        try:
            self.finish()
        except BaseException as error:  # noqa: BLE001 - Python would end with status 0
            try:
                self._on_error(type(error), error, error.__traceback__)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
