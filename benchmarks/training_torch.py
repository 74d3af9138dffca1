"""The PyTorch side of `data_parallel.py`: DistributedDataParallel over Gloo, one thread per rank.

It runs in a Python that has PyTorch and not Holdfast, started by `holdfast.launch.bandwidth`.
`settings` name the model, the batch per rank, whether optimizers are fused, and the .npy files.
"""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


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


MODELS: dict[str, Callable[[], Any]] = {"lenet": lenet, "mlp": mlp}


def optimizer_for(name: str, parameters: Any, fused: bool) -> Any:
    # None lets PyTorch choose, which is what a user gets who says nothing.
    option = True if fused else None
    if name == "lenet":
        return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, fused=option)
    return torch.optim.Adam(parameters, lr=1e-3, fused=option)


class TorchTrainer:
    """Two copies of a model: one whose gradients are exchanged, and one whose are not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.rank: int = settings["rank"]
        self.world_size: int = settings["world_size"]
        self.version = f"torch {torch.__version__}"
        timeout = datetime.timedelta(seconds=settings["timeout"])
        store = dist.TCPStore(
            settings["master_addr"],
            settings["master_port"],
            self.world_size,
            is_master=self.rank == 0,
            timeout=timeout,
            master_listen_fd=settings["listen_fd"],
        )
        dist.init_process_group(
            "gloo", store=store, rank=self.rank, world_size=self.world_size, timeout=timeout
        )
        self._batch: int = settings["batch"]
        # Each rank trains on its own part of the images.
        self._images = torch.from_numpy(np.load(settings["images"])[self.rank :: self.world_size])
        self._labels = torch.from_numpy(np.load(settings["labels"])[self.rank :: self.world_size])
        self._batches = len(self._labels) // self._batch
        self._next = 0
        make = MODELS[settings["model"]]
        self._steps: dict[bool, Callable[[], None]] = {}
        for exchange in (True, False):
            model = DistributedDataParallel(make()) if exchange else make()
            optimizer = optimizer_for(settings["model"], model.parameters(), settings["fused"])
            self._steps[exchange] = self._step_of(model, optimizer)

    def _step_of(self, model: Any, optimizer: Any) -> Callable[[], None]:
        loss_of = nn.CrossEntropyLoss()

        def step() -> None:
            start = self._next % self._batches * self._batch
            self._next += 1
            stop = start + self._batch
            optimizer.zero_grad()
            loss = loss_of(model(self._images[start:stop]), self._labels[start:stop])
            loss.backward()
            optimizer.step()

        return step

    def prepare(self, work: Mapping[str, Any]) -> Callable[[], None]:
        return self._steps[work["exchange"]]

    def close(self) -> None:
        dist.destroy_process_group()


def open_trainer(settings: Mapping[str, Any]) -> TorchTrainer:
    return TorchTrainer(settings)
