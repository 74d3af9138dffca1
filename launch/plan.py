"""What `--dry-run` shows: the rank table, each rank's environment, the exact commands."""

import platform
import shlex
import sys
from collections.abc import Mapping

from holdfast.launch.environment import (
    EVENTS_FD,
    GPUS,
    RENDEZVOUS_FD,
    AttemptFacts,
    base_environment,
    worker_environment,
)
from holdfast.launch.spec import LaunchSpec, Node, rank_table

SECRET = "<secret>"


def describe_plan(spec: LaunchSpec, environment: Mapping[str, str], *, cores: int) -> str:
    """Return the plan as text; nodes other than a local one get their names from Ray later."""
    if spec.address is None:
        nodes = [Node(platform.node(), "127.0.0.1")]
    else:
        nodes = [Node(f"<node {group}>", f"<node {group}>") for group in range(spec.nnodes)]
    attempt = AttemptFacts(
        master_addr="127.0.0.1" if spec.nnodes == 1 else nodes[0].address,
        master_port="<a free port>",
        token=SECRET,
        restart_count=0,
        resume=spec.resume,
        device=spec.device,
    )
    # Which GPUs there are, only a node's agent knows.
    base = base_environment(environment, {}, same_node=True, with_devices=True)
    places = rank_table(nodes, spec.nproc_per_node)
    where = f"the Ray cluster at {spec.address}" if spec.address else "a local Ray"
    lines = [
        f"{spec.world_size} ranks on {where}, transport {spec.resolved_transport}, "
        f"device {spec.device}",
        f"run directory: {spec.run_dir}",
        "",
        f"{'rank':>6} {'local rank':>10}  node",
        *(f"{each.rank:>6} {each.local_rank:>10}  {each.node.host}" for each in places),
    ]
    for place in places:
        ours = worker_environment(spec, place, attempt, cores=cores, base=base)
        if GPUS in ours:
            ours[GPUS] = "<a GPU of its own>"
        ours[EVENTS_FD] = "<a pipe to the agent>"
        if place.rank == 0:
            ours[RENDEZVOUS_FD] = "<the socket that listens on MASTER_PORT>"
        lines += ["", f"rank {place.rank}:"]
        lines += [f"  {name}={value}" for name, value in sorted(ours.items())]
        lines.append(f"  {shlex.join([sys.executable, str(spec.script), *spec.args])}")
    return "\n".join(lines)
