"""What a checkpoint holds of a training run, and how every rank takes it up.

Rank 0 alone reads the checkpoint; the others get its arrays in bulk, so that any number of ranks
may go on and only rank 0's host needs the disk.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from holdfast.collectives import Communicator
from holdfast.core import random as core_random
from holdfast.core.backend import to_host
from holdfast.core.nn import Module
from holdfast.core.optim import Optimizer
from holdfast.core.optim.swa_utils import AveragedModel
from holdfast.core.scaler import GradScaler
from holdfast.errors import CheckpointMismatch, UsageError
from holdfast.runtime.carry import carried
from holdfast.runtime.checkpoint import Checkpoint
from holdfast.runtime.data_parallel import GradientSum
from holdfast.runtime.order import DataOrder
from holdfast.runtime.recorder import Recorder

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

EXCHANGE = "exchange."
"""Begins the names of what compression remembers, among the optimizer's arrays."""
AVERAGES = "averages."
"""Begins the names of the averaged model's arrays, there too."""


class Resumed(NamedTuple):
    """Where a run goes on."""

    step: int
    seed: int


@dataclass
class Training:
    """The model, optimizer and schedule of a job, and the data they were trained on so far."""

    model: Module
    optimizer: Optimizer
    scheduler: Any = None
    data: dict[str, int] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each, as they will stand in the result."""
    exchange: GradientSum | None = None
    """What sums the gradients; compression remembers what it left out."""
    averages: AveragedModel | None = None
    scaler: GradScaler | None = None

    def weights(self) -> Arrays:
        """Return the parameters by name, in the order in which the model has them."""
        return {name: to_host(p.array) for name, p in self.model.named_parameters()}

    def snapshot(self, order: DataOrder, step: int) -> tuple[Arrays, Arrays, dict[str, Any]]:
        """Return the model's arrays, the optimizer's arrays and everything else as JSON values."""
        numbers = self.optimizer.state_dict()
        del numbers["state"]
        rest = {
            "model": self.structure(),
            "model_text": repr(self.model),
            "optimizer": numbers,
            "scaler": self.scaler.state_dict() if self.scaler is not None else None,
            "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
            "scheduler_kind": self._scheduler_kind(),
            "metrics": {k: v for k, v in self.metrics.items() if math.isfinite(v)},
            "data": {
                "step": step,
                "samples": order.samples,
                "batch_size": order.batch_size,
                "seed": order.seed,
            },
            "random": core_random.get_state(),
        }
        model = {name: to_host(t.array) for name, t in self.model.state_dict().items()}
        return model, self.optimizer_arrays(), rest

    def optimizer_arrays(self) -> Arrays:
        """Return the optimizer's arrays, and what is kept among them: the averages, for one."""
        arrays = {name: to_host(a) for name, a in self.optimizer.state_dict()["state"].items()}
        if self.exchange is not None:
            arrays |= {EXCHANGE + name: a for name, a in self.exchange.state_arrays().items()}
        if self.averages is not None:
            averages = self.averages.state_dict().items()
            arrays |= {AVERAGES + name: to_host(t.array) for name, t in averages}
        return arrays

    def structure(self) -> list[list[Any]]:
        """Return what makes this model another than the next: its arrays' names and forms."""
        return [
            [name, list(value.shape), str(value.dtype)]
            for name, value in self.model.state_dict().items()
        ]

    def restore(self, model: Mapping[str, Any], optimizer: Arrays, rest: dict[str, Any]) -> None:
        """Take up what `snapshot` gave."""

        def under(prefix: str) -> Arrays:
            found = {name: a for name, a in optimizer.items() if name.startswith(prefix)}
            return {name.removeprefix(prefix): a for name, a in found.items()}

        self.model.load_state_dict(dict(model))
        others = (EXCHANGE, AVERAGES)
        own = {name: a for name, a in optimizer.items() if not name.startswith(others)}
        self.optimizer.load_state_dict({**rest["optimizer"], "state": own})
        if self.exchange is not None:
            self.exchange.load_state(under(EXCHANGE))
        if self.averages is not None:
            self.averages.load_state_dict(under(AVERAGES))
        if self.scaler is not None:
            self.scaler.load_state_dict(rest["scaler"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(rest["scheduler"])
        core_random.set_state(rest["random"])
        self.data = rest["data"]
        self.metrics = dict(rest["metrics"])

    def _scheduler_kind(self) -> str | None:
        return type(self.scheduler).__name__ if self.scheduler is not None else None

    def check(self, checkpoint: Checkpoint) -> None:
        """Raise CheckpointMismatch unless `checkpoint` is of this model and optimizer."""
        saved: dict[str, Any] = dict(checkpoint.state)
        found, own = saved["model"], self.structure()
        if found != own:
            differing = next(
                ((a, b) for a, b in zip(found, own, strict=False) if a != b),
                (f"{len(found)} arrays", f"{len(own)} arrays"),
            )
            raise CheckpointMismatch(
                f"{checkpoint.path} is of another model: it has {differing[0]} where this "
                f"script's has {differing[1]}. Take another --run-dir for this model, or run the "
                "script that wrote it"
            )
        found = saved["optimizer"]["kind"]
        kind = self.optimizer.state_dict()["kind"]
        if found != kind:
            raise CheckpointMismatch(
                f"{checkpoint.path} was trained with {found}, this script uses {kind}: take "
                "another --run-dir, or the same optimizer"
            )
        for name, before, now in (
            ("averages", any(n.startswith(AVERAGES) for n in checkpoint.optimizer), self.averages),
            ("a GradScaler", saved.get("scaler") is not None, self.scaler),
        ):
            if before != (now is not None):
                raise CheckpointMismatch(
                    f"{checkpoint.path} was trained {'with' if before else 'without'} {name}, this "
                    f"script is {'without' if before else 'with'}: take another --run-dir, or give "
                    "job.prepare the same"
                )
        if saved["scheduler_kind"] != self._scheduler_kind():
            raise CheckpointMismatch(
                f"{checkpoint.path} was trained with the schedule {saved['scheduler_kind']}, this "
                f"script gives job.prepare {self._scheduler_kind()}: take another --run-dir, or "
                "the same schedule"
            )

    def check_data(self, order: DataOrder) -> None:
        """Raise CheckpointMismatch if a resumed run would see other samples than it began with."""
        if self.data is None:
            return
        now = {"samples": order.samples, "batch_size": order.batch_size}
        for name, value in now.items():
            if self.data[name] != value:
                raise CheckpointMismatch(
                    f"the checkpoint was trained with {name} {self.data[name]}, this run has "
                    f"{value}: its position in the data would mean other samples. Go on with "
                    f"{name} {self.data[name]}, or take another --run-dir"
                )


def step_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of what is random within a step: a function of seed, step and rank alone."""
    digest = hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()
    return int.from_bytes(digest[:8], "little")


def restore(
    training: Training, communicator: Communicator, recorder: Recorder, *, seed: int | None
) -> Resumed | None:
    """Give every rank rank 0's weights, from the newest checkpoint if there is one.

    Returns where to go on, None for a run that begins. What is wrong with the checkpoint on rank 0
    is raised on every rank.
    """
    checkpoint: Checkpoint | None = None
    failure: Exception | None = None
    if communicator.rank == 0:
        try:
            checkpoint = recorder.find_checkpoint()
            if checkpoint is not None:
                training.check(checkpoint)
                _check_seed(checkpoint, seed)
                training.restore(
                    checkpoint.model, dict(checkpoint.optimizer), dict(checkpoint.state)
                )
            recorder.begin(checkpoint)
        except Exception as error:  # noqa: BLE001 - raised below, when the others know
            failure = error
    header = _broadcast_json(
        communicator,
        {
            "failure": [type(failure).__name__, str(failure)] if failure else None,
            "step": checkpoint.step if checkpoint else None,
            "state": dict(checkpoint.state) if checkpoint else None,
            # Rank 0's: which there are may depend on the settings that it has taken up.
            "arrays": [
                [name, list(array.shape), array.dtype.name]
                for name, array in training.optimizer_arrays().items()
            ],
        },
    )
    if failure is not None:
        raise failure
    if header["failure"] is not None:
        raise CheckpointMismatch(f"rank 0 could not take up the run: {header['failure'][1]}")
    model: Arrays = {
        name: carried(communicator, communicator.broadcast, to_host(value.array).copy())
        for name, value in training.model.state_dict().items()
    }
    if header["step"] is None:
        training.model.load_state_dict(model)
        if training.averages is not None:
            training.averages.module.load_state_dict(model)
        return None
    own = training.optimizer_arrays()
    optimizer: Arrays = {
        name: carried(
            communicator,
            communicator.broadcast,
            own[name].copy() if communicator.rank == 0 else np.empty(shape, np.dtype(dtype)),
        )
        for name, shape, dtype in header["arrays"]
    }
    training.restore(model, optimizer, header["state"])
    return Resumed(header["step"], header["state"]["data"]["seed"])


def _check_seed(checkpoint: Checkpoint, seed: int | None) -> None:
    saved: dict[str, Any] = dict(checkpoint.state)
    found = saved["data"]["seed"]
    if seed is not None and seed != found:
        raise UsageError(
            f"{checkpoint.path} was trained with seed {found}, --seed is {seed}: leave --seed "
            "out, or take another --run-dir"
        )


def _broadcast_json(communicator: Communicator, value: dict[str, Any]) -> dict[str, Any]:
    """Return rank 0's `value` on every rank."""
    data = np.frombuffer(json.dumps(value).encode(), np.uint8).copy()
    size = carried(communicator, communicator.broadcast, np.array([data.size], np.int64))
    if communicator.rank != 0:
        data = np.empty(int(size[0]), np.uint8)
    data = carried(communicator, communicator.broadcast, data)
    found: dict[str, Any] = json.loads(data.tobytes())
    return found
