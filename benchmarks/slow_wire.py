"""Data-parallel training over a slow wire: ours beside PyTorch DDP with Gloo, in one run.

    sudo python benchmarks/slow_wire.py [--models gpt,deep,mlp] [--rounds 7] [--json FILE]

Two network namespaces joined by cables of 1 Gbit/s (token buckets both ways), one rank in each, one
thread per rank. Needs root and PyTorch (`make peers`). Models:

    gpt    4 layers of 128, T = 64, batch 16, AdamW: 825,088 parameters, text
    mlp    784-512-512-10, batch 256 per rank: 669,706 parameters, communication is most of the step
    wide   the same at batch 2048: computing and communicating take about the same time
    deep   784-128, then six times 128-512-128, then 10: 892,810 parameters in layers as a small
           GPT's, batch 1024, so that its backward takes about as long as a GPT's of that size
    even   six layers of 384 behind 784-256: an even stream of gradients

The perceptrons train on Fashion-MNIST with Adam.

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
from workloads import OVER_A_WIRE, THREAD_VARIABLES, Workload, chosen, load_holdfast, samples

from holdfast.errors import DeadlineExceeded, FabricError, HoldfastError, LaunchError, UsageError
from holdfast.fabric import build, star
from holdfast.fabric.hosts import HostsEngine
from holdfast.fabric.network import Network
from holdfast.launch.bandwidth.libraries import find_python

HERE = Path(__file__).resolve().parent
WIRE = 0.1195e9
"""Bytes/s of payload that TCP gets through 1 Gbit/s of Ethernet (measured with raw sockets)."""
IMAGES = 32768
ANSWER_SECONDS = 300.0
FIRST_PORT = 29700


STEPS = {"gpt": 12, "mlp": 40, "wide": 15, "deep": 20, "even": 20}
"""In a round."""


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
        workload: Workload,
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
            **dict.fromkeys(THREAD_VARIABLES, "1"),
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
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
                    "model": workload.name,
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
    workload: Workload,
    entrants: Sequence[Entrant],
    pythons: Mapping[str, Path],
    data: Path,
    nbytes: int,
    rounds: int,
    first_port: int,
) -> list[dict[str, Any]]:
    """Train one model in turns; return a result for each entrant, ratios over the last one."""
    count = STEPS[workload.name]
    groups: list[Group] = []
    steps: list[list[float]] = [[] for _ in entrants]
    alone: list[list[float]] = [[] for _ in entrants]
    losses = [0.0 for _ in entrants]
    try:
        for number, entrant in enumerate(entrants):
            python = pythons[entrant.library]
            groups.append(Group(network, entrant, workload, python, data, first_port + number))
        for _ in range(rounds):
            for number, group in enumerate(groups):
                seconds, losses[number] = group.measure(exchange=True, steps=count)
                steps[number].append(seconds)
                alone[number].append(group.measure(exchange=False, steps=count)[0])
    finally:
        for group in groups:
            group.close()
    wire = nbytes / WIRE
    return [
        {
            "model": workload.name,
            "batch": workload.batch,
            "megabytes": nbytes / 1e6,
            "entrant": entrant.name,
            "samples_per_second": 2 * workload.batch / statistics.median(steps[number]),
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


def write_data(path: Path, workload: Workload) -> int:
    """Write inputs, targets and the weights that all begin from; return the gradients' bytes."""
    library = load_holdfast()
    inputs, targets = samples(workload.data, images=IMAGES)
    model = workload.model(library.nn, library.functional)
    if workload.data == "images":
        for parameter in model.parameters():  # deep ones train from the first step on
            if parameter.ndim > 1:
                library.nn.init.kaiming_uniform_(parameter, nonlinearity="relu")
            else:
                library.nn.init.zeros_(parameter)
    weights = {f"w{i}": parameter.array for i, parameter in enumerate(model.parameters())}
    np.savez(path, inputs=inputs, targets=targets, **weights)
    return sum(weight.nbytes for weight in weights.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="gpt,deep,mlp", help=", ".join(OVER_A_WIRE))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-compression", action="store_true", help="leave the compressed out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        workloads = chosen(options.models, OVER_A_WIRE)
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = run(workloads, options.rounds, compressed=not options.no_compression)
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


def run(workloads: Sequence[Workload], rounds: int, *, compressed: bool) -> list[dict[str, Any]]:
    """Measure all `workloads`; processes, namespaces and files are gone when this returns."""
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
        for workload in workloads:
            data = Path(scratch) / f"{workload.name}.npz"
            nbytes = write_data(data, workload)
            for entrants in (PLAIN, COMPRESSED) if compressed else (PLAIN,):
                began = time.monotonic()
                results += compare(network, workload, entrants, pythons, data, nbytes, rounds, port)
                port += len(entrants)
                print(
                    f"holdfast: {workload.name}, {' and '.join(each.name for each in entrants)}: "
                    f"{rounds} rounds in {time.monotonic() - began:.0f} s",
                    file=sys.stderr,
                )
    return results


if __name__ == "__main__":
    sys.exit(main())
