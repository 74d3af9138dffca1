"""The PyTorch side of `data_parallel.py`: DistributedDataParallel over Gloo, one thread per rank.

It runs in a Python that has PyTorch and not Holdfast, started by `holdfast.launch.bandwidth`.
`settings` name the model, whether optimizers are fused, and the .npy files.
"""

import datetime
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from workloads import WORKLOADS, load_torch, training_step


class TorchTrainer:
    """Two copies of a model: one whose gradients are exchanged, and one whose are not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        library, workload = load_torch(), WORKLOADS[settings["model"]]
        torch.manual_seed(0)
        self.rank: int = settings["rank"]
        self.world_size: int = settings["world_size"]
        self.version = f"torch {library.version}"
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
        # Each rank trains on its own part of the samples.
        inputs, targets = (
            np.load(settings[name])[self.rank :: self.world_size].copy()
            for name in ("inputs", "targets")
        )
        batches = workload.batches(library, inputs, targets)
        # Without the setting PyTorch chooses, which is what a user gets who says nothing.
        more = {"fused": True} if settings["fused"] else {}
        self._steps: dict[bool, Callable[[], object]] = {}
        for exchange in (True, False):
            model = workload.model(library.nn, library.functional)
            if exchange:
                model = DistributedDataParallel(model)
            optimizer = workload.make_optimizer(library, model.parameters(), **more)
            self._steps[exchange] = training_step(library, model, optimizer, batches)

    def prepare(self, work: Mapping[str, Any]) -> Callable[[], object]:
        return self._steps[work["exchange"]]

    def close(self) -> None:
        dist.destroy_process_group()


def open_trainer(settings: Mapping[str, Any]) -> TorchTrainer:
    return TorchTrainer(settings)
