"""Our own schedules over MPI: a transport of MPI_Isend and MPI_Irecv.

The tag of the call that a message is part of travels as MPI's tag, and a receive takes any tag: MPI
keeps the order of two ranks' messages, and tells the tag and the size of what came. So a message of
another call is found out at no cost; a header would cost a second message, a probe a second call,
and a receive that names its tag would wait for ever.

A message of at most some KiB, which MPI sends without being asked for it, MPI copies itself; larger
ones are borrowed until their MPI_Isend is done.
"""

import contextlib
import json
from collections import defaultdict, deque
from functools import partial
from typing import Any, NamedTuple

from holdfast.collectives.communicator import Communicator, GroupConfig
from holdfast.collectives.cost import CostModel
from holdfast.collectives.mpi.group import MpiGroup, join
from holdfast.collectives.mpi.process import HIGHEST_TAG, Patience
from holdfast.collectives.scheduled import ScheduledCommunicator
from holdfast.collectives.work import Rest
from holdfast.errors import CollectiveMismatch, CommunicationError, PeerLost

LEFT = HIGHEST_TAG
"""The tag of a rank's last message, which says that it won't send what is awaited."""

LINGER = 4.0
"""Seconds that a rank which closes waits for its last messages to be taken."""


class _Place(NamedTuple):
    """Where a message is to go, and of which call it must be."""

    request: Any
    into: memoryview
    tag: int


class _Sent(NamedTuple):
    """A message on its way: its number, counted from 1, and to whom it goes."""

    number: int
    request: Any
    peer: int


class MpiTransport:
    """Moves messages between the ranks of an MPI group, which it owns; see `Transport`.

    The deadline holds for each message: one that doesn't come within the group's timeout raises
    DeadlineExceeded.
    """

    def __init__(self, group: MpiGroup) -> None:
        self.rank = group.rank
        self.world_size = group.world_size
        self._group = group
        self._mpi = group.process.module
        self._status = self._mpi.Status()
        self._sent: deque[_Sent] = deque()  # those that may not be done
        self._messages = 0  # that were given to `send`
        self._posted: defaultdict[int, deque[_Place]] = defaultdict(deque)
        self._closed = False

    @property
    def asleep(self) -> Rest:
        """See `Transport`."""
        return self._group.asleep

    @asleep.setter
    def asleep(self, context: Rest) -> None:
        self._group.asleep = context

    def send(self, peer: int, data: memoryview, tag: int) -> None:
        """Begin to send `data`; it is borrowed until `flush`."""
        message = (data, len(data), self._mpi.BYTE)
        request = self._begin(self._group.comm.Isend, message, peer, tag)
        self._messages += 1
        self._sent.append(_Sent(self._messages, request, peer))

    def post(self, peer: int, into: memoryview, tag: int) -> None:
        """Let the next message of `peer` that has no place yet go to `into`."""
        place = (into, len(into), self._mpi.BYTE)
        request = self._begin(self._group.comm.Irecv, place, peer, self._mpi.ANY_TAG)
        self._posted[peer].append(_Place(request, into, tag))

    def wait(self, peer: int) -> None:
        """Return when the oldest place posted for `peer` is filled.

        Raises CollectiveMismatch if its message has another size or tag, PeerLost if the peer has
        died (with ULFM) or left, DeadlineExceeded.
        """
        request, into, tag = self._posted[peer].popleft()
        self._group.wait(request, f"a message of rank {peer}", self._status)
        came, size = self._status.Get_tag(), self._status.Get_count(self._mpi.BYTE)
        if (came, size) == (tag, len(into)):
            return
        if came == LEFT:
            raise self._left(peer)
        raise CollectiveMismatch(
            f"rank {self.rank}: a message of {len(into)} bytes of call {tag:04x} was expected, "
            f"rank {peer} sends {size} of call {came:04x}: the ranks called different collectives, "
            "or the same one with another operation, dtype or size"
        )

    def flush(self, count: int | None = None) -> None:
        """Return when nothing is borrowed any more of the first `count` messages (None: of all)."""
        while self._sent and (count is None or self._sent[0].number <= count):
            _, request, peer = self._sent.popleft()
            look = partial(self._look_for_leaver, peer)
            self._group.wait(request, f"a message to rank {peer}", look=look)

    def service(self) -> None:
        """Let MPI move what it has to: it only does while it is called."""
        if not self._closed:
            self._reap()

    def abort(self) -> None:
        """Make a wait in another thread fail soon."""
        self._group.abort()

    def close(self, *, graceful: bool) -> None:
        """Give everything back; may be called again.

        If graceful, wait some seconds at most until the last messages are taken; else tell the
        peers that no more will come.
        """
        if self._closed:
            return
        self._closed = True
        patience = Patience(LINGER if graceful else 0.0)
        with contextlib.suppress(CommunicationError):  # what broke the job is known already
            while self._reap():
                patience.pause()
        graceful = graceful and not self._sent
        if not graceful:
            with contextlib.suppress(CommunicationError):
                for peer in set(range(self.world_size)) - {self.rank}:
                    nothing = (b"", 0, self._mpi.BYTE)
                    request = self._begin(self._group.comm.Isend, nothing, peer, LEFT)
                    self._sent.append(_Sent(self._messages, request, peer))
        for places in self._posted.values():
            for place in places:
                place.request.Cancel()
                self._group.process.abandon(place)
        self._group.process.abandon(tuple(self._sent))
        self._group.close(graceful=graceful)

    def _look_for_leaver(self, peer: int) -> None:
        """Raise PeerLost if `peer` has left instead of taking what is sent to it."""
        if self._group.comm.Iprobe(peer, LEFT):
            raise self._left(peer)

    def _left(self, peer: int) -> PeerLost:
        return PeerLost(
            f"rank {self.rank}: rank {peer} has left the group (epoch {self._group.epoch}) "
            "before its messages were exchanged: its own output says why"
        )

    def _begin(self, call: Any, message: Any, peer: int, tag: int) -> Any:
        try:
            return call(message, peer, tag)
        except self._mpi.Exception as error:
            raise self._group.failed(error, f"a message of rank {peer}") from error

    def _reap(self) -> bool:
        """Forget the messages that are sent; return whether any is left."""
        while self._sent:
            _, request, peer = self._sent[0]
            try:
                if not request.Test():
                    return True
            except self._mpi.Exception as error:
                raise self._group.failed(error, f"a message to rank {peer}") from error
            self._sent.popleft()
        return False


def open_mpi_p2p(config: GroupConfig) -> Communicator:
    """Join all ranks that mpiexec has started; return our own collectives over MPI's messages.

    `config`'s addresses and token are of no use here. Raises MissingDependency without MPI,
    UsageError where the job was not started as `config` says, RendezvousError where a rank doesn't
    come.
    """
    segment = config.link.segment
    group = join(config, {"transport": "mpi-p2p", "segment": segment})
    model = None if config.model is None else config.model.to_json()
    algorithm, model = json.loads(group.told(json.dumps([config.algorithm, model])))
    communicator = ScheduledCommunicator(
        MpiTransport(group),
        "mpi-p2p",
        segment=segment,
        witness=config.witness,
        algorithm=algorithm,
        model=None if model is None else CostModel.from_json(model),
    )
    group.process.open.add(communicator)
    return communicator
