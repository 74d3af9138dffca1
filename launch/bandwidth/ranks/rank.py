"""A measured process: it opens one library, then waits for commands and answers with times.

`python -P rank.py TASK PROGRAM` is run by path in the measured library's own Python, so it uses the
standard library and NumPy alone. Between measurements it blocks on the controller's socket, never
inside the library: a library that waits its turn must not take CPU from the one being measured.

One message is one line of JSON. After a first message that says who it is, the process gets
commands `{"iters": n, "warmup": w, "check": bool, ...what an iteration is...}` and answers
`{"seconds": per iteration, "wrong": wrong elements}`. The end of the connection ends the process.
"""

import importlib.util
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Message = dict[str, Any]

# What is summed: small integers, so that float32 sums are exact in any order. The period is a
# prime, so that a chunk that lands in another's place is seen; ranks differ by a factor, so that
# one rank added twice instead of two ranks is seen.
PERIOD = 251
_TILE: Array = np.tile(np.arange(PERIOD, dtype=np.float32), 1024)


class Group(Protocol):
    """What a library's program gives: its ranks, connected, with their arrays allocated."""

    rank: int
    world_size: int
    version: str

    def operation(self, count: int, in_place: bool) -> tuple[Array, Array, Callable[[], object]]:
        """Return an input, an output (the same if `in_place`) and what sums one into the other."""

    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def close(self) -> None:
        """Give everything back."""


class Trainer(Protocol):
    """What a training program gives: ranks that can do one kind of step or another."""

    rank: int
    world_size: int
    version: str

    def prepare(self, work: Message) -> Callable[[], object]:
        """Return what does one step of the kind that `work` says."""

    def close(self) -> None:
        """Give everything back."""


class Task(Protocol):
    """What the loop times."""

    def prepare(self, work: Message) -> Callable[[], object]:
        """Return what does one iteration."""

    def barrier(self) -> None:
        """Return when all ranks have come here."""

    def check(self, work: Message) -> int:
        """Do one iteration and return how many elements of its result are wrong on this rank."""


class Channel:
    """The connection to the controller: one JSON object per line."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._socket.settimeout(
            None
        )  # between measurements it waits for as long as the others take
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("r", encoding="utf-8", newline="\n")

    def send(self, message: Mapping[str, object]) -> None:
        """Send one message."""
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> Message | None:
        """Return the next message, or None when the controller has gone."""
        line = self._lines.readline()
        if not line.endswith("\n"):
            return None
        message: Message = json.loads(line)
        return message

    def meet(self) -> None:
        """Return when the ranks of this library have all called this: the controller's barrier."""
        self.send({"waiting": True})
        if self.receive() is None:
            raise ConnectionError("the controller has gone while the ranks were to start together")


class AllReduce:
    """Sums of float32 arrays: `work` is `{"size": bytes, "in_place": bool}`."""

    def __init__(self, group: Group, channel: Channel) -> None:
        self._group = group

    def prepare(self, work: Message) -> Callable[[], object]:
        """Write the input; return one sum."""
        source, _, run = self._group.operation(work["size"] // 4, work["in_place"])
        if work["in_place"]:
            # Each sum is the input of the next: any other value would soon overflow.
            source.fill(0.0)
        else:
            fill(source, self._group.rank)
        return run

    def barrier(self) -> None:
        """Return when all ranks have come here: the library's own barrier."""
        self._group.barrier()

    def check(self, work: Message) -> int:
        """Sum known values and count the elements that are not the exact sum."""
        source, result, run = self._group.operation(work["size"] // 4, work["in_place"])
        fill(source, self._group.rank)
        if not work["in_place"]:
            result.fill(np.nan)
        # The result may be one memory for all ranks: none may clear it when another is summing.
        self._group.barrier()
        run()
        return count_wrong(result, self._group.world_size)


class Steps:
    """Training steps; the ranks start together by the controller, whatever the library has."""

    def __init__(self, trainer: Trainer, channel: Channel) -> None:
        self._trainer = trainer
        self._channel = channel

    def prepare(self, work: Message) -> Callable[[], object]:
        """Return one step."""
        return self._trainer.prepare(work)

    def barrier(self) -> None:
        """Return when all ranks have come here: the controller's barrier."""
        self._channel.meet()

    def check(self, work: Message) -> int:
        """Refuse."""
        raise ValueError("training steps have no known result to check")


# What a command line calls a task: the function that its program has to have, and what times it.
TASKS: dict[str, tuple[str, Callable[[Any, Channel], Task]]] = {
    "all-reduce": ("open_group", AllReduce),
    "steps": ("open_trainer", Steps),
}


def fill(array: Array, rank: int) -> None:
    """Write the input of `rank` into `array`."""
    tile = _TILE * np.float32(rank + 1) + np.float32(rank)
    for start in range(0, array.size, tile.size):
        block = array[start : start + tile.size]
        block[:] = tile[: block.size]


def count_wrong(array: Array, world_size: int) -> int:
    """Return how many elements of `array` differ from the sum of all ranks' inputs."""
    ranks = world_size * (world_size + 1) // 2
    tile = _TILE * np.float32(ranks) + np.float32(ranks - world_size)
    wrong = 0
    for start in range(0, array.size, tile.size):
        block = array[start : start + tile.size]
        wrong += int(np.count_nonzero(block != tile[: block.size]))
    return wrong


def measure(task: Task, command: Message) -> Message:
    """Time `iters` iterations back to back from a common start; return the seconds of one."""
    run = task.prepare(command)
    for _ in range(command["warmup"]):
        run()
    task.barrier()
    begin = time.perf_counter()
    for _ in range(command["iters"]):
        run()
    seconds = (time.perf_counter() - begin) / command["iters"]
    return {"seconds": seconds, "wrong": task.check(command) if command["check"] else 0}


def load(path: Path) -> ModuleType:
    """Import the program at `path`."""
    spec = importlib.util.spec_from_file_location(f"measured_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def serve(task_name: str, program: Path, environment: Mapping[str, str]) -> None:
    """Open the library of `program` and do what the controller says until it hangs up."""
    opener, task_type = TASKS[task_name]
    subject = getattr(load(program), opener)(json.loads(environment["HOLDFAST_BENCH_SETTINGS"]))
    channel = Channel(environment["HOLDFAST_BENCH_CONTROLLER"])
    channel.send(
        {
            "secret": environment["HOLDFAST_BENCH_SECRET"],
            "rank": subject.rank,
            "world_size": subject.world_size,
            "version": subject.version,
            "pid": os.getpid(),
        }
    )
    task = task_type(subject, channel)
    while (command := channel.receive()) is not None:
        channel.send(measure(task, command))
    subject.close()


def main() -> None:
    """Serve, and end at once on an error."""
    try:
        serve(sys.argv[1], Path(sys.argv[2]), os.environ)
    except BaseException:  # noqa: BLE001 - whatever it is, it is printed and ends the process
        traceback.print_exc()
        sys.stderr.flush()
        # Not by way of the library's own ending, which would wait for ranks that wait for this one.
        os._exit(1)


if __name__ == "__main__":
    main()
