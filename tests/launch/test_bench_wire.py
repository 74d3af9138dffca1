"""Plain sockets between two ends: bytes, streams, strangers, and a peer that does not come."""

import contextlib
import socket
import threading

import pytest

from holdfast.errors import CommunicationError, DeadlineExceeded
from holdfast.launch.bandwidth.wire import PIECE, Meeting, dial

pytestmark = pytest.mark.local

HERE = "127.0.0.1"


@contextlib.contextmanager
def both_ends(streams=1, timeout=10.0):
    with (
        contextlib.closing(Meeting([HERE] * streams, timeout)) as meeting,
        dial(meeting.offer, [HERE] * streams, timeout) as there,
        meeting.accept() as here,
    ):
        yield here, there


def at_once(*calls):
    """Call all, each in a thread of its own; return what they return."""
    results = [None] * len(calls)

    def run(number):
        results[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("size", [1, PIECE, 5 * PIECE + 7])
def test_all_bytes_go_each_way_at_once(streams, size):
    with both_ends(streams) as (here, there):
        for _ in range(2):
            sent = at_once(lambda: here.exchange(size, size), lambda: there.exchange(size, size))
            assert [sum(each) for each in sent] == [size, size]
            assert [len(each) for each in sent] == [streams, streams]


@pytest.mark.parametrize("streams", [1, 2])
def test_one_way_both_ends_count(streams):
    with both_ends(streams) as (here, there):
        sent = at_once(lambda: here.exchange(9 * PIECE, 0), lambda: there.exchange(0, 9 * PIECE))
        assert sent[0] == sent[1]
        assert sum(sent[0]) == 9 * PIECE


def test_a_stranger_is_hung_up_on():
    with contextlib.closing(Meeting([HERE], 10.0)) as meeting:
        (place,) = meeting.offer["places"]
        with socket.create_connection(place) as stranger:
            stranger.sendall(b"x" * 32)
            with dial(meeting.offer, [HERE], 10.0) as there, meeting.accept() as here:
                assert stranger.recv(1) == b""
                assert at_once(lambda: here.exchange(4, 4), lambda: there.exchange(4, 4))


def test_a_peer_that_does_not_come_is_an_error():
    with contextlib.closing(Meeting([HERE], 0.05)) as meeting:
        offer = meeting.offer
        with pytest.raises(DeadlineExceeded):
            meeting.accept()
    with pytest.raises(CommunicationError, match="is not reached"):
        dial(offer, [None], 1.0)


def test_a_peer_that_is_gone_or_silent_is_an_error():
    with both_ends(timeout=0.05) as (here, there):
        with pytest.raises(DeadlineExceeded):
            here.exchange(0, 4)
        there.close()
        with pytest.raises(CommunicationError, match="closed"):
            here.exchange(0, 4)
