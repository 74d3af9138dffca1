"""What carries out the instructions of `nccl/state.py`: one communicator's stream, lock and watch.

One thread at a time uses NCCL's handle. A thread of the engine's watches what is in flight; when
nothing has ended for the timeout, or NCCL reports an error, the state machine has it aborted, so
that no stream waits for ever, and all who wait get the error.
"""

import functools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from holdfast.collectives.communicator import Array, Op
from holdfast.collectives.nccl.binding import Binding, NcclError
from holdfast.collectives.nccl.gpu import Event, Gpu
from holdfast.collectives.nccl.plan import OPERATIONS, Call, ElementType
from holdfast.collectives.nccl.state import (
    Abort,
    Answer,
    Ask,
    Destroy,
    Ended,
    Fail,
    Finalize,
    Instruction,
    Interrupted,
    Leave,
    LookAgain,
    Mark,
    NcclState,
    Phase,
    Post,
    Separate,
    Shrink,
)
from holdfast.collectives.nccl.state import Event as StateEvent
from holdfast.errors import CommunicationError, DeadlineExceeded

log = logging.getLogger("holdfast.nccl")

WATCH_SECONDS = 0.05
"""How often what is in flight is looked after."""
ABORT_SECONDS = 10.0
"""How long an abort may take; one that hangs, as some versions of NCCL can, is left to itself."""
DRAIN_SECONDS = 1.0
"""How long an abort waits for kernels to end that it broke off."""
LONGEST_POLL = 1e-3

T = TypeVar("T")


class NcclWork(Generic[T]):
    """A collective that was handed to NCCL: what `Communicator` calls a `Work`."""

    def __init__(self, engine: "NcclEngine", name: str, result: T, event: Event) -> None:
        self._engine = engine
        self._name = name
        self._outcome = result
        self._event = event
        self._failure: Fail | None = None

    def done(self) -> bool:
        """Return whether it has ended on the GPU, or failed."""
        return self._failure is not None or self._event.done

    def wait(self, timeout: float | None = None) -> T:
        """Let the current stream wait for the collective, and return its result.

        With `timeout`, in seconds, wait on the host too: return when the collective has ended on
        the GPU. Then, and only then, a failure is sure to be raised here. Raises DeadlineExceeded
        when the time is over (math.inf: when the group's own deadline is); the collective goes on,
        and `wait` may be called again.
        """
        if timeout is not None:
            self._engine.poll(self, timeout)
        if self._failure is not None:
            raise self._failure.error()
        self._engine.gpu.current_stream().wait_event(self._event)
        return self._outcome


class Job(Generic[T]):
    """A collective on its way to the library: its plan, and the arrays it reads and writes."""

    def __init__(
        self,
        name: str,
        calls: Sequence[Call],
        kind: ElementType,
        source: Array | None,
        target: Array | None,
        result: T,
        op: Op = "sum",
    ) -> None:
        self.name = name
        self.calls = calls
        self.kind = kind
        self.source = source
        self.target = target
        self.result = result
        self.op = op
        self.packed: tuple[Array | None, Array | None] = (source, target)  # contiguous: NCCL's
        self.work: NcclWork[T] | None = None  # once it is on the stream

    def passed(self) -> bool:
        """Return whether the GPU is done with the arrays, whatever came of the collective."""
        return self.work is not None and self.work._event.done


