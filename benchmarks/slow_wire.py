"""Data-parallel training over a slow wire: ours beside PyTorch DDP with Gloo, in one run.

    sudo python benchmarks/slow_wire.py [--models deep,mlp] [--rounds 7] [--json FILE]

Two network namespaces joined by cables of 1 Gbit/s (token buckets both ways), one rank in each, one
thread per rank, Fashion-MNIST, Adam. Needs root and PyTorch (`make peers`). Models:

    mlp    784-512-512-10, batch 256 per rank: 669,706 parameters, communication is most of the step
    wide   the same at batch 2048: computing and communicating take about the same time
    deep   784-128, then six times 128-512-128, then 10: 892,810 parameters in layers as a small
           GPT's, batch 1024, so that its backward takes about as long as a GPT's of that size
    even   six layers of 384 behind 784-256: an even stream of gradients

Hidden is the part of the exchange that costs no time: (compute + wire - step) / wire, where compute
is the same library's step on the same two processes without exchange, and wire is the bytes of the
gradients at what TCP gets out of the link. Ratios are taken within a round, then medians over
rounds. All entrants begin from the same weights and see the same batches: the last column is the
mean training loss of the last round.
"""

import argparse
import json
import os
import secrets
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from holdfast.errors import DeadlineExceeded, FabricError, HoldfastError, LaunchError, UsageError
from holdfast.fabric import build, star
from holdfast.fabric.hosts import HostsEngine
from holdfast.fabric.network import Network
from holdfast.launch.bandwidth.libraries import find_python
from holdfast.runtime.datasets import fashion_mnist

HERE = Path(__file__).resolve().parent
WIRE = 0.1195e9
"""Bytes/s of payload that TCP gets through 1 Gbit/s of Ethernet (measured with raw sockets)."""
IMAGES = 32768
ANSWER_SECONDS = 300.0
FIRST_PORT = 29700


@dataclass(frozen=True)
class Model:
    """Widths of a perceptron's layers, and the batch per rank."""

    widths: tuple[int, ...]
    batch: int
    steps: int
    """In a round."""

    @property
    def nbytes(self) -> int:
        """Bytes of its gradients."""
        pairs = zip(self.widths, self.widths[1:], strict=False)
        return sum(4 * (a * b + b) for a, b in pairs)


MODELS = {
    "mlp": Model((784, 512, 512, 10), 256, 40),
    "wide": Model((784, 512, 512, 10), 2048, 15),
    "deep": Model((784, 128, *(512, 128) * 6, 10), 1024, 20),
    "even": Model((784, 256, *(384,) * 6, 10), 1024, 20),
}


@dataclass(frozen=True)
class Entrant:
    """A library and how it exchanges gradients."""

    name: str
    library: str
    prepare: Mapping[str, Any] = field(default_factory=dict)
    ddp: Mapping[str, Any] = field(default_factory=dict)
    fp16_hook: bool = False


PLAIN = (Entrant("holdfast", "holdfast"), Entrant("ddp", "torch"))
COMPRESSED = (
    Entrant("holdfast bf16", "holdfast", prepare={"compression": "bfloat16"}),
    Entrant("ddp fp16", "torch", fp16_hook=True),
)


class Group:
    """The two ranks of one entrant, each on a host of its own; ends them when closed."""

    def __init__(
        self,
        network: Network[HostsEngine],
        entrant: Entrant,
        model: Model,
        python: Path,
        data: Path,
        port: int,
    ) -> None:
        self.entrant = entrant
        self._ranks: list[subprocess.Popen[bytes]] = []
        hosts = [network.engine.hosts[name] for name in network.topology.hosts]
        token = secrets.token_hex(32)
        environment = {
            **{name: value for name, value in os.environ.items() if name[:9] != "HOLDFAST_"},
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
        }
        try:
            for rank, host in enumerate(hosts):
                process = host.popen(
                    [str(python), "-P", str(HERE / "slow_wire_rank.py")],
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    rank=rank,
                )
                self._ranks.append(process)
                settings = {
                    "library": entrant.library,
                    "prepare": dict(entrant.prepare),
                    "ddp": dict(entrant.ddp),
                    "fp16_hook": entrant.fp16_hook,
                    "rank": rank,
                    "world_size": len(hosts),
                    "master_addr": hosts[0].address(),
                    "master_port": port,
                    "address": host.address(),
                    "token": token,
                    "data": str(data),
                    "widths": model.widths,
                    "batch": model.batch,
                }
                self._say(process, settings)
            for rank in range(len(hosts)):
                self._hear(rank)
        except BaseException:
            self.close()
            raise

    def measure(self, *, exchange: bool, steps: int) -> tuple[float, float]:
        """Return seconds per step, of the slower rank, and the mean loss of both."""
        command = {"exchange": exchange, "steps": steps, "warmup": 2}
        for process in self._ranks:
            self._say(process, command)
        answers = [self._hear(rank) for rank in range(len(self._ranks))]
        return (
            max(answer["seconds"] for answer in answers),
            statistics.fmean(answer["loss"] for answer in answers),
        )

    def close(self) -> None:
        """End the ranks; may be called again."""
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._ranks:
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._ranks.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _say(self, process: "subprocess.Popen[bytes]", message: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise LaunchError(f"{self.entrant.name}: a rank ended; its output says why") from None

    def _hear(self, rank: int) -> Any:
        stdout = self._ranks[rank].stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], ANSWER_SECONDS)
        if not ready:
            raise DeadlineExceeded(
                f"{self.entrant.name}: rank {rank} did not answer within {ANSWER_SECONDS:.0f} s"
            )
        line = stdout.readline()
        if not line:
            raise LaunchError(f"{self.entrant.name}: rank {rank} ended; its output says why")
        return json.loads(line)


