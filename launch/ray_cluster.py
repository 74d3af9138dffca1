"""Where a job runs: a Ray of its own or a cluster's, and the nodes that it gives.

`choose` is pure; the rest talks to Ray. The only module beside `ray_launcher.py` that imports it.
"""

import contextlib
import functools
import importlib.util
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import ray
from ray.exceptions import RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from holdfast.errors import LaunchError, UsageError
from holdfast.launch.agent import Agent
from holdfast.launch.ray_folder import RayFolder
from holdfast.launch.spec import GPU_TRANSPORTS, LaunchSpec

OBJECT_STORE = 80 * 2**20
"""Bytes for a local Ray's object store: nothing goes through it, and this is about Ray's least."""

PLACEMENT_DEADLINE = 30.0
"""Seconds for a cluster to have the nodes that are asked for: some may be joining."""

REPLACEMENT_DEADLINE = 180.0
"""Seconds for a cluster to replace a lost node."""

_POLL = 0.25
_NOTICE_AFTER = 2.0
_KNOCK_DEADLINE = 10.0
_NODE_ID = "ray.io/node-id"


@dataclass(frozen=True)
class Machine:
    """A node as Ray describes it."""

    node_id: str
    host: str
    address: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Share:
    """What a job asks of each of its nodes."""

    nnodes: int
    cpus: int
    gpus: int

    def fits(self, machine: Machine) -> bool:
        """Whether the machine has that much, used by others or not."""
        return machine.cpus >= self.cpus and machine.gpus >= self.gpus

    def shortage(self, machines: Sequence[Machine]) -> str | None:
        """Say what is missing on the machines there are; None if nothing is."""
        if sum(map(self.fits, machines)) >= self.nnodes:
            return None
        what = f"{self.cpus} CPUs" + (f" and {self.gpus} GPUs" if self.gpus else "")
        asked = (
            f"{self.nnodes} nodes with {what} each" if self.nnodes > 1 else f"a node with {what}"
        )
        there = "; ".join(f"{m.host} with {m.cpus:g} CPUs, {m.gpus:g} GPUs" for m in machines)
        return f"asked for {asked} (one per worker), but there is: {there or 'no node'}"


def share(
    spec: LaunchSpec, machines: Sequence[Machine], *, cupy: bool
) -> tuple[Share, Literal["cpu", "cuda"]]:
    """Return what the job asks of each node, and the device that `auto` stands for.

    `auto` is CUDA if CuPy is installed and there is a GPU for each worker, and where the transport
    takes one anyway.
    """
    plain = Share(spec.nnodes, spec.nproc_per_node, 0)
    with_gpus = Share(spec.nnodes, spec.nproc_per_node, spec.nproc_per_node)
    if spec.device == "cuda":
        return with_gpus, "cuda"
    if spec.transport in GPU_TRANSPORTS:
        return with_gpus, "cpu" if spec.device == "cpu" else "cuda"
    if spec.device == "auto" and cupy and with_gpus.shortage(machines) is None:
        return with_gpus, "cuda"
    return plain, "cpu"


class Placement:
    """The job's nodes: a placement group and one agent on each, in the order of ranks."""

    def __init__(self, group: PlacementGroup, machines: Sequence[Machine], wanted: Share) -> None:
        self._group = group
        self.machines = tuple(machines)
        remote = ray.remote(Agent)
        self.agents: list[Any] = [
            remote.options(
                num_cpus=wanted.cpus,
                num_gpus=wanted.gpus,
                max_concurrency=8,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    group, placement_group_bundle_index=index
                ),
            ).remote()
            for index in range(len(machines))
        ]

    def remove(self) -> None:
        """End the agents, and with them their workers, and give the nodes back."""
        with contextlib.suppress(RayError):  # Ray itself is gone, and all that it ran with it
            for agent in self.agents:
                ray.kill(agent)
            remove_placement_group(self._group)


