"""What a drill is: a job, a network to run it on, and what will be done to that network. Frozen."""

from dataclasses import dataclass, field
from pathlib import Path

from holdfast.errors import UsageError
from holdfast.fabric.build import FABRICS
from holdfast.fabric.script import LINK_KINDS, Script
from holdfast.fabric.topology import Topology, star
from holdfast.launch.spec import LaunchSpec


@dataclass(frozen=True)
class DrillSpec:
    """A drill as it was asked for. Construction raises UsageError for what cannot be.

    `nproc_per_node` workers run on each of the topology's hosts. Either `faults` says what happens,
    or faults of `kinds` are drawn from `seed` with `mtbf` seconds between them on average.
    `run_dir` gets the report and a run directory per run. `timeout` is how long nothing may move on
    any link before the job gives up, in seconds. `again` is the command that repeats the drill, for
    the report.
    """

    script: Path
    run_dir: Path
    args: tuple[str, ...] = ()
    topology: Topology = field(default_factory=lambda: star(3))
    fabric: str = "relay"
    nproc_per_node: int = 1
    faults: Script | None = None
    mtbf: float = 5.0
    seed: int = 0
    kinds: tuple[str, ...] = LINK_KINDS
    max_restarts: int = 3
    timeout: float = 60.0
    again: str = ""

    def __post_init__(self) -> None:
        if self.fabric not in FABRICS:
            raise UsageError(
                f"a fabric of {' or '.join(FABRICS)} was expected, found {self.fabric!r}"
            )
        if not self.script.is_file():
            raise UsageError(f"script {self.script} isn't there (looked in {Path.cwd()})")
        if self.mtbf <= 0:
            raise UsageError(f"--mtbf must be above 0 s, found {self.mtbf}")
        if self.timeout < 1 or self.timeout != int(self.timeout):
            raise UsageError(f"a timeout of whole seconds from 1 was expected: {self.timeout}")
        if self.run_dir.exists() and (not self.run_dir.is_dir() or any(self.run_dir.iterdir())):
            raise UsageError(
                f"--run-dir {self.run_dir} is not empty: a drill begins anew, take another folder"
            )
        self.job("quiet")
        if self.world_size < 2:
            raise UsageError("a drill needs two workers at least: one has no links to break")
        if self.faults is not None:
            self.faults.check(self.topology, self.world_size)

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.nproc_per_node * len(self.topology.hosts)

    def job(self, name: str) -> LaunchSpec:
        """Return the job of one of the runs, `quiet` or `faulty`, in a folder of that name."""
        return LaunchSpec(
            script=self.script,
            run_dir=self.run_dir / name,
            run_id=f"drill-{name}",
            args=self.args,
            nproc_per_node=self.nproc_per_node,
            nnodes=len(self.topology.hosts),
            transport="tcp",
            device="cpu",
            max_restarts=self.max_restarts,
        )
