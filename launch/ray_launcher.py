"""Run a job on Ray: attempt after attempt until it is done, given up or interrupted.

What a failure means stands in `failure.py`, how one attempt goes in `ray_attempt.py`.
"""

import contextlib
import os
import time
from collections.abc import Mapping

from ray.exceptions import RayError

from holdfast.errors import HoldfastError, LaunchError, UsageError, WorkerFailed
from holdfast.launch.attempt import Attempt
from holdfast.launch.console import Console
from holdfast.launch.environment import resume_of_attempt
from holdfast.launch.failure import choose_cause, decide, describe_failures
from holdfast.launch.logs import AttemptLogs, next_attempt
from holdfast.launch.ray_attempt import Outlets, RayAttempt
from holdfast.launch.ray_cluster import PLACEMENT_DEADLINE, REPLACEMENT_DEADLINE, Cluster
from holdfast.launch.run_folder import RunFolder, describe_result
from holdfast.launch.signals import Interrupted, Signals
from holdfast.launch.spec import LaunchSpec
from holdfast.runtime.progress import ProgressView
from holdfast.runtime.result import RunResult, Status


def launch(spec: LaunchSpec, environment: Mapping[str, str]) -> int:
    """Run the job and return its exit status: 0, or after Ctrl-C and SIGTERM 130 and 143.

    `environment` is what the workers' is made from, as it was before Ray was imported.
    Raises UsageError for what cannot be run as asked, LaunchError if Ray fails, WorkerFailed if the
    job did. Call it in the main thread; it handles signals while it runs.
    """
    console = Console(ProgressView())
    try:
        with RunFolder(spec) as folder, Signals() as signals:
            return Job(spec, folder, console, signals, environment).run()
    finally:
        console.close()


class Job:
    """A job over all its attempts. `environment` is what its workers' are made from."""

    def __init__(
        self,
        spec: LaunchSpec,
        folder: RunFolder,
        console: Console,
        signals: Signals,
        environment: Mapping[str, str],
    ) -> None:
        self._spec = spec
        self._folder = folder
        self._console = console
        self._signals = signals
        self._environment = environment
        self._began = time.monotonic()
        self._restarts = 0
        self._steps = 0
        self._checkpointed = False

    def run(self) -> int:
        """Run it; see `launch`."""
        self._folder.events.write("launched", run_id=self._spec.run_id, pid=os.getpid())
        try:
            with contextlib.ExitStack() as stack:
                with self._signals.at_once(self._interrupted):
                    cluster = stack.enter_context(Cluster(self._spec, self._console.notice))
                self._attempts(cluster)
        except Interrupted as interrupted:
            self._interrupted(interrupted)
            return interrupted.exit_status
        except WorkerFailed as failed:
            self._end("failed", failed.exit_status, str(failed))
            raise
        except HoldfastError as error:
            self._end("failed", 2 if isinstance(error, UsageError) else 1, str(error))
            raise
        except RayError as error:
            self._end("failed", 1, str(error))
            raise LaunchError(f"Ray failed: {error}") from error
        seconds = time.monotonic() - self._began
        self._folder.events.write("job finished", seconds=round(seconds, 3))
        self._console.close()
        self._console.notice(describe_result(self._folder.path, self._folder.result(), seconds))
        return 0

    def _interrupted(self, interrupted: Interrupted) -> None:
        self._end("interrupted", interrupted.exit_status, str(interrupted))
        self._console.close()  # the last line belongs below the bar
        self._console.problem(f"interrupted by {interrupted}: {self._folder.path}")

    def _attempts(self, cluster: Cluster) -> None:
        """Repeat the attempt until one succeeds. Raises WorkerFailed, or Interrupted."""
        check = self._signals.check
        placement = cluster.place(deadline=PLACEMENT_DEADLINE, check=check)
        try:
            device = cluster.device()
            while True:
                if placement.machines[0].node_id != cluster.own_node_id:
                    host = placement.machines[0].host
                    self._console.notice(
                        f"rank 0 is on {host}: it writes {self._folder.path} there"
                    )
                number = next_attempt(self._folder.path)
                folder = self._folder.path / f"attempt_{number}"
                with AttemptLogs(folder, self._spec.world_size) as logs:
                    attempt = RayAttempt(
                        self._spec,
                        placement,
                        Outlets(self._console, logs, self._folder.events),
                        self._signals,
                        environment=self._environment,
                        own_node_id=cluster.own_node_id,
                    )
                    resume = resume_of_attempt(
                        self._spec.resume,
                        restart_count=self._restarts,
                        checkpointed=self._checkpointed,
                    )
                    try:
                        attempt.run(restart_count=self._restarts, resume=resume, device=device)
                    finally:
                        self._steps = max(self._steps, attempt.state.last_step)
                        self._checkpointed |= attempt.state.checkpointed
                    if not attempt.state.failures:
                        return
                    self._judge(attempt.state, logs, number)
                if attempt.lost_node:
                    self._console.problem("a node was lost: placing the job anew")
                    placement.remove()
                    placement = cluster.place(deadline=REPLACEMENT_DEADLINE, check=check)
        finally:
            placement.remove()

    def _judge(self, state: Attempt, logs: AttemptLogs, number: int) -> None:
        """Return if the attempt is to be repeated. Raises WorkerFailed if it is not."""
        most = self._spec.max_restarts
        cause = choose_cause(state.failures)
        report = describe_failures(
            state.failures,
            attempt=number,
            stderr=logs.stderr_tail(cause.rank),
            log=str(logs.path(cause.rank, "stderr")),
            world_size=self._spec.world_size,
        )
        decision = decide(
            state.failures, stepped=state.stepped, restarts=self._restarts, max_restarts=most
        )
        if decision == "restart":
            self._restarts += 1
            self._folder.events.write("restart", restart=self._restarts, cause=cause.rank)
            self._console.problem(f"{report}\nrestart {self._restarts} of {most}")
            return
        if decision == "no restarts left" and most:
            report += f"\ngiven up after {most} restarts"
        raise WorkerFailed(report, rank=cause.rank, exit_status=cause.exit_status)

    def _end(self, status: Status, exit_status: int, error: str) -> None:
        """Write down an end that the job could not write down itself."""
        self._folder.events.write(f"job {status}", exit_status=exit_status, error=error)
        self._folder.write_end(
            RunResult(
                status=status,
                steps=self._steps,
                seconds=time.monotonic() - self._began,
                world_size=self._spec.world_size,
                transport=self._spec.resolved_transport,
                restarts=self._restarts,
                exit_status=exit_status,
                error=error,
            )
        )
