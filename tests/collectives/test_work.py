"""The queue of collectives: order, takeover by whoever waits, errors, closing."""

import threading

import pytest

from holdfast.collectives.work import WorkQueue
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
