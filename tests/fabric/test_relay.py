"""The relay passes bytes on, and cuts where it is told."""

import contextlib
import os
import socket
import threading

import pytest

from holdfast.fabric.relay import Cut, Relay

pytestmark = pytest.mark.local


@pytest.fixture
def echo():
    """A server that sends back what it gets; yields its address."""
    server = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve(sock):
        with sock, contextlib.suppress(OSError):
            while data := sock.recv(1 << 16):
                sock.sendall(data)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                sock, _ = server.accept()
                threads.append(threading.Thread(target=serve, args=(sock,), daemon=True))
                threads[-1].start()

    threads.append(threading.Thread(target=accept, daemon=True))
    threads[0].start()
    yield server.getsockname()[:2]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for thread in threads:
        thread.join(10)


def exactly(sock, count):
    data = b""
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return data


def test_bytes_pass_both_ways_and_the_end_of_a_stream_too(echo):
    sent = os.urandom(3_000_000)
    with Relay(echo) as relay, socket.create_connection(relay.address, timeout=20) as sock:
        writer = threading.Thread(
            target=lambda: (sock.sendall(sent), sock.shutdown(socket.SHUT_WR))
        )
        writer.start()
        assert exactly(sock, len(sent)) == sent
        assert sock.recv(1) == b""
        writer.join()
        assert relay.passed == {"up": len(sent), "down": len(sent)}


def test_a_reset_falls_on_the_byte_and_the_next_connection_is_whole(echo):
    with Relay(echo, (Cut(0, "down", 1000, "reset"),)) as relay:
        with socket.create_connection(relay.address, timeout=20) as sock:
            sock.sendall(bytes(5000))
            with pytest.raises(ConnectionResetError):
                exactly(sock, 5000)
            assert relay.passed["down"] == 1000
        with socket.create_connection(relay.address, timeout=20) as sock:
            sock.sendall(b"whole")
            assert exactly(sock, 5) == b"whole"
        assert relay.cuts_made == 1


def test_a_stalled_connection_says_nothing(echo):
    with (
        Relay(echo, (Cut(0, "up", 10, "stall"),)) as relay,
        socket.create_connection(relay.address, timeout=20) as sock,
    ):
        sock.sendall(bytes(20))
        while not relay.cuts_made:
            pass
        assert relay.passed["up"] == 10
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert len(sock.recv(100)) <= 10


def test_closing_is_complete_and_may_be_repeated():
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts in the kernel alone
        before = len(os.listdir("/proc/self/fd"))
        relay = Relay(server.getsockname()[:2])
        with socket.create_connection(relay.address, timeout=20) as sock:
            sock.sendall(b"x")
            while not relay.passed["up"]:
                pass
            relay.close()
            relay.close()
            assert sock.recv(1) == b""
        assert len(os.listdir("/proc/self/fd")) == before