def compare(
    network: Network[HostsEngine],
    name: str,
    entrants: Sequence[Entrant],
    pythons: Mapping[str, Path],
    data: Path,
    rounds: int,
    first_port: int,
) -> list[dict[str, Any]]:
    """Train one model in turns; return a result for each entrant, ratios over the last one."""
    model = MODELS[name]
    groups: list[Group] = []
    steps: list[list[float]] = [[] for _ in entrants]
    alone: list[list[float]] = [[] for _ in entrants]
    losses = [0.0 for _ in entrants]
    try:
        for number, entrant in enumerate(entrants):
            python = pythons[entrant.library]
            groups.append(Group(network, entrant, model, python, data, first_port + number))
        for _ in range(rounds):
            for number, group in enumerate(groups):
                seconds, losses[number] = group.measure(exchange=True, steps=model.steps)
                steps[number].append(seconds)
                alone[number].append(group.measure(exchange=False, steps=model.steps)[0])
    finally:
        for group in groups:
            group.close()
    wire = model.nbytes / WIRE
    return [
        {
            "model": name,
            "batch": model.batch,
            "megabytes": model.nbytes / 1e6,
            "entrant": entrant.name,
            "samples_per_second": 2 * model.batch / statistics.median(steps[number]),
            "step_ms": statistics.median(steps[number]) * 1e3,
            "compute_ms": statistics.median(alone[number]) * 1e3,
            "wire_ms": wire * 1e3,
            "hidden": statistics.median(
                (compute + wire - step) / wire
                for compute, step in zip(alone[number], steps[number], strict=True)
            ),
            "over_ddp": statistics.median(
                peer / own for peer, own in zip(steps[-1], steps[number], strict=True)
            ),
            "loss": losses[number],
            "rounds_ms": [seconds * 1e3 for seconds in steps[number]],
        }
        for number, entrant in enumerate(entrants)
    ]


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the results as text."""
    columns = (
        ("batch", 7, "d"),
        ("megabytes", 11, ".2f"),
        ("samples_per_second", 20, ",.0f"),
        ("step_ms", 9, ".1f"),
        ("compute_ms", 12, ".1f"),
        ("wire_ms", 9, ".1f"),
        ("hidden", 8, ".0%"),
        ("over_ddp", 10, ".2f"),
        ("loss", 9, ".4f"),
    )
    lines = [
        "# 2 ranks, 1 Gbit/s; medians over rounds, over_ddp paired within a round; wire_ms and "
        "hidden count uncompressed bytes",
        f"{'model':6}{'entrant':16}" + "".join(f"{name:>{width}}" for name, width, _ in columns),
    ]
    for result in results:
        cells = (format(result[name], form).rjust(width) for name, width, form in columns)
        lines.append(f"{result['model']:6}{result['entrant']:16}" + "".join(cells))
    return "\n".join(lines)


def write_data(path: Path, model: Model) -> None:
    """Write images, labels and the weights that all entrants begin from."""
    images, labels = fashion_mnist()[0][np.arange(IMAGES)]
    rng = np.random.default_rng(0)
    weights = []
    for fan_in, fan_out in zip(model.widths, model.widths[1:], strict=False):
        bound = (6 / fan_in) ** 0.5  # He et al., 2015: deep ones train from the first step on
        weights.append(rng.uniform(-bound, bound, (fan_out, fan_in)).astype(np.float32))
        weights.append(np.zeros(fan_out, np.float32))
    arrays: dict[str, Any] = {f"w{number}": weight for number, weight in enumerate(weights)}
    np.savez(path, images=images.reshape(len(images), -1), labels=labels, **arrays)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="deep,mlp", help=", ".join(MODELS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compression", action="store_true", help="leave the compressed out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        models = tuple(dict.fromkeys(options.models.split(",")))
        for name in models:
            if name not in MODELS:
                raise UsageError(f"--models: {', '.join(MODELS)} are known, {name!r} was given")
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = run(models, options.rounds, compressed=not options.no_compression)
    except FabricError as error:
        print(f"holdfast: error: a slow wire cannot be built: {error}", file=sys.stderr)
        return 1
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps({"results": results}, indent=1) + "\n")
    return 0


def run(models: Sequence[str], rounds: int, *, compressed: bool) -> list[dict[str, Any]]:
    """Measure all `models`; processes, namespaces and files are gone when this returns."""
    folder = os.environ.get("HOLDFAST_PEERS")
    peers = [Path(folder)] if folder else []
    pythons = {
        "holdfast": Path(sys.executable),
        "torch": find_python("gloo", [*peers, HERE.parent / ".peers"]),
    }
    results: list[dict[str, Any]] = []
    port = FIRST_PORT
    with (
        build("kernel", star(2, rate="1gbit")) as network,
        tempfile.TemporaryDirectory(prefix="holdfast-bench-") as scratch,
    ):
        for name in models:
            data = Path(scratch) / f"{name}.npz"
            write_data(data, MODELS[name])
            for entrants in (PLAIN, COMPRESSED) if compressed else (PLAIN,):
                began = time.monotonic()
                results += compare(network, name, entrants, pythons, data, rounds, port)
                port += len(entrants)
                print(
                    f"holdfast: {name}, {' and '.join(each.name for each in entrants)}: "
                    f"{rounds} rounds in {time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                )
    return results


if __name__ == "__main__":
    sys.exit(main())
