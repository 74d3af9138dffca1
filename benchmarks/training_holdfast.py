"""Holdfast's side of `data_parallel.py`: models, batches and steps as in `training_torch.py`."""

import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"lenet": lenet, "mlp": mlp}


def optimizer_for(name: str, model: nn.Module) -> Any:
    if name == "lenet":
        return optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return optim.Adam(model.parameters(), lr=1e-3)


class HoldfastTrainer:
    """Two copies of a model: one whose gradients are exchanged, and one whose are not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        # Without a run directory nothing is written, as PyTorch writes nothing.
        self._job = hf.init(
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
        self.rank: int = self._job.rank
        self.world_size: int = self._job.world_size
        self.version = importlib.metadata.version("holdfast")
        self._batch: int = settings["batch"]
        # Each rank trains on its own part of the images.
        self._images = np.load(settings["images"])[self.rank :: self.world_size].copy()
        self._labels = np.load(settings["labels"])[self.rank :: self.world_size].copy()
        self._batches = len(self._labels) // self._batch
        self._next = 0
        make = MODELS[settings["model"]]
        self._steps = {
            True: self._exchanging(make(), settings["model"]),
            False: self._alone(make(), settings["model"]),
        }

    def _batch_tensors(self) -> tuple[Any, Any]:
        start = self._next % self._batches * self._batch
        self._next += 1
        stop = start + self._batch
        return hf.tensor(self._images[start:stop]), hf.tensor(self._labels[start:stop])

    def _exchanging(self, model: nn.Module, name: str) -> Callable[[], None]:
        job, optimizer = self._job, optimizer_for(name, model)
        job.prepare(model, optimizer)

        def step() -> None:
            images, labels = self._batch_tensors()
            job.backward(F.cross_entropy(model(images), labels))
            job.step()

        return step

    def _alone(self, model: nn.Module, name: str) -> Callable[[], None]:
        optimizer = optimizer_for(name, model)

        def step() -> None:
            images, labels = self._batch_tensors()
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

        return step

    def prepare(self, work: Mapping[str, Any]) -> Callable[[], None]:
        return self._steps[work["exchange"]]

    def close(self) -> None:
        self._job.close()


def open_trainer(settings: Mapping[str, Any]) -> HoldfastTrainer:
    return HoldfastTrainer(settings)
