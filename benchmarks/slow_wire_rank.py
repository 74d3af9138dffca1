"""One rank of `slow_wire.py`: Holdfast's or PyTorch's, driven by lines of JSON on standard input.

The first line holds the settings; each further one asks for steps and is answered with a line of
`{"seconds": per step, "loss": mean of the steps on this rank}`. The end of the input ends the rank.
It runs in a Python that has PyTorch and not Holdfast, too, so each library is imported by its side.
"""

import fcntl
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from workloads import OVER_A_WIRE, Library, load_holdfast, load_torch, training_step

SIOCGIFADDR = 0x8915

Step = Callable[[], Any]
"""Trains on the next batch and returns the loss, a tensor."""


class Trainer(Protocol):
    """What a library's side gives. All ranks begin from the same weights."""

    steps: Mapping[bool, Step]
    """With and without exchanging gradients, of two models."""

    def barrier(self) -> None:
        """Return when both ranks have come here."""

    def close(self) -> None:
        """Leave."""


class Training:
    """What both sides train: the model, its first weights and this rank's batches."""

    def __init__(self, library: Library, settings: Mapping[str, Any]) -> None:
        self._library, self._workload = library, OVER_A_WIRE[settings["model"]]
        rank, world_size = settings["rank"], settings["world_size"]
        arrays = np.load(settings["data"])
        self._weights = [arrays[f"w{i}"] for i in range(len(arrays.files) - 2)]
        own = (arrays[name][rank::world_size] for name in ("inputs", "targets"))
        self.batches: Iterator[tuple[Any, Any]] = self._workload.batches(library, *own)

    def model(self) -> Any:
        """Return the model with the first weights."""
        model = self._workload.model(self._library.nn, self._library.functional)
        for parameter, value in zip(model.parameters(), self._weights, strict=True):
            parameter.data[...] = self._library.tensor(value)
        return model

    def optimizer(self, model: Any) -> Any:
        """Return an optimizer of its parameters."""
        return self._workload.make_optimizer(self._library, model.parameters())


class HoldfastTrainer:
    """Ours: one model whose gradients are exchanged, and a copy whose are not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        library = load_holdfast()
        import holdfast as hf

        # Without a run directory nothing is written, as PyTorch writes nothing.
        self._job = job = hf.init(
            hf.WorkerSpec(
                rank=settings["rank"],
                world_size=settings["world_size"],
                master_addr=settings["master_addr"],
                master_port=settings["master_port"],
                token=bytes.fromhex(settings["token"]),
                transport="tcp",
                address=settings["address"],
            )
        )
        training = Training(library, settings)
        model, lone = training.model(), training.model()
        job.prepare(model, training.optimizer(model), **settings["prepare"])
        share = 1 / job.world_size
        loss_of = library.functional.cross_entropy

        def together() -> Any:
            inputs, targets = next(training.batches)
            loss = loss_of(model(inputs), targets)
            job.backward(loss * share)  # of the global batch, as `job.batches` weighs it
            job.step()
            return loss

        alone = training_step(library, lone, training.optimizer(lone), training.batches)
        self.steps: Mapping[bool, Step] = {True: together, False: alone}

    def barrier(self) -> None:
        """Return when both ranks have come here."""
        self._job.communicator.barrier()

    def close(self) -> None:
        """Leave."""
        self._job.close()


class TorchTrainer:
    """DistributedDataParallel over Gloo, one thread; a copy without it for the control."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        os.environ["GLOO_SOCKET_IFNAME"] = interface_of(settings["address"])
        library = load_torch()
        import torch.distributed as dist
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
        from torch.nn.parallel import DistributedDataParallel

        self._dist = dist
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{settings['master_addr']}:{settings['master_port']}",
            rank=settings["rank"],
            world_size=settings["world_size"],
        )
        training = Training(library, settings)
        lone = training.model()
        model = DistributedDataParallel(training.model(), **settings["ddp"])
        if settings["fp16_hook"]:
            model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        self.steps: Mapping[bool, Step] = {
            exchange: training_step(library, each, training.optimizer(each), training.batches)
            for exchange, each in ((True, model), (False, lone))
        }

    def barrier(self) -> None:
        """Return when both ranks have come here."""
        self._dist.barrier()

    def close(self) -> None:
        """Leave."""
        self._dist.destroy_process_group()


def interface_of(address: str) -> str:
    """Return the name of the interface that has `address`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # it has no address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    raise LookupError(f"no interface of this host has the address {address}")


def main() -> None:
    """Answer commands until there are no more."""
    settings = json.loads(sys.stdin.readline())
    libraries: dict[str, Callable[[Mapping[str, Any]], Trainer]] = {
        "holdfast": HoldfastTrainer,
        "torch": TorchTrainer,
    }
    trainer = libraries[settings["library"]](settings)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        step = trainer.steps[command["exchange"]]
        for _ in range(command["warmup"]):
            step()
        trainer.barrier()
        began = time.perf_counter()
        losses = [float(step().item()) for _ in range(command["steps"])]
        seconds = (time.perf_counter() - began) / command["steps"]
        loss = float(np.mean(losses))
        print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)
    trainer.close()


if __name__ == "__main__":
    main()