class Cluster:
    """A connection to Ray, from `__enter__` to `__exit__`; a local one lives just as long."""

    def __init__(self, spec: LaunchSpec, notice: Callable[[str], None]) -> None:
        self._spec = spec
        self._notice = notice
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        spec = self._spec
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "ignore_reinit_error": False,
        }
        # Else Ray announces at each start that it will one day treat such agents differently.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        with contextlib.ExitStack() as stack:
            if spec.address is None:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                folder = stack.enter_context(RayFolder())
                options |= {
                    "address": "local",
                    "num_cpus": spec.nproc_per_node,
                    "include_dashboard": False,
                    "object_store_memory": OBJECT_STORE,
                    "_temp_dir": str(folder.path),
                }
            else:
                options["address"] = spec.address
            try:
                if spec.address is not None:
                    _knock(spec.address)
                stack.callback(ray.shutdown)
                ray.init(**options)
            except Exception as error:
                raise LaunchError(_cannot_connect(spec.address, error)) from error
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def own_node_id(self) -> str:
        """The node that this process runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def machines(self) -> list[Machine]:
        """Return the nodes that are alive."""
        return [
            Machine(
                node_id=node["NodeID"],
                host=node["NodeManagerHostname"],
                address=node["NodeManagerAddress"],
                cpus=node["Resources"].get("CPU", 0),
                gpus=node["Resources"].get("GPU", 0),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]

    def device(self) -> Literal["cpu", "cuda"]:
        """Return the device that the job's `--device` stands for here."""
        return self._share[1]

    def place(self, *, deadline: float, check: Callable[[], None]) -> Placement:
        """Return nodes with room for the job, this one first if it is among them.

        Waits up to `deadline` seconds for a cluster to have them and calls `check` meanwhile, to be
        interrupted by what it raises. Raises UsageError if they aren't there, LaunchError if they
        are, but in others' use.
        """
        wanted, _ = self._share
        # On a cluster the group stands while we wait, so that an autoscaler sees what is missing.
        if self._spec.address is None and (missing := wanted.shortage(self.machines())):
            raise UsageError(missing) if self.machines() else LaunchError("the local Ray has ended")
        bundle = {"CPU": float(wanted.cpus)} | ({"GPU": float(wanted.gpus)} if wanted.gpus else {})
        group = placement_group(
            [bundle] * wanted.nnodes,
            strategy="STRICT_SPREAD" if wanted.nnodes > 1 else "PACK",
            bundle_label_selector=self._first_node(wanted),
        )
        try:
            self._wait(group, wanted, deadline, check)
            by_id = {machine.node_id: machine for machine in self.machines()}
            table = ray.util.placement_group_table(group)["bundles_to_node_id"]
            chosen = [by_id[table[index]] for index in range(wanted.nnodes)]
        except KeyError as error:
            remove_placement_group(group)
            raise LaunchError(f"node {error} was lost while the job was placed on it") from error
        except BaseException:
            remove_placement_group(group)
            raise
        return Placement(group, chosen, wanted)

    @functools.cached_property
    def _share(self) -> tuple[Share, Literal["cpu", "cuda"]]:
        # Once for the whole job: its attempts go on from one another, on the same kind of device.
        cupy = importlib.util.find_spec("cupy") is not None
        return share(self._spec, self.machines(), cupy=cupy)

    def _first_node(self, wanted: Share) -> list[dict[str, str]]:
        """Return selectors that put rank 0 beside the run directory: on this node, if it fits."""
        own = self.own_node_id
        here = any(each.node_id == own and wanted.fits(each) for each in self.machines())
        return [{_NODE_ID: own} if here else {}, *([{}] * (wanted.nnodes - 1))]

    def _wait(
        self, group: PlacementGroup, wanted: Share, deadline: float, check: Callable[[], None]
    ) -> None:
        began = time.monotonic()
        told = False
        while not group.wait(timeout_seconds=_POLL):
            check()
            missing = wanted.shortage(self.machines())
            waited = time.monotonic() - began
            if waited >= deadline:
                if missing:
                    raise UsageError(f"{missing} (waited {deadline:.0f} s)")
                free = ray.available_resources()
                raise LaunchError(
                    f"the cluster has {wanted.nnodes} fitting nodes, but they are in use: "
                    f"{free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs are free "
                    f"(waited {deadline:.0f} s)"
                )
            if waited >= _NOTICE_AFTER and not told:
                told = True
                self._notice(f"waiting up to {deadline:.0f} s for nodes: {missing or 'all in use'}")


def _knock(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT, which Ray would take minutes to find out."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_DEADLINE).close()


def _cannot_connect(address: str | None, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    if address is None:
        return f"a local Ray could not be started: {reason}"
    return (
        f"no Ray cluster can be reached at {address} ({reason}): start one with "
        "`ray start --head`, or leave --address out for this machine alone"
    )
