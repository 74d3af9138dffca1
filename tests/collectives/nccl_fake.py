"""A stand-in for NCCL and a GPU: records the calls, can be told to misbehave, and does the sums.

Streams are threads that carry out what they are given in order, so that what is ordered wrongly
gives wrong sums here too. A call that NCCL would enqueue in the background reaches the stream only
when the communicator's state has been asked for often enough.
"""

import contextlib
import ctypes
import queue
import threading
import time
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from holdfast.collectives.nccl.binding import ID_BYTES, NcclError
from holdfast.collectives.nccl.plan import CODES, OPERATIONS, Abilities
from holdfast.collectives.nccl.state import Result

ABLE = Abilities((2, 28, 3), 2**63 - 1, False, mean=True, bfloat16=True, shrink=True)
PATIENCE = 20.0
DTYPES = {
    code: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
    for name, code in CODES.items()
}
VERBS = {code: name for name, code in OPERATIONS.items()}


class GpuArray(np.ndarray):
    """An array in the memory of a fake GPU."""


class Event:
    def __init__(self):
        self._passed = threading.Event()

    @property
    def done(self):
        return self._passed.is_set()


class Stream:
    """A thread that does what it is given, one after the other."""

    def __init__(self, gpu):
        self.ptr = id(self)
        self._gpu = gpu
        self._work = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def give(self, call):
        self._work.put(call)

    def record(self, event):
        self.give(event._passed.set)
        return event

    def wait_event(self, event):
        self.give(lambda: event._passed.wait(PATIENCE))

    def synchronize(self):
        event = self.record(Event())
        assert event._passed.wait(PATIENCE), "the stream hangs"

    def close(self):
        self._work.put(None)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the stream hangs"

    def _loop(self):
        while (call := self._work.get()) is not None:
            call()

    def __enter__(self):
        self._gpu._current().append(self)
        return self

    def __exit__(self, *error):
        self._gpu._current().pop()


class FakeGpu:
    """A GPU of NumPy arrays; close it to end its streams."""

    def __init__(self, identity="0000:01:00.0"):
        self.identity = identity
        self.streams = []
        self._local = threading.local()
        self.default = self.new_stream()

    def array(self, data):
        """Return a copy of `data` in this GPU's memory, there at once."""
        return np.array(data).view(GpuArray)

    def read(self, x):
        """Return `x` as the host sees it behind all that the current stream was given."""
        self.current_stream().synchronize()
        return np.array(x)

    def selected(self):
        return contextlib.nullcontext()

    def holds(self, x):
        return isinstance(x, GpuArray)

    def empty(self, shape, dtype):
        array = np.empty(shape, dtype).view(GpuArray)
        memory(self.pointer(array), array.nbytes, np.dtype(np.uint8)).fill(0xEE)
        return array

    def zeros(self, count, dtype):
        return np.zeros(count, dtype).view(GpuArray)

    def contiguous(self, x):
        if x.flags.c_contiguous:
            return x
        copy = np.empty(x.shape, x.dtype).view(GpuArray)
        self.current_stream().give(lambda: np.copyto(copy, x))
        return copy

    def copy(self, into, x):
        self.current_stream().give(lambda: np.copyto(into, x.reshape(into.shape)))

    def overlap(self, x, y):
        return np.may_share_memory(x, y)

    def pointer(self, x):
        return x.__array_interface__["data"][0]

    def new_stream(self):
        self.streams.append(Stream(self))
        return self.streams[-1]

    def current_stream(self):
        stack = self._current()
        return stack[-1] if stack else self.default

    def new_event(self):
        return Event()

    def close(self):
        for stream in self.streams:
            stream.close()

    def _current(self):
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        return self._local.stack


@dataclass
class Script:
    """How the library behaves on one rank."""

    in_progress: int = 0
    """How often each call is in progress before it is through."""
    never: frozenset[str] = frozenset()
    """Calls ("init", "post", "finalize", "shrink") that stay in progress."""
    fails: dict[str, Result] = field(default_factory=dict)
    """Result by call: calls that raise it; "async" is what the state says from now on."""
    hangs: bool = False
    """Kernels run until they are aborted."""
    abort_hangs: bool = False


class Group:
    def __init__(self, size):
        self.size = size
        self.joined = set()
        self.tables = {}
        self.mail = {}


