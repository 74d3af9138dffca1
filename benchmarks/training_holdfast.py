"""Holdfast's side of `data_parallel.py`: the job, and steps with and without exchange."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from workloads import WORKLOADS, load_holdfast, training_step

import holdfast as hf


class HoldfastTrainer:
    """Two copies of a model: one whose gradients are exchanged, and one whose are not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        # Without a run directory nothing is written, as PyTorch writes nothing.
        self._job = job = hf.init(
            hf.WorkerSpec(
                rank=settings["rank"],
                world_size=settings["world_size"],
                local_rank=settings["rank"],
                master_addr=settings["master_addr"],
                master_port=settings["master_port"],
                token=bytes.fromhex(settings["token"]),
                transport=settings["transport"],
                rendezvous_fd=settings["listen_fd"],
            )
        )
        self.rank: int = job.rank
        self.world_size: int = job.world_size
        library, workload = load_holdfast(), WORKLOADS[settings["model"]]
        self.version = library.version
        # Each rank trains on its own part of the samples.
        inputs, targets = (
            np.load(settings[name])[self.rank :: self.world_size] for name in ("inputs", "targets")
        )
        batches = workload.batches(library, inputs, targets)
        models = [workload.model(library.nn, library.functional) for _ in range(2)]
        optimizers = [workload.make_optimizer(library, each.parameters()) for each in models]
        job.prepare(models[0], optimizers[0])
        loss_of = library.functional.cross_entropy

        def exchanging() -> None:
            samples, wanted = next(batches)
            job.backward(loss_of(models[0](samples), wanted))
            job.step()

        alone = training_step(library, models[1], optimizers[1], batches)
        self._steps: dict[bool, Callable[[], object]] = {True: exchanging, False: alone}

    def prepare(self, work: Mapping[str, Any]) -> Callable[[], object]:
        return self._steps[work["exchange"]]

    def close(self) -> None:
        self._job.close()


def open_trainer(settings: Mapping[str, Any]) -> HoldfastTrainer:
    return HoldfastTrainer(settings)
