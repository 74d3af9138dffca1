"""The queue of collectives: order, takeover by whoever waits, errors, closing."""

import contextlib
import math
import threading
import time

import pytest

from holdfast.collectives.work import Staged, WorkQueue
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost


@pytest.fixture
def queue():
    made = WorkQueue("test")
    yield made
    made.close()


def test_calls_are_carried_out_in_order_whoever_makes_them(queue):
    gate, done = threading.Event(), []
    works = [queue.submit(gate.wait)]
    works += [queue.submit(lambda i=i: done.append(i)) for i in range(20)]
    gate.set()
    assert queue.run(lambda: done.append("inline")) is None
    assert done == [*range(20), "inline"]
    for work in works:
        work.wait()


def test_a_waiter_takes_over_what_the_thread_has_not_begun(queue):
    gate, begun, threads = threading.Event(), threading.Event(), []
    first = queue.submit(lambda: begun.set() or gate.wait())
    begun.wait()
    second = queue.submit(lambda: threads.append(threading.current_thread()))
    with pytest.raises(DeadlineExceeded):
        second.wait(0.01)
    gate.set()
    second.wait()
    first.wait()
    assert len(threads) == 1
    assert second.done()


def test_work_gives_the_result_of_its_call(queue):
    works = [queue.submit(lambda i=i: [i]) for i in range(3)]
    assert [work.wait(20.0) for work in works] == [[0], [1], [2]]
    assert works[0].wait() is works[0].wait()
    assert queue.run(lambda: "now") == "now"


def test_a_call_that_closing_drops_is_told_and_leaves_the_ranks_out_of_step(queue):
    gate, begun = threading.Event(), threading.Event()
    first = queue.submit(lambda: begun.set() or gate.wait())
    begun.wait()
    second = queue.submit(lambda: None)
    closing = threading.Thread(target=queue.close)
    closing.start()
    with contextlib.suppress(CommunicationError):
        while True:  # until the other thread has begun to close
            queue.submit(lambda: None)
    gate.set()
    closing.join()
    first.wait()
    with pytest.raises(CommunicationError, match="test is closed"):
        second.wait()
    assert queue.broken


def test_closing_when_all_is_done_breaks_nothing(queue):
    queue.submit(lambda: None).wait()
    queue.close()
    assert not queue.broken


class Stages(Staged[None]):
    """A call that writes down what it does; `gate` is awaited asleep before it ends."""

    def __init__(self, queue, done, name, gate=None, whole=True, fails=False):
        self.queue, self.done, self.name, self.gate = queue, done, name, gate
        self.whole, self.fails, self.begun = whole, fails, False
        self.running = threading.Event()

    def begin(self):
        if not self.begun:
            self.begun = True
            if self.fails:
                raise PeerLost("rank 2 is gone")
            self.done.append(f"{self.name} begins")
            self.issued = self.whole

    def __call__(self):
        self.begin()
        self.running.set()
        if self.gate is not None:
            with self.queue.asleep:
                assert self.gate.wait(20)
        self.issued = True
        self.done.append(f"{self.name} ends")


def test_calls_are_begun_while_the_one_before_waits(queue):
    done, gate = [], threading.Event()
    works = [queue.submit(Stages(queue, done, "first", gate))]
    works += [queue.submit(Stages(queue, done, name)) for name in ("second", "third")]
    while len(done) < 3:  # by the thread, or by this one
        time.sleep(0.001)
    assert done == ["first begins", "second begins", "third begins"]
    gate.set()
    for work in works:
        work.wait(20)
    assert done[3:] == ["first ends", "second ends", "third ends"]


def test_a_call_that_has_more_to_send_is_not_overtaken(queue):
    done, gates = [], [threading.Event(), threading.Event()]
    works = [queue.submit(Stages(queue, done, "first", gates[0]))]
    works += [queue.submit(Stages(queue, done, "second", gates[1], whole=False))]
    works += [queue.submit(Stages(queue, done, "third"))]
    while len(done) < 2:
        time.sleep(0.001)
    for gate in gates:
        assert done[-1] != "third begins"
        gate.set()
    works[2].wait(20)
    assert done.index("second ends") < done.index("third begins")


def test_a_call_made_inline_is_begun_while_the_one_before_waits(queue):
    done, gate = [], threading.Event()
    work = queue.submit(Stages(queue, done, "first", gate))
    while not done:
        time.sleep(0.001)
    inline = threading.Thread(target=queue.run, args=(Stages(queue, done, "inline"),))
    inline.start()
    while len(done) < 2:
        time.sleep(0.001)
    assert done == ["first begins", "inline begins"]
    gate.set()
    inline.join(20)
    work.wait(20)
    assert done[2:] == ["first ends", "inline ends"]


