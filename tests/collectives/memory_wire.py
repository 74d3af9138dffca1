"""A `Transport` between threads: messages are copied when they are sent and wait in queues."""

import queue
import threading

from holdfast.collectives.work import Rest
from holdfast.errors import CollectiveMismatch, CommunicationError, DeadlineExceeded


class Wires:
    """What `world_size` transports share."""

    def __init__(self, world_size):
        self.queues = {
            (source, target): queue.SimpleQueue()
            for source in range(world_size)
            for target in range(world_size)
        }
        self.world_size = world_size

    def transport(self, rank, **options):
        return MemoryTransport(self, rank, **options)


class MemoryTransport:
    """One rank's end. With `late`, a message is copied only when somebody waits: borrowing shows.

    That is the worst that a transport may do with a buffer that was lent to it: what is sent is
    what is there when the sender next waits or flushes, and not what was there at `send`.
    """

    def __init__(self, wires, rank, timeout=20.0, late=False):
        self.rank, self.world_size = rank, wires.world_size
        self.asleep = Rest()
        self._wires, self._timeout, self._late = wires, timeout, late
        self._posted = {peer: [] for peer in range(self.world_size)}
        self._unsent = []
        self._aborted = threading.Event()

    def send(self, peer, data, tag):
        assert peer != self.rank
        self._unsent.append((peer, data, tag))
        if not self._late:
            self.flush()

    def post(self, peer, into, tag):
        assert not into.readonly
        self._posted[peer].append((into, tag))

    def wait(self, peer):
        into, tag = self._posted[peer].pop(0)
        waiting = self._wires.queues[peer, self.rank]
        if self._late and waiting.empty():
            self.flush()
        for _ in range(int(self._timeout / 0.05)):
            try:
                with self.asleep:
                    data, its = waiting.get(timeout=0.05)
                break
            except queue.Empty:
                if self._aborted.is_set():
                    raise CommunicationError("aborted") from None
        else:
            raise DeadlineExceeded(f"rank {self.rank} waited for rank {peer}")
        if its != tag or len(data) != len(into):
            raise CollectiveMismatch(f"rank {self.rank}: {len(data)} of {len(into)} bytes")
        into[:] = data

    def flush(self, count=None):
        for peer, data, tag in self._unsent:
            self._wires.queues[self.rank, peer].put((bytes(data), tag))
        self._unsent.clear()

    def service(self):
        pass

    def abort(self):
        self._aborted.set()

    def close(self, *, graceful):
        pass
