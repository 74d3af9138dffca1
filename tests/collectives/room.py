"""Ranks of one process that meet in a room: collectives by their definition, a thread per rank."""

import threading

import numpy as np

from holdfast.collectives.communicator import COMBINE
from holdfast.collectives.work import WorkQueue


class Room:
    """Where the ranks show each other their arrays."""

    def __init__(self, world_size):
        self.world_size = world_size
        self._barrier = threading.Barrier(world_size, timeout=20)
        self._shown = [None] * world_size

    def leave(self):
        self._barrier.abort()

    def exchange(self, rank, x):
        self._shown[rank] = x.copy()
        self._barrier.wait()
        shown = list(self._shown)
        self._barrier.wait()
        return shown


class Member:
    """One rank's communicator in a room; `calls` are the collectives that it was asked for."""

    transport = "room"
    device = "cpu"
    overlaps = True

    def __init__(self, room, rank):
        self.rank, self.world_size, self._room = rank, room.world_size, room
        self.calls = []
        self._queue = WorkQueue(f"room-{rank}")

    def close(self):
        self._queue.close()

    def allocate(self, count, dtype, *, common=False):
        return np.zeros(count, dtype)

    def all_reduce(self, x, op="sum", out=None, *, async_op=False):
        if async_op:
            return self._queue.submit(lambda: self._all_reduce(x, op, out))
        return self._queue.run(lambda: self._all_reduce(x, op, out))

    def broadcast(self, x, root=0):
        self.calls.append(("broadcast", x.dtype.name, x.size))
        x[...] = self._queue.run(lambda: self._room.exchange(self.rank, x))[root]
        return x

    def _all_reduce(self, x, op, out):
        self.calls.append(("all_reduce", x.dtype.name, x.size))
        wide = np.float32 if x.dtype.itemsize == 2 else x.dtype
        first, *others = (each.astype(wide) for each in self._room.exchange(self.rank, x))
        for other in others:
            first = COMBINE[op](first, other)
        out = x if out is None else out
        with np.errstate(over="ignore"):
            out[...] = first.astype(x.dtype)
        return out

    def all_gather(self, x):
        self.calls.append(("all_gather", x.dtype.name, x.size))
        return np.stack(self._room.exchange(self.rank, x))

    def all_to_all(self, x):
        self.calls.append(("all_to_all", x.dtype.name, x.size))
        return np.stack([each[self.rank] for each in self._room.exchange(self.rank, x)])


def together(world_size, body):
    """Return what `body(member)` returns on each rank."""
    room, results, errors = Room(world_size), [None] * world_size, []

    def run(rank):
        member = Member(room, rank)
        try:
            results[rank] = body(member)
        except BaseException as error:  # handed to the test
            errors.append(error)
            room.leave()
        finally:
            member.close()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
