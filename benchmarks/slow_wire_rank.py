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
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

LEARNING_RATE = 1e-3
SIOCGIFADDR = 0x8915


class Trainer(Protocol):
    """What a library's side gives. All ranks begin from the same weights."""

    def step(self, exchange: bool) -> float:
        """Train on the next batch, with or without exchanging gradients; return the loss."""

    def barrier(self) -> None:
        """Return when both ranks have come here."""

    def close(self) -> None:
        """Leave."""


class Data:
    """This rank's batches, over and over; images lie flat."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        arrays = np.load(settings["data"])
        rank, world_size = settings["rank"], settings["world_size"]
        self.weights = [arrays[f"w{i}"] for i in range(2 * (len(settings["widths"]) - 1))]
        self.images = arrays["images"][rank::world_size].copy()
        self.labels = arrays["labels"][rank::world_size].copy()
        self._batch: int = settings["batch"]
        self._next = 0

    def batch(self) -> slice:
        """Return where the next batch lies."""
        start = self._next % (len(self.labels) // self._batch) * self._batch
        self._next += 1
        return slice(start, start + self._batch)


class HoldfastTrainer:
    """Ours: one model whose gradients are exchanged, and a copy whose are not."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import holdfast as hf
        import holdfast.nn.functional as functional
        from holdfast import nn, optim

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
        data = Data(settings)
        images, labels = hf.tensor(data.images), hf.tensor(data.labels)

        def make() -> tuple[Any, Any]:
            layers: list[Any] = []
            for fan_in, fan_out in zip(settings["widths"], settings["widths"][1:], strict=False):
                layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            model = nn.Sequential(*layers[:-1])
            for parameter, value in zip(model.parameters(), data.weights, strict=True):
                parameter.data[...] = value
            return model, optim.Adam(model.parameters(), lr=LEARNING_RATE)

        model, optimizer = make()
        job.prepare(model, optimizer, **settings["prepare"])
        lone, lone_optimizer = make()

        share = 1 / job.world_size

        def together() -> float:
            at = data.batch()
            loss = functional.cross_entropy(model(images[at]), labels[at])
            job.backward(loss * share)  # of the global batch, as `job.batches` weighs it
            job.step()
            return float(loss.item())

        def alone() -> float:
            at = data.batch()
            lone_optimizer.zero_grad()
            loss = functional.cross_entropy(lone(images[at]), labels[at])
            loss.backward()
            lone_optimizer.step()
            return float(loss.item())

        self._steps = {True: together, False: alone}

    def step(self, exchange: bool) -> float:
        """Train on the next batch."""
        return self._steps[exchange]()

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
        import torch
        import torch.distributed as dist
        from torch import nn
        from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
        from torch.nn.parallel import DistributedDataParallel

        torch.set_num_threads(1)
        self._dist = dist
        dist.init_process_group(
            "gloo",
            init_method=f"tcp://{settings['master_addr']}:{settings['master_port']}",
            rank=settings["rank"],
            world_size=settings["world_size"],
        )
        data = Data(settings)
        images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
        loss_of = nn.CrossEntropyLoss()

        def make(exchange: bool) -> Callable[[], float]:
            layers: list[Any] = []
            for fan_in, fan_out in zip(settings["widths"], settings["widths"][1:], strict=False):
                layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
            model: Any = nn.Sequential(*layers[:-1])
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), data.weights, strict=True):
                    parameter.copy_(torch.from_numpy(value))
            if exchange:
                model = DistributedDataParallel(model, **settings["ddp"])
                if settings["fp16_hook"]:
                    model.register_comm_hook(None, default_hooks.fp16_compress_hook)
            optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

            def step() -> float:
                at = data.batch()
                optimizer.zero_grad()
                loss = loss_of(model(images[at]), labels[at])
                loss.backward()
                optimizer.step()
                return float(loss.item())

            return step

        self._steps = {exchange: make(exchange) for exchange in (True, False)}

    def step(self, exchange: bool) -> float:
        """Train on the next batch."""
        return self._steps[exchange]()

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
        for _ in range(command["warmup"]):
            trainer.step(command["exchange"])
        trainer.barrier()
        began = time.perf_counter()
        losses = [trainer.step(command["exchange"]) for _ in range(command["steps"])]
        seconds = (time.perf_counter() - began) / command["steps"]
        loss = float(np.mean(losses))
        print(json.dumps({"seconds": seconds, "loss": loss}), flush=True)
    trainer.close()


if __name__ == "__main__":
    main()