def test_a_call_that_is_not_staged_lets_nothing_begin_before_it(queue):
    done, gate = [], threading.Event()
    works = [queue.submit(Stages(queue, done, "first", gate))]
    works += [queue.submit(lambda: done.append("plain"))]
    works += [queue.submit(Stages(queue, done, "last"))]
    while not done:
        time.sleep(0.001)
    gate.set()
    for work in works:
        work.wait(20)
    assert done == ["first begins", "first ends", "plain", "last begins", "last ends"]


def test_what_fails_when_it_is_begun_is_told_to_all_who_wait(queue):
    done, gate = [], threading.Event()
    call = Stages(queue, done, "first", gate)
    first = queue.submit(call)
    assert call.running.wait(20)
    failing = queue.submit(Stages(queue, done, "failing", fails=True))
    gate.set()
    first.wait(20)  # it was on its way
    with pytest.raises(PeerLost, match="rank 2 is gone"):
        failing.wait(20)
    with pytest.raises(PeerLost, match="rank 2 is gone"):
        queue.run(lambda: None)


def test_an_interrupt_within_a_beginning_puts_the_ranks_out_of_step(queue):
    class Interrupted(Staged[None]):
        def begin(self):
            raise KeyboardInterrupt

        def __call__(self):
            pass

    with queue._engine, pytest.raises(KeyboardInterrupt):  # the thread stays out of it
        queue.submit(Interrupted())
    with pytest.raises(CommunicationError):
        queue.run(lambda: None)


def test_an_error_belongs_to_its_work_and_a_broken_group_refuses_what_follows(queue):
    def lose():
        raise PeerLost("rank 3 has ended")

    lost = queue.submit(lose)
    with pytest.raises(PeerLost, match="rank 3"):
        lost.wait()
    assert queue.broken
    # The same kind again: whoever meets it later is still told that a peer was lost.
    with pytest.raises(PeerLost, match="broke before this call: rank 3 has ended"):
        queue.run(lambda: None)
    with pytest.raises(PeerLost, match="broke before"):
        queue.submit(lambda: None)


def test_any_error_within_a_call_puts_the_ranks_out_of_step(queue):
    with pytest.raises(ZeroDivisionError):
        queue.run(lambda: 1 / 0)
    with pytest.raises(CommunicationError, match="broke before this call: division by zero"):
        queue.run(lambda: None)


def test_closing_breaks_off_what_is_being_carried_out():
    begun, aborted = threading.Event(), threading.Event()
    queue = WorkQueue("busy", abort=aborted.set)

    def busy():
        begun.set()
        assert aborted.wait(20)
        raise CommunicationError("closed while rank 1 was awaited")

    work = queue.submit(busy)
    begun.wait()
    queue.close()
    with pytest.raises(CommunicationError, match="was awaited"):
        work.wait()


def test_closing_waits_for_another_thread_to_come_out_of_its_call():
    begun, aborted, out = threading.Event(), threading.Event(), []
    queue = WorkQueue("busy", abort=aborted.set)

    def busy():
        begun.set()
        assert aborted.wait(20)
        time.sleep(0.05)  # what it uses must not be gone meanwhile
        out.append("out")

    other = threading.Thread(target=queue.run, args=(busy,))
    other.start()
    begun.wait()
    queue.close()
    assert out == ["out"]
    other.join()


def test_an_interrupt_is_told_to_whoever_waits_later(queue):
    def interrupt():
        raise KeyboardInterrupt

    with queue._engine:  # the thread stays out of it
        work = queue.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            queue._run_next()
    with pytest.raises(KeyboardInterrupt):
        work.wait()


def test_one_may_wait_for_ever(queue):
    assert queue.submit(lambda: 3).wait(math.inf) == 3


def test_closing_tells_those_who_wait_and_ends_the_thread(queue):
    gate, begun = threading.Event(), threading.Event()
    first = queue.submit(lambda: begun.set() or gate.wait())
    left = queue.submit(lambda: None)
    begun.wait()
    closer = threading.Thread(target=queue.close)
    closer.start()
    while not queue._closed:
        pass
    gate.set()
    closer.join()
    first.wait()
    with pytest.raises(CommunicationError, match="closed"):
        left.wait()
    with pytest.raises(CommunicationError, match="closed"):
        queue.run(lambda: None)
    queue.close()
    assert not queue._thread.is_alive()


def test_an_idle_queue_looks_after_its_links_and_keeps_their_error():
    looked = threading.Event()
    queue = WorkQueue("idle", idle=looked.set)
    assert looked.wait(10)
    queue.close()
    failed = threading.Event()

    def fail():
        failed.set()
        raise CommunicationError("a frame of epoch 6")

    queue = WorkQueue("failing", idle=fail)
    assert failed.wait(10)
    while queue._broken is None:
        pass
    with pytest.raises(CommunicationError, match="epoch 6"):
        queue.run(lambda: None)
    queue.close()
