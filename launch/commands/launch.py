"""`holdfast launch`: run a script data-parallel on this machine or on a Ray cluster."""

import os
import secrets
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from holdfast.launch.mpiexec import find_mpiexec
from holdfast.launch.plan import describe_plan
from holdfast.launch.spec import (
    MPI_TRANSPORTS,
    DeviceName,
    LaunchSpec,
    TransportName,
    absolute_resume,
    check_cluster,
    check_files,
    default_run_dir,
    fresh_folder,
    new_run_id,
)


def launch(
    script: Annotated[Path, typer.Argument(help="the Python file to run", metavar="SCRIPT")],
    args: Annotated[
        list[str] | None, typer.Argument(help="its own arguments", metavar="ARGS")
    ] = None,
    nproc_per_node: Annotated[int, typer.Option(help="workers on each node")] = 1,
    nnodes: Annotated[int, typer.Option(help="nodes")] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            help="a Ray cluster's HOST:PORT, or auto; without it a local Ray is started",
            envvar="RAY_ADDRESS",
        ),
    ] = None,
    transport: Annotated[
        TransportName,
        typer.Option(help="auto: shm on one node, tcp beyond; mpi and mpi-p2p need mpiexec"),
    ] = "auto",
    interfaces: Annotated[
        str,
        typer.Option(
            help="network interfaces or addresses of every node, as eth0,eth1: a rail over each",
            envvar="HOLDFAST_INTERFACES",
        ),
    ] = "",
    device: Annotated[
        DeviceName, typer.Option(help="auto: cuda if CuPy is there and a GPU for each worker")
    ] = "auto",
    seed: Annotated[int | None, typer.Option(help="overrides the script's own")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="where everything goes [default: runs/SCRIPT-DATE-TIME]")
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="auto: from the run directory's newest checkpoint; never; or a checkpoint",
            metavar="auto|never|PATH",
        ),
    ] = "auto",
    max_restarts: Annotated[
        int, typer.Option(help="how often a job that lost a worker is started again")
    ] = 3,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show ranks, environment and commands; start nothing")
    ] = False,
) -> None:
    """Run SCRIPT on NNODES x NPROC_PER_NODE workers, as torchrun would.

    Each worker is a plain Python process with RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT. Options come before SCRIPT; what follows it is the script's own. Exit status: the
    first failing worker's (128 + n for signal n), 2 for bad usage, 130 after Ctrl-C.
    """
    folder = Path.cwd() / (run_dir or fresh_folder(default_run_dir(script, datetime.now())))
    spec = LaunchSpec(
        script=script,
        args=tuple(args or ()),
        nproc_per_node=nproc_per_node,
        nnodes=nnodes,
        address=address or None,
        transport=transport,
        interfaces=interfaces,
        device=device,
        seed=seed,
        run_dir=folder,
        resume=absolute_resume(resume, Path.cwd()),
        max_restarts=max_restarts,
        dry_run=dry_run,
        run_id=new_run_id(folder, secrets.token_hex(4)),
    )
    check_cluster(spec)
    check_files(spec)
    if spec.transport in MPI_TRANSPORTS and spec.address is None:
        find_mpiexec(sys.executable, os.environ.get("PATH", ""))
    if spec.dry_run:
        print(describe_plan(spec, os.environ, cores=len(os.sched_getaffinity(0))))
        return
    # What Ray puts into our environment, from its import on, is none of the workers' business.
    environment = dict(os.environ)
    from holdfast.launch.ray_launcher import launch as run

    status = run(spec, environment)
    if status:
        sys.exit(status)
