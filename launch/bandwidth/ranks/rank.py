"""A measured process: it opens one library, then waits for commands and answers with times.

`python -P rank.py TASK PROGRAM` is run by path in the measured library's own Python, so it uses the
standard library and NumPy alone. Between measurements it blocks on the controller's socket, never
inside the library: a library that waits its turn must not take CPU from the one being measured.

One message is one line of JSON. After a first message that says who it is, the process gets
commands `{"iters": n, "warmup": w, "check": bool, ...what an iteration is...}` and answers
`{"seconds": per iteration, "wrong": wrong elements}`; a command with "measure" asks for something
else (`MEASURES`). The end of the connection ends the process.
"""

import importlib.util
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


def load(path: Path) -> ModuleType:
    """Import the file at `path`, whatever else has its name."""
    spec = importlib.util.spec_from_file_location(f"measured_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if TYPE_CHECKING:
    from holdfast.launch.bandwidth.ranks import collectives
else:
    collectives = load(Path(__file__).with_name("collectives.py"))

Array = npt.NDArray[np.float32]
Message = dict[str, Any]

# What is moved and summed: small integers, so that float32 sums are exact in any order. The period
# is a prime, so that a chunk that lands in another's place is seen; ranks differ by a factor, so
# that one rank added twice instead of two ranks is seen.
PERIOD = 251
_BLOCK = PERIOD * 1024
_TILE: Array = np.tile(np.arange(PERIOD, dtype=np.float32), 1025)


class Operation(NamedTuple):
    """A collective of one library, ready to be called on this rank's arrays.

    `source` is this rank's input, None where it gives nothing; `result` what a check clears before,
    None where the library makes the result's memory or it is the input's. `run` returns this rank's
    result, of any shape; None where it gets nothing.
    """

    source: Array | None
    result: Array | None
    run: Callable[[], Array | None]


class Group(Protocol):
    """What a library's program gives: its ranks, connected, with their arrays allocated."""

    rank: int
    world_size: int
    version: str

    def operation(
        self, asked: "collectives.Asked"
    ) -> tuple[Array | None, Array | None, Callable[[], Array | None]]:
        """Return this rank's part of what is asked, an `Operation`, on arrays of the group's."""

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

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(30)
        self._socket.connect(path)
        # Between measurements it waits for as long as the others take.
        self._socket.settimeout(None)
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


class Collective:
    """One collective of a library: `work` is `{"collective": name, "size": bytes, "in_place": b}`.

    Arrays are float32.
    """

    def __init__(self, group: Group, channel: Channel) -> None:
        self._group = group

    def prepare(self, work: Message) -> Callable[[], object]:
        """Write the input; return what carries the collective out once."""
        operation = self._operation(work)
        if work["in_place"] and operation.source is not None:
            # Each sum is the input of the next: any other value would soon overflow.
            operation.source.fill(0.0)
        else:
            self._write(operation, work)
        return operation.run

    def barrier(self) -> None:
        """Return when all ranks have come here: the library's own barrier."""
        self._group.barrier()

    def check(self, work: Message) -> int:
        """Carry it out with known values; count the elements that are not what they should be."""
        operation = self._operation(work)
        self._write(operation, work)
        # The result may be one memory for all ranks: none may clear it when another is summing.
        self._group.barrier()
        return self.wrong(operation.run(), work)

    def wrong(self, result: Array | None, work: Message) -> int:
        """Return how many elements of this rank's `result` are not what they should be."""
        pieces = self._collective(work).gets(work["size"] // 4, *self._place)
        expected = sum(piece.count for piece in pieces)
        if result is None or result.size != expected:
            return max(expected, 0 if result is None else 1)
        flat, wrong, start = result.reshape(-1), 0, 0
        for piece in pieces:
            wrong += count_wrong(flat[start : start + piece.count], piece, self._group.world_size)
            start += piece.count
        return wrong

    @property
    def _place(self) -> tuple[int, int]:
        return self._group.rank, self._group.world_size

    def _collective(self, work: Message) -> "collectives.Collective":
        return collectives.COLLECTIVES[work["collective"]]

    def _operation(self, work: Message) -> Operation:
        asked = self._collective(work).asked(work["size"], *self._place, in_place=work["in_place"])
        return Operation(*self._group.operation(asked))  # a peer's program gives a plain tuple

    def _write(self, operation: Operation, work: Message) -> None:
        if operation.source is not None:
            (piece,) = self._collective(work).gives(work["size"] // 4, *self._place)
            fill(operation.source, piece, self._group.world_size)
        if operation.result is not None:
            operation.result.fill(np.nan)


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
    "collective": ("open_group", Collective),
    "steps": ("open_trainer", Steps),
}


def _blocks(array: Array, piece: "collectives.Piece", ranks: int) -> Iterator[tuple[Array, Array]]:
    """Yield the parts of `array`, each with what a piece has there."""
    of = range(ranks) if piece.of == collectives.SUM else [piece.of]
    scale, shift = np.float32(sum(rank + 1 for rank in of)), np.float32(sum(of))
    phase = piece.start % PERIOD
    tile = _TILE[phase : phase + _BLOCK] * scale + shift
    for start in range(0, array.size, _BLOCK):
        block = array[start : start + _BLOCK]
        yield block, tile[: block.size]


def fill(array: Array, piece: "collectives.Piece", ranks: int) -> None:
    """Write a piece, of a group of `ranks`, into `array`."""
    for block, values in _blocks(array, piece, ranks):
        block[:] = values


def count_wrong(array: Array, piece: "collectives.Piece", ranks: int) -> int:
    """Return how many elements of `array` differ from those of a piece."""
    return sum(
        int(np.count_nonzero(block != values)) for block, values in _blocks(array, piece, ranks)
    )


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


def watch(task: Collective, command: Message) -> Message:
    """Do `iters` iterations, check each, and return at which time (monotonic) each had ended."""
    run = task.prepare(command)
    task.barrier()
    ended, wrong = [time.monotonic()], 0
    for _ in range(command["iters"]):
        result = run()
        ended.append(round(time.monotonic(), 6))
        wrong += task.wrong(result, command)  # type: ignore[arg-type]
    return {"ended": ended, "wrong": wrong}


def memory(task: Collective, command: Message) -> Message:
    """Return by how many bytes one iteration, the first, makes this process grow at its peak."""
    run = task.prepare(command)  # which writes to input and result: their memory is there
    task.barrier()
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew (proc_pid_clear_refs(5))
    run()
    return {"growth": 1024 * (_kilobytes("VmHWM") - before)}


def _kilobytes(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0])


MEASURES: dict[str, Callable[[Any, Message], Message]] = {
    "time": measure,
    "watch": watch,
    "memory": memory,
}


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
        channel.send(MEASURES[command.get("measure", "time")](task, command))
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
