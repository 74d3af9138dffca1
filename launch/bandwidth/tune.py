"""What an all-reduce takes by each algorithm here, and the cost model that fits it."""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from holdfast.collectives import Communicator, connect
from holdfast.collectives.cost import ALGORITHMS, EXCHANGE_BYTES, CostModel
from holdfast.errors import UsageError
from holdfast.launch.bandwidth.spec import check_files, format_size
from holdfast.launch.bandwidth.together import Seat, tell

_SECONDS = 0.1
"""About how long one measurement takes, all its repetitions together."""
_MOST = 1000


@dataclass(frozen=True)
class TuneSpec:
    """What `bench tune` is to measure; `sizes` are bytes, each is measured once per round."""

    sizes: tuple[int, ...]
    algorithms: tuple[str, ...] = ALGORITHMS
    transport: str = "tcp"
    rounds: int = 3
    model_file: Path | None = None
    json_file: Path | None = None
    plot_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.sizes or any(size < 4 or size % 4 for size in self.sizes):
            raise UsageError(f"--sizes: positive multiples of 4 were expected, found {self.sizes}")
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise UsageError(
                    f"--algorithms: {', '.join(ALGORITHMS)} are known, {name!r} was given"
                )
        if not self.algorithms:
            raise UsageError("--algorithms: at least one was expected")
        if self.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {self.rounds} was given")
        check_files(self.json_file, self.plot_file)
        if self.model_file is not None and not self.model_file.absolute().parent.is_dir():
            raise UsageError(f"-o: the folder {self.model_file.absolute().parent} is not there")


class Sample(NamedTuple):
    """What an all-reduce took: the median over rounds of the slowest rank's seconds."""

    algorithm: str
    world_size: int
    size: int
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """What was measured, and the model that fits it."""

    samples: tuple[Sample, ...]
    model: CostModel
    transport: str

    def as_json(self) -> dict[str, Any]:
        """Return what the JSON file holds; times are microseconds."""
        return {
            "transport": self.transport,
            "model": asdict(self.model),
            "samples": [
                {
                    "algorithm": each.algorithm,
                    "ranks": each.world_size,
                    "size": each.size,
                    "time_us": 1e6 * each.seconds,
                    "model_us": 1e6 * self.model.seconds(*each[:3]),
                }
                for each in self.samples
            ],
        }


def measure(seat: Seat, spec: TuneSpec, say: Callable[[str], None]) -> Tuning | None:
    """Measure every algorithm at every size; return the figures, and the model, at rank 0.

    Each round goes through all algorithms, so that a machine that slows down slows all of them.
    """
    if seat.base.world_size < 2:
        raise UsageError("an all-reduce takes 2 ranks or more: give --ranks")
    seconds: dict[tuple[str, int], list[float]] = {}
    for number in range(spec.rounds):
        for algorithm in spec.algorithms:
            config = seat.config(transport=spec.transport, algorithm=algorithm)
            with contextlib.closing(connect(config)) as communicator:
                array = np.zeros(max(spec.sizes) // 4, np.float32)
                for size in spec.sizes:
                    if possible(algorithm, communicator.world_size, size):
                        took = _time(communicator, array[: size // 4])
                        seconds.setdefault((algorithm, size), []).append(took)
                communicator.barrier()
        if seat.rank == 0:
            say(f"round {number + 1} of {spec.rounds}")
    if seat.rank:
        return None
    samples = tuple(
        Sample(algorithm, seat.base.world_size, size, statistics.median(each))
        for (algorithm, size), each in seconds.items()
    )
    return Tuning(samples, CostModel.fit(samples), spec.transport)


def possible(algorithm: str, world_size: int, size: int) -> bool:
    """Return whether an algorithm takes so many bytes: an exchange brings all to every rank."""
    return algorithm != "exchange" or (world_size - 1) * size <= EXCHANGE_BYTES


def _time(communicator: Communicator, array: np.ndarray) -> float:
    """Return the slowest rank's seconds of one all-reduce of `array`."""
    took = _repeat(communicator, array, 2)
    count = max(2, min(_MOST, int(_SECONDS / took)))
    return _repeat(communicator, array, count)


def _repeat(communicator: Communicator, array: np.ndarray, count: int) -> float:
    communicator.all_reduce(array)
    communicator.barrier()
    begin = time.perf_counter()
    for _ in range(count):
        communicator.all_reduce(array)
    return float(max(tell(communicator, (time.perf_counter() - begin) / count)))


def table(tuning: Tuning) -> str:
    """Return what was measured beside what the model says, and what it chooses."""
    ranks = tuning.samples[0].world_size
    algorithms = list(dict.fromkeys(each.algorithm for each in tuning.samples))
    measured = {(each.algorithm, each.size): each.seconds for each in tuning.samples}
    model = tuning.model
    lines = [
        f"# all-reduce over {tuning.transport}, {ranks} ranks: microseconds, measured / by the "
        "model",
        f"#{'size':>8}" + "".join(f"{name:>20}" for name in algorithms) + f"{'chosen':>20}",
    ]
    lost = []
    for size in sorted({each.size for each in tuning.samples}):
        cells = [
            _cell(measured.get((name, size)), model.seconds(name, ranks, size))
            for name in algorithms
        ]
        chosen = model.choose(ranks, size, algorithms)
        fastest = min(measured[name, size] for name in algorithms if (name, size) in measured)
        lost.append(measured[chosen, size] / fastest)
        row = "".join(f"{cell:>20}" for cell in cells)
        lines.append(f" {format_size(size):>8}{row}{chosen:>20}")
    lines.append(
        f"# alpha {model.alpha * 1e6:.2f} us a message, beta {model.beta * 1e9:.4f} ns a byte "
        f"({_rate(model.beta)}), gamma {model.gamma * 1e9:.4f} ns a byte added"
    )
    lines.append(
        f"# what is chosen takes {statistics.geometric_mean(lost):.2f} times the fastest measured "
        f"(geometric mean), {max(lost):.2f} at worst"
    )
    return "\n".join(lines)


def _cell(measured: float | None, modelled: float) -> str:
    return "-" if measured is None else f"{measured * 1e6:.0f} / {modelled * 1e6:.0f}"


def _rate(beta: float) -> str:
    return f"{1e-9 / beta:.2f} GB/s" if beta else "no limit"


def figures_by_algorithm(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """Return the samples of each algorithm, by size."""
    found: dict[str, list[Sample]] = {}
    for each in sorted(samples, key=lambda sample: sample.size):
        found.setdefault(each.algorithm, []).append(each)
    return found
