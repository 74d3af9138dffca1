"""The environment of a worker: torchrun's variables and Holdfast's own, as pure functions.

Two variables are missing here because only the node that starts the worker knows them, and
`WorkerGroup` adds them: HOLDFAST_EVENTS_FD (the write end of a pipe that takes events as JSON
lines) and, for rank 0, HOLDFAST_RENDEZVOUS_FD (a TCP socket that already listens on
MASTER_ADDR:MASTER_PORT, so that nobody can take the port in between).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile

from holdfast.errors import UsageError
from holdfast.launch.spec import GPU_TRANSPORTS, LaunchSpec, Place

EVENTS_FD = "HOLDFAST_EVENTS_FD"
RENDEZVOUS_FD = "HOLDFAST_RENDEZVOUS_FD"
TOKEN = "HOLDFAST_TOKEN"

ROLE_NAME = "default"

MACHINE_VARIABLES = frozenset(
    {
        "HOME",
        "HOSTNAME",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TMPDIR",
        "USER",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
    }
)
"""What belongs to a machine or an account, and so isn't carried from the launcher's to another."""

GPUS = "CUDA_VISIBLE_DEVICES"
DEVICE_VARIABLES = frozenset({GPUS})
"""What Ray sets for an agent to the node's share of the devices."""


@dataclass(frozen=True)
class AttemptFacts:
    """What all workers of one attempt have in common. `token` is hexadecimal, new per attempt."""

    master_addr: str
    master_port: str
    token: str
    restart_count: int
    resume: str
    device: str


def base_environment(
    launcher: Mapping[str, str], node: Mapping[str, str], *, same_node: bool, with_devices: bool
) -> dict[str, str]:
    """Return what a worker has before our variables: the launcher's environment, as with srun.

    On another node, what belongs to a machine comes from that node. `node` is the agent's
    environment; the variables of Ray in it stay there, so that a worker is a plain process. With
    devices, the agent's share of them is the workers'.
    """
    own = frozenset[str]() if same_node else MACHINE_VARIABLES
    own |= DEVICE_VARIABLES if with_devices else frozenset()
    stale = {EVENTS_FD, RENDEZVOUS_FD}  # of a worker that starts a job of its own
    base = {name: value for name, value in launcher.items() if name not in own | stale}
    return base | {name: node[name] for name in sorted(own) if name in node}


def worker_environment(
    spec: LaunchSpec,
    place: Place,
    attempt: AttemptFacts,
    *,
    cores: int,
    base: Mapping[str, str],
) -> dict[str, str]:
    """Return the variables that Holdfast sets for the worker at `place`.

    `cores` is the number of cores of its node, `base` the environment that they are laid over:
    OMP_NUM_THREADS is only set where the user has not. Raises what `own_gpu` does, for a job that
    takes GPUs.
    """
    world_size = str(spec.world_size)
    variables = {
        "RANK": str(place.rank),
        "WORLD_SIZE": world_size,
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(spec.nproc_per_node),
        "GROUP_RANK": str(place.group_rank),
        "GROUP_WORLD_SIZE": str(spec.nnodes),
        "ROLE_RANK": str(place.rank),
        "ROLE_WORLD_SIZE": world_size,
        "ROLE_NAME": ROLE_NAME,
        "MASTER_ADDR": attempt.master_addr,
        "MASTER_PORT": attempt.master_port,
        "TORCHELASTIC_RUN_ID": spec.run_id,
        "TORCHELASTIC_RESTART_COUNT": str(attempt.restart_count),
        "TORCHELASTIC_MAX_RESTARTS": str(spec.max_restarts),
        TOKEN: attempt.token,
        "HOLDFAST_RUN_ID": spec.run_id,
        "HOLDFAST_RUN_DIR": str(spec.run_dir),
        "HOLDFAST_TRANSPORT": spec.resolved_transport,
        "HOLDFAST_DEVICE": attempt.device,
        "HOLDFAST_RESUME": attempt.resume,
        "HOLDFAST_RESTART_COUNT": str(attempt.restart_count),
        "PYTHONUNBUFFERED": "1",
    }
    if spec.interfaces:
        variables["HOLDFAST_INTERFACES"] = spec.interfaces
    if spec.seed is not None:
        variables["HOLDFAST_SEED"] = str(spec.seed)
    if takes_gpus(spec, attempt.device):
        variables[GPUS] = own_gpu(base.get(GPUS), place, spec.nproc_per_node)
    if "OMP_NUM_THREADS" not in base:
        variables["OMP_NUM_THREADS"] = str(max(1, cores // spec.nproc_per_node))
    return variables


def takes_gpus(spec: LaunchSpec, device: str) -> bool:
    """Return whether each worker is to have a GPU: to compute on (`device`), or to sum on."""
    return device == "cuda" or spec.transport in GPU_TRANSPORTS


def own_gpu(visible: str | None, place: Place, nproc_per_node: int) -> str:
    """Return what the worker at `place` sees of the GPUs that its node's workers may use: one.

    `visible` is the node's CUDA_VISIBLE_DEVICES: numbers or names, of which those before a bad one
    count, as CUDA reads it; None: all that the node has. Raises UsageError if there are too few.
    """
    if visible is None:
        return str(place.local_rank)
    gpus = [*takewhile(lambda gpu: gpu not in ("", "-1"), map(str.strip, visible.split(",")))]
    if len(gpus) < nproc_per_node:
        raise UsageError(
            f"each of the {nproc_per_node} workers of {place.node.host} takes a GPU of its own, "
            f"but {GPUS}={visible!r} shows {len(gpus)}: let more be seen, or take --nproc-per-node "
            f"{max(1, len(gpus))} or --device cpu with another transport than nccl"
        )
    return gpus[place.local_rank]


def resume_of_attempt(resume: str, *, restart_count: int, checkpointed: bool) -> str:
    """Return HOLDFAST_RESUME: what the user said, until the job has a checkpoint of its own."""
    return "auto" if restart_count and checkpointed else resume