class NcclEngine:
    """One communicator of NCCL's: posts jobs, watches them, aborts, shrinks and closes."""

    def __init__(
        self, binding: Binding, gpu: Gpu, begin: Callable[[], Any], *, name: str, timeout: float
    ) -> None:
        """Begin a communicator by `begin`, which returns its handle, and wait until it is there.

        `name` opens every error. Raises DeadlineExceeded, PeerLost or CommunicationError where the
        ranks do not come together within `timeout` seconds.
        """
        self.gpu = gpu
        self._binding = binding
        self._timeout = timeout
        self._name = name
        self._state = NcclState(name, timeout=timeout, now=time.monotonic())
        self._lock = threading.RLock()  # one thread at a time uses the handle
        self._busy = threading.Condition(self._lock)
        self._leaving = threading.Event()
        self._flight: deque[Job[Any]] = deque()  # what may not have ended; keeps the arrays
        self._job: Job[Any] | None = None
        self._child: Any = None
        self._closed = False
        self._handle: Any = None
        self._stream = gpu.new_stream()
        with self._lock, gpu.selected():
            self._drive(self._answer(functools.partial(self._begin, begin)))
        self._watcher = threading.Thread(target=self._watch, name=name, daemon=True)
        self._watcher.start()

    def post(self, job: Job[T]) -> NcclWork[T]:
        """Hand `job` to the library, behind all that the current stream has; return its work."""
        with self._lock, self.gpu.selected():
            self._sweep()
            try:
                self._job = job
                self._drive(Ask(job.name))
            except BaseException as error:  # the ranks are out of step, whatever it was
                self._look(Interrupted(f"{type(error).__name__}: {error}"))
                raise
            finally:
                self._job = None
            assert job.work is not None
            self._busy.notify_all()
            return job.work

    def poll(self, work: NcclWork[Any], timeout: float) -> None:
        """Return when `work` has ended on the GPU or failed; DeadlineExceeded after `timeout`."""
        begin, pause = time.monotonic(), 10e-6
        while not work.done():
            if time.monotonic() - begin > timeout:
                raise DeadlineExceeded(
                    f"{self._name}: {work._name} has not ended after {timeout:.3g} s"
                )
            time.sleep(pause)
            pause = min(1.5 * pause, LONGEST_POLL)

    def separate(self, excluded: Sequence[int]) -> Any:
        """Fail what is in flight, begin a communicator without `excluded`; return its handle.

        Keep this engine open until the other is.
        """
        with self._lock, self.gpu.selected():
            self._drive(Separate(), excluded)
            return self._child

    def close(self) -> None:
        """Let what is in flight end for some seconds, then release everything."""
        self._leaving.set()  # a call that is being handed over gives up, and with it the lock
        with self._lock, self.gpu.selected():
            if not self._closed:
                self._closed = True
                self._look(Leave())  # nobody waits here for what it broke off
            self._busy.notify_all()
        self._watcher.join()

    def _begin(self, begin: Callable[[], Any]) -> None:
        if self._binding.abilities.blocking:
            begin = functools.partial(self._bounded, "the ranks' communicator", begin)
        self._handle = begin()

    def _drive(self, event: StateEvent, excluded: Sequence[int] = ()) -> None:
        """Tell the state machine of `event`, and do what it says until it says no more.

        The lock is held. Raises what the state machine wants raised.
        """
        todo = deque(self._state.handle(event, time.monotonic()))
        while todo:
            answer = self._carry_out(todo.popleft(), excluded)
            if answer is not None:
                todo.extend(self._state.handle(answer, time.monotonic()))

    def _carry_out(self, instruction: Instruction, excluded: Sequence[int]) -> StateEvent | None:
        """Do one thing; return what came of it if the state machine is to know."""
        match instruction:
            case Post():
                return self._answer(self._issue)
            case Mark():
                self._mark()
            case LookAgain(after):
                time.sleep(after)
                if self._leaving.is_set() and self._state.phase is not Phase.CLOSING:
                    self._closed = True
                    return Leave()
                return self._answer()
            case Shrink():
                self._sweep()
                self._disown(Fail(CommunicationError, f"{self._name} gave way to a smaller one"))
                return self._answer(functools.partial(self._shrink, excluded))
            case Finalize():
                return self._answer(lambda: self._binding.finalize(self._handle))
            case Destroy():
                self._release("destroy", self._binding.destroy)
            case Abort():
                self._abort()
            case Fail() as failure:
                raise failure.error()
        return None

    def _answer(self, call: Callable[[], None] | None = None) -> Answer:
        """Return the library's answer, to `call` if there is one."""
        try:
            if call is not None:
                call()
            return Answer(*self._binding.async_error(self._handle))
        except NcclError as error:
            return Answer(error.result, error.detail)

    def _issue(self) -> None:
        """Hand the job to the library, behind all that the caller's stream has been given."""
        job = self._job
        assert job is not None
        gpu, kind, stream = self.gpu, job.kind, self._stream
        event = gpu.new_event()
        gpu.current_stream().record(event)
        stream.wait_event(event)
        with stream:  # what is copied here is in memory of this stream's, behind the event
            job.packed = self._pack(job)
        if not job.calls:
            return
        source, target = (0 if x is None else gpu.pointer(x) for x in job.packed)
        self._binding.group_start()
        try:
            for call in job.calls:
                self._call(call, kind, job.op, source, target)
        except BaseException:
            self._close_group()
            raise
        self._binding.group_end()

    def _pack(self, job: Job[Any]) -> tuple[Array | None, Array | None]:
        """Return the job's source and target, or contiguous stand-ins for them."""
        source = None if job.source is None else self.gpu.contiguous(job.source)
        if job.target is None or job.target.flags.c_contiguous:
            return source, job.target
        if job.target is job.source:
            return source, source
        return source, self.gpu.empty(job.target.shape, job.target.dtype)

    def _close_group(self) -> None:
        """End a group in which a call failed, so that this thread's next calls are not in it."""
        try:
            self._binding.group_end()
        except NcclError as error:
            log.debug("%s: %s", self._name, error)  # the first error is the one to raise

    def _call(self, call: Call, kind: ElementType, op: str, source: int, target: int) -> None:
        binding, code, handle, stream = self._binding, kind.code, self._handle, self._stream.ptr
        count, peer, native = call.length, call.peer, OPERATIONS[op]
        source = 0 if call.source is None else source + call.source * kind.size
        target = 0 if call.target is None else target + call.target * kind.size
        match call.verb:
            case "all_reduce":
                binding.all_reduce(source, target, count, code, native, handle, stream)
            case "reduce_scatter":
                binding.reduce_scatter(source, target, count, code, native, handle, stream)
            case "all_gather":
                binding.all_gather(source, target, count, code, handle, stream)
            case "broadcast":
                binding.broadcast(source, target, count, code, peer, handle, stream)
            case "reduce":
                binding.reduce(source, target, count, code, native, peer, handle, stream)
            case "send":
                binding.send(source, count, code, peer, handle, stream)
            case "recv":
                binding.recv(target, count, code, peer, handle, stream)

    def _mark(self) -> None:
        """Put an event behind the job, which NCCL has on the stream by now."""
        job = self._job
        assert job is not None
        packed = job.packed[1]
        if job.target is not None and packed is not None and packed is not job.target:
            with self._stream:
                self.gpu.copy(job.target, packed)
        event = self.gpu.new_event()
        self._stream.record(event)
        job.work = NcclWork(self, job.name, job.result, event)
        self._flight.append(job)

    def _shrink(self, excluded: Sequence[int]) -> None:
        self._child = self._bounded("shrink", lambda: self._binding.shrink(self._handle, excluded))

    def _sweep(self) -> None:
        """Let go of what has ended on the GPU."""
        count = 0
        while self._flight and self._flight[0].passed():
            self._flight.popleft()
            count += 1
        if count and self._state.phase is Phase.READY:
            self._drive(Ended(count))

    def _disown(self, failure: Fail) -> None:
        """Fail what is in flight, before an abort makes it look as if it had ended."""
        for job in self._flight:
            if job.work is not None and job.work._failure is None:
                job.work._failure = failure

    def _look(self, event: StateEvent | None = None) -> None:
        """Tell the state machine how things are; what it wants raised is kept for the next call."""
        try:
            self._drive(event or self._answer())
        except CommunicationError as error:
            log.error("%s", error)

    def _watch(self) -> None:
        """Look after what is in flight until the communicator is closed."""
        while True:
            with self._lock:
                while not self._flight and not self._closed:
                    self._busy.wait()
                if self._closed:
                    return
            self._leaving.wait(WATCH_SECONDS)
            with self._lock, self.gpu.selected():
                if self._state.phase is Phase.READY:
                    self._sweep()
                    self._look()
                elif not self._closed:
                    self._busy.wait()

    def _abort(self) -> None:
        self._sweep()
        self._disown(self._state.failure or Fail(CommunicationError, f"{self._name} was closed"))
        if self._release("abort", self._binding.abort):
            deadline = time.monotonic() + DRAIN_SECONDS
            while self._flight and time.monotonic() < deadline:
                time.sleep(LONGEST_POLL)
                self._sweep()
        # What is left in flight stays there: its arrays may not go while kernels may use them.

    def _release(self, name: str, call: Callable[[Any], None]) -> bool:
        """Let go of the handle by `call`, in bounded time; return whether that was done."""
        handle, self._handle = self._handle, None
        if handle is None:
            return True
        try:
            self._bounded(name, lambda: call(handle), ABORT_SECONDS)
        except (NcclError, CommunicationError) as error:
            log.error("%s: %s did not work: %s; end this process soon", self._name, name, error)
            return False
        return True

    def _bounded(self, what: str, call: Callable[[], T], seconds: float | None = None) -> T:
        """Return what `call` returns; DeadlineExceeded after `seconds` (None: the group's timeout).

        It has a thread of its own, which is left behind in that case: NCCL's calls that release
        something can hang in the driver, and pynccl's block.
        """
        seconds = self._timeout if seconds is None else seconds
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                with self.gpu.selected():
                    results.append(call())
            except BaseException as error:  # noqa: BLE001 - raised by the one who waits
                errors.append(error)

        thread = threading.Thread(target=run, name=f"{self._name}: {what}", daemon=True)
        thread.start()
        thread.join(seconds)
        if errors:
            raise errors[0]
        if not results:
            raise DeadlineExceeded(f"{self._name}: {what} has not ended after {seconds:.3g} s")
        return results[0]