class Handle:
    def __init__(self, group, rank):
        self.group = group
        self.rank = rank
        self.asks = 0  # answers of IN_PROGRESS that are still due
        self.stuck = False
        self.pending = []
        self.number = 0
        self.aborted = False
        self.unfinished = 0  # kernels
        self.finalizing = False


class FakeNccl:
    """The library and the network below it, which all ranks share."""

    def __init__(self):
        self.changed = threading.Condition()
        self.groups = {}

    def group(self, key, size):
        with self.changed:
            return self.groups.setdefault(key, Group(size))

    def binding(self, script=None, abilities=ABLE):
        return FakeBinding(self, script or Script(), abilities)


class FakeBinding:
    """One rank's binding; `calls` is what was called, without pointers."""

    name = "fake"

    def __init__(self, library, script, abilities):
        self.abilities = abilities
        self.script = script
        self.calls = []
        self._library = library
        self._depth = 0
        self._grouped = []

    def unique_id(self):
        self._note("unique_id")
        return len(self._library.groups).to_bytes(ID_BYTES, "little")

    def init(self, world_size, rank, unique_id):
        self._note("init", world_size, rank)
        handle = Handle(self._library.group(unique_id, world_size), rank)
        with self._library.changed:
            handle.group.joined.add(rank)
        self._begin(handle, "init")
        return handle

    def async_error(self, handle):
        if "async" in self.script.fails:
            return self.script.fails["async"], "the network said so"
        if handle.asks > 0:
            handle.asks -= 1
            return Result.IN_PROGRESS, ""
        if handle.stuck or len(handle.group.joined) < handle.group.size:
            return Result.IN_PROGRESS, ""
        for stream, call in handle.pending:
            stream.give(call)
        handle.pending = []
        if handle.finalizing and handle.unfinished:
            return Result.IN_PROGRESS, ""
        return Result.SUCCESS, ""

    def abort(self, handle):
        self._note("abort")
        if self.script.abort_hangs:
            time.sleep(0.5)
        with self._library.changed:
            handle.aborted = True
            self._library.changed.notify_all()

    def finalize(self, handle):
        self._note("finalize")
        handle.finalizing = True
        self._begin(handle, "finalize")

    def destroy(self, handle):
        self._note("destroy")

    def shrink(self, handle, excluded):
        self._note("shrink", tuple(excluded))
        with self._library.changed:
            handle.aborted = True
            self._library.changed.notify_all()
        left = [rank for rank in range(handle.group.size) if rank not in excluded]
        group = self._library.group((id(handle.group), *excluded), len(left))
        child = Handle(group, left.index(handle.rank))
        with self._library.changed:
            group.joined.add(child.rank)
        self._begin(handle, "shrink")
        return child

    def group_start(self):
        self._note("group_start")
        self._depth += 1

    def group_end(self):
        assert self._depth == 1
        self._depth = 0
        grouped, self._grouped = self._grouped, []
        self.calls.append(("group_end",))
        if not grouped:
            return
        handle, stream = grouped[0][-2:]
        streams = {stream for *_, stream in grouped}
        assert len(streams) == 1
        self._begin(handle, "post")
        number, handle.number = handle.number, handle.number + 1
        with self._library.changed:
            handle.unfinished += 1
        gpu_stream = ctypes.cast(stream, ctypes.py_object).value

        def kernel():
            with contextlib.suppress(Aborted):
                self._kernel(handle, number, grouped)
            with self._library.changed:
                handle.unfinished -= 1

        handle.pending.append((gpu_stream, kernel))
        if not handle.asks and not handle.stuck:
            self.async_error(handle)
        if "group_end" in self.script.fails:
            raise NcclError(self.script.fails["group_end"], "group_end: so it was told")

    def all_reduce(self, source, target, count, kind, op, handle, stream):
        self._call("all_reduce", source, target, count, kind, op, None, handle, stream)

    def reduce_scatter(self, source, target, count, kind, op, handle, stream):
        self._call("reduce_scatter", source, target, count, kind, op, None, handle, stream)

    def all_gather(self, source, target, count, kind, handle, stream):
        self._call("all_gather", source, target, count, kind, None, None, handle, stream)

    def broadcast(self, source, target, count, kind, root, handle, stream):
        self._call("broadcast", source, target, count, kind, None, root, handle, stream)

    def reduce(self, source, target, count, kind, op, root, handle, stream):
        self._call("reduce", source, target, count, kind, op, root, handle, stream)

    def send(self, source, count, kind, peer, handle, stream):
        self._call("send", source, 0, count, kind, None, peer, handle, stream)

    def recv(self, target, count, kind, peer, handle, stream):
        self._call("recv", 0, target, count, kind, None, peer, handle, stream)

    def _call(self, verb, source, target, count, kind, op, peer, handle, stream):
        assert self._depth == 1, f"{verb} outside a group"
        assert count > 0
        shown = [count, DTYPES[kind].name]
        shown += [] if op is None else [VERBS[op]]
        shown += [] if peer is None else [peer]
        self._note(verb, *shown)
        self._grouped.append((verb, source, target, count, DTYPES[kind], op, peer, handle, stream))

    def _note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name in self.script.fails:
            raise NcclError(self.script.fails[name], f"{name}: so it was told")

    def _begin(self, handle, what):
        handle.asks = self.script.in_progress
        handle.stuck = what in self.script.never

    def _kernel(self, handle, number, grouped):
        for verb, source, _, count, dtype, _, peer, *_ in grouped:
            if verb == "send":
                self._send(handle, peer, memory(source, count, dtype).copy())
        for place, (verb, source, target, count, dtype, op, peer, *_) in enumerate(grouped):
            if verb == "send":
                continue
            if verb == "recv":
                data = self._receive(handle, peer)
                assert data.size == count
                memory(target, count, dtype)[...] = data
                continue
            size = count * handle.group.size if verb == "reduce_scatter" else count
            given = None if source == 0 else memory(source, size, dtype).copy()
            parts = self._exchange(handle, (number, place), (verb, count, given))
            assert {part[:2] for part in parts} == {(verb, count)}
            outcome = combined(verb, [part[2] for part in parts], op, peer, handle.rank)
            if outcome is not None and (verb != "reduce" or handle.rank == peer):
                memory(target, outcome.size, dtype)[...] = outcome

    def _exchange(self, handle, key, mine):
        tables = handle.group.tables
        with self._library.changed:
            tables.setdefault(key, {})[handle.rank] = mine
            self._library.changed.notify_all()
            self._until(handle, lambda: len(tables[key]) == handle.group.size)
            return [tables[key][rank] for rank in range(handle.group.size)]

    def _send(self, handle, peer, data):
        with self._library.changed:
            handle.group.mail.setdefault((handle.rank, peer), []).append(data)
            self._library.changed.notify_all()

    def _receive(self, handle, peer):
        box = handle.group.mail.setdefault((peer, handle.rank), [])
        with self._library.changed:
            self._until(handle, lambda: box)
            return box.pop(0)

    def _until(self, handle, condition):
        """Wait for `condition`, as a kernel does: until it holds or the communicator is aborted."""
        there = self._library.changed.wait_for(
            lambda: handle.aborted or (condition() and not self.script.hangs), PATIENCE
        )
        if handle.aborted or not there:
            raise Aborted


class Aborted(Exception):
    """A kernel was told to end."""


def memory(pointer, count, dtype):
    """Return the array of `count` elements that begins at `pointer`."""
    raw = (ctypes.c_uint8 * (count * dtype.itemsize)).from_address(pointer)
    return np.frombuffer(raw, np.uint8).view(dtype)


def combined(verb, parts, op, root, rank):
    """Return what NCCL leaves on `rank`."""
    if verb == "broadcast":
        return parts[root]
    if verb == "all_gather":
        return np.concatenate(parts)
    dtype = parts[0].dtype
    wide = np.float32 if dtype.itemsize == 2 and dtype.kind in "fV" else dtype
    combine = {"sum": np.add, "mean": np.add, "prod": np.multiply, "max": np.maximum}
    ufunc = combine.get(VERBS[op], np.minimum)
    total = ufunc.reduce(np.stack([part.astype(wide) for part in parts]), dtype=wide)
    if VERBS[op] == "mean":
        total = total / len(parts)
    total = total.astype(dtype)
    if verb == "reduce_scatter":
        size = total.size // len(parts)
        return total[rank * size : (rank + 1) * size]
    return total
