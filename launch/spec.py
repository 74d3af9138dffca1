"""What a job is: a frozen spec made once from the command line, and the ranks' places on nodes."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from holdfast.errors import UsageError

TransportName = Literal["auto", "shm", "tcp", "two-level", "mpi", "mpi-p2p", "nccl", "pynccl"]
DeviceName = Literal["auto", "cpu", "cuda"]

MPI_TRANSPORTS = ("mpi", "mpi-p2p")
"""MPI's own collectives, and ours over its messages; workers need an mpiexec to meet."""

GPU_TRANSPORTS = ("nccl", "pynccl")
"""Those that sum in GPUs' memory, whatever the workers compute on."""

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class LaunchSpec:
    """A job as it was asked for, with every default filled in.

    Paths are as the user gave them but `run_dir` and a path in `resume`, which are absolute.
    Construction raises UsageError for what can be judged without looking at the machine;
    `check_cluster` looks for the nodes' address, `check_files` at the files, the launcher at the
    nodes.
    """

    script: Path
    run_dir: Path
    run_id: str
    args: tuple[str, ...] = ()
    nproc_per_node: int = 1
    nnodes: int = 1
    address: str | None = None
    transport: TransportName = "auto"
    interfaces: str = ""
    device: DeviceName = "auto"
    seed: int | None = None
    resume: str = "auto"
    max_restarts: int = 3
    dry_run: bool = False

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--nproc-per-node", self.nproc_per_node, 1),
            ("--nnodes", self.nnodes, 1),
            ("--max-restarts", self.max_restarts, 0),
        ):
            if value < least:
                raise UsageError(f"{option} must be at least {least}, got {value}")
        if self.seed is not None and not 0 <= self.seed <= MAX_SEED:
            raise UsageError(f"--seed must be from 0 to {MAX_SEED}, got {self.seed}")
        if self.nnodes > 1 and self.transport == "shm":
            raise UsageError(
                f"--transport shm joins the ranks of one host, but --nnodes is {self.nnodes}: "
                "use --transport tcp or auto"
            )
        if self.nnodes > 1 and self.transport in MPI_TRANSPORTS:
            raise UsageError(
                f"--transport {self.transport} is launched on one node, but --nnodes is "
                f"{self.nnodes}: start the script by mpiexec itself (HOLDFAST_TRANSPORT="
                f"{self.transport} mpiexec -n {self.world_size} --hostfile HOSTS python "
                f"{self.script}), or inside an allocation, or use --transport tcp"
            )
        if self.address is not None and self.address.startswith("ray://"):
            raise UsageError(
                f"--address {self.address} is a Ray Client address: run the command on a machine "
                "of the cluster and give HOST:PORT or auto"
            )

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.nproc_per_node * self.nnodes

    @property
    def resolved_transport(self) -> TransportName:
        """The transport that `auto` stands for, as far as it is known before workers start.

        Shared memory on one node; TCP between nodes of one worker each; else the ranks see.
        """
        if self.transport != "auto":
            return self.transport
        if self.nnodes == 1:
            return "shm"
        return "tcp" if self.nproc_per_node == 1 else "auto"

    def to_json(self) -> dict[str, Any]:
        """Return the spec as `job.json` holds it."""
        plain = asdict(self)
        plain |= {"script": str(self.script), "run_dir": str(self.run_dir)}
        plain |= {"args": list(self.args), "world_size": self.world_size}
        return plain


def check_cluster(spec: LaunchSpec) -> None:
    """Raise UsageError if `spec` asks for nodes that no Ray cluster is named for."""
    if spec.nnodes > 1 and spec.address is None:
        raise UsageError(
            f"--nnodes {spec.nnodes} needs a Ray cluster: start one (`ray start --head` on one "
            "machine, `ray start --address=HOST:PORT` on the others) and give its --address"
        )


def check_files(spec: LaunchSpec) -> None:
    """Raise UsageError if a file or folder that `spec` names cannot be used."""
    if not spec.script.exists():
        raise UsageError(f"script {spec.script} isn't there (looked in {Path.cwd()})")
    if not spec.script.is_file():
        raise UsageError(f"script {spec.script} must be a Python file, but it is not a file")
    if spec.resume not in ("auto", "never") and not Path(spec.resume).exists():
        raise UsageError(
            f"--resume {spec.resume} isn't there: give a checkpoint's folder, or auto or never"
        )
    if spec.run_dir.exists() and not spec.run_dir.is_dir():
        raise UsageError(f"--run-dir {spec.run_dir} must be a folder, but it is a file")


def default_run_dir(script: Path, now: datetime) -> Path:
    """Return `runs/<script-stem>-<YYYYmmdd-HHMMSS>`."""
    return Path("runs") / f"{script.stem}-{now:%Y%m%d-%H%M%S}"


def fresh_folder(folder: Path) -> Path:
    """Return `folder`, or with a number behind it if a job of the same second has it."""
    fresh, number = folder, 2
    while fresh.exists():
        fresh, number = folder.with_name(f"{folder.name}-{number}"), number + 1
    return fresh


def absolute_resume(resume: str, folder: Path) -> str:
    """Return `auto` and `never` as they are, and a path made absolute below `folder`."""
    return resume if resume in ("auto", "never") else str(folder / resume)


def new_run_id(run_dir: Path, salt: str) -> str:
    """Return a name for this run that is fit for file names and labels: folder's name and salt."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", run_dir.name).strip("-.") or "run"
    return f"{name}-{salt}"


@dataclass(frozen=True)
class Node:
    """A machine of the job: the name people know it by, and the address its peers connect to."""

    host: str
    address: str


@dataclass(frozen=True)
class Place:
    """Where a rank stands. `group_rank` is the index of its node."""

    rank: int
    local_rank: int
    group_rank: int
    node: Node


def rank_table(nodes: Sequence[Node], nproc_per_node: int) -> tuple[Place, ...]:
    """Return each rank's place, in the order of ranks: node by node, as torchrun counts them."""
    return tuple(
        Place(group * nproc_per_node + local, local, group, node)
        for group, node in enumerate(nodes)
        for local in range(nproc_per_node)
    )
