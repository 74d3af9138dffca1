"""What a worker is told: its rank, its peers, its run; parsed once from the environment.

`holdfast launch` sets torchrun's variables and its own. A script started by something else is
understood too: torchrun, Open MPI's and MPICH's mpiexec, srun, SkyPilot. Without any of them the
script runs alone.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from holdfast.collectives.communicator import SELF_MEETING
from holdfast.errors import UsageError
from holdfast.runtime.wires import Wires

DEFAULT_PORT = 29500


class _Convention(NamedTuple):
    """The variables in which one launcher tells a process where it stands."""

    rank: str
    world_size: str
    local_rank: str
    local_world_size: str


CONVENTIONS = (
    _Convention("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Convention(
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Convention("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # Only srun sets the step's size: a batch script that calls python itself is alone.
    _Convention("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
    _Convention("SKYPILOT_NODE_RANK", "SKYPILOT_NUM_NODES", "", ""),
)


@dataclass(frozen=True)
class WorkerSpec:
    """One worker's place in a job.

    `run_dir` None keeps nothing on disk. `seed` None takes that of the checkpoint, or 0. `resume`
    is `auto` (go on from the newest checkpoint of `run_dir`), `never`, or a checkpoint's path.
    `timeout_seconds` is how long nothing may move on any link before the job gives up. For
    `address` to `control_address` see `GroupConfig`; `host` and `stage` are a drill's; `wires` is
    what links run over.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = DEFAULT_PORT
    token: bytes = field(default=b"", repr=False)
    transport: str = "auto"
    device: str = "auto"
    seed: int | None = None
    run_dir: Path | None = None
    resume: str = "auto"
    restart_count: int = 0
    rendezvous_seconds: float = 300.0
    rendezvous_fd: int | None = None
    events_fd: int | None = None
    timeout_seconds: float = 300.0
    address: str | None = None
    port: int = 0
    public: tuple[str, int] | None = None
    control_address: str | None = None
    host: str = ""
    stage: str | None = None
    wires: Wires = field(default_factory=Wires)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "WorkerSpec":
        """Read a worker's place from its environment; raise UsageError naming a bad variable."""
        rank, world_size, local_rank, one_host = _place(environ)
        address = environ.get("MASTER_ADDR")
        transport = environ.get("HOLDFAST_TRANSPORT", "auto")
        if address is None and world_size > 1 and not one_host and transport not in SELF_MEETING:
            raise UsageError(
                f"rank {rank} of {world_size} does not know where rank 0 is: set MASTER_ADDR to "
                "an address of rank 0's host on every rank (and MASTER_PORT to a free port there)"
            )
        token = environ.get("HOLDFAST_TOKEN", "")
        try:
            secret = bytes.fromhex(token)
        except ValueError:
            raise UsageError("HOLDFAST_TOKEN must be hexadecimal (openssl rand -hex 32)") from None
        run_dir = environ.get("HOLDFAST_RUN_DIR")
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            master_addr=address or "127.0.0.1",
            master_port=_integer(environ, "MASTER_PORT", DEFAULT_PORT),
            token=secret,
            transport=transport,
            device=environ.get("HOLDFAST_DEVICE", "auto"),
            seed=_optional(environ, "HOLDFAST_SEED"),
            run_dir=Path(run_dir) if run_dir else default_run_dir(sys.argv[0], time.localtime()),
            resume=environ.get("HOLDFAST_RESUME", "auto"),
            restart_count=_integer(environ, "HOLDFAST_RESTART_COUNT", 0),
            rendezvous_seconds=_integer(environ, "HOLDFAST_RENDEZVOUS_SECONDS", 300),
            rendezvous_fd=_optional(environ, "HOLDFAST_RENDEZVOUS_FD"),
            events_fd=_optional(environ, "HOLDFAST_EVENTS_FD"),
            timeout_seconds=_within(environ, "HOLDFAST_TIMEOUT_SECONDS", 300, 1, 10**9),
            address=environ.get("HOLDFAST_ADDRESS") or None,
            port=_within(environ, "HOLDFAST_PORT", 0, 0, 65535),
            public=_public(environ.get("HOLDFAST_PUBLIC_ADDRESS", "")),
            control_address=environ.get("HOLDFAST_CONTROL_ADDRESS") or None,
            host=environ.get("HOLDFAST_HOST", ""),
            stage=environ.get("HOLDFAST_STAGE") or None,
            wires=Wires.from_environ(environ),
        )


def default_run_dir(script: str, now: time.struct_time) -> Path:
    """Return runs/SCRIPT-DATE-TIME, or with a number behind it if that is taken already."""
    name = f"{Path(script).stem or 'run'}-{time.strftime('%Y%m%d-%H%M%S', now)}"
    folder, number = Path("runs") / name, 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _place(environ: Mapping[str, str]) -> tuple[int, int, int, bool]:
    """Return rank, world size, local rank, and whether all ranks are known to be on one host."""
    if ("RANK" in environ) != ("WORLD_SIZE" in environ):
        raise UsageError(
            "RANK and WORLD_SIZE go together: set both on every rank, or neither to run alone"
        )
    for names in CONVENTIONS:
        if names.rank in environ and names.world_size in environ:
            rank, world_size = (
                _integer(environ, names.rank, 0),
                _integer(environ, names.world_size, 1),
            )
            if world_size < 1 or not 0 <= rank < world_size:
                raise UsageError(
                    f"{names.rank}={rank} and {names.world_size}={world_size} do not fit: a rank "
                    "from 0 to world size - 1 was expected"
                )
            local = _integer(environ, names.local_rank, 0)
            return (
                rank,
                world_size,
                local,
                _integer(environ, names.local_world_size, 0) == world_size,
            )
    return 0, 1, 0, True


def _public(value: str) -> tuple[str, int] | None:
    """Return the host and port of `HOST:PORT`."""
    if not value:
        return None
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"HOLDFAST_PUBLIC_ADDRESS must be HOST:PORT, found {value!r}")
    return host.strip("[]"), int(port)


def _integer(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) if name else None
    if value is None or value == "":
        return default
    try:
        return int(value)
    except ValueError:
        raise UsageError(f"{name} must be a whole number, found {value!r}") from None


def _within(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    value = _integer(environ, name, default)
    if not least <= value <= most:
        raise UsageError(f"{name} must be from {least} to {most}, found {value}")
    return value


def _optional(environ: Mapping[str, str], name: str) -> int | None:
    return _integer(environ, name, 0) if environ.get(name) else None
