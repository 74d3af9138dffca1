"""What the kernel tells of what was sent on a rail's socket."""

import contextlib
import socket
import subprocess
import sys
import time

import pytest

from holdfast.collectives.links.sockets import flight
from holdfast.fabric import build, star
from holdfast.fabric.kernel.commands import ip_in


class Kernel:
    """A socket that answers with a struct tcp_info of these words."""

    def __init__(self, **words):
        places = {"segment": 16, "unacked": 24, "round_trip": 68, "waiting": 144, "window": 228}
        self.info = bytearray(232)
        for name, value in words.items():
            self.info[places[name] : places[name] + 4] = value.to_bytes(4, sys.byteorder)

    def getsockopt(self, level, option, size):
        return bytes(self.info[:size])


@pytest.mark.parametrize(
    ("words", "in_flight"),
    [
        ({}, False),
        ({"unacked": 1}, True),
        ({"unacked": 1, "waiting": 9}, True),
        ({"waiting": 9000, "window": 0}, False),  # the peer does not read
        ({"waiting": 9000, "window": 700}, False),  # nor much: TCP waits for more room
        ({"waiting": 9000, "window": 60_000}, True),  # there is no way out
        ({"waiting": 300, "window": 700}, True),
    ],
)
def test_what_the_peer_would_take_is_in_flight(words, in_flight):
    assert flight(Kernel(segment=1448, **words)).in_flight == in_flight


@pytest.mark.local
def test_what_the_peer_does_not_read_is_not_in_flight():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as sender,
    ):
        receiver, _ = server.accept()
        with receiver:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while sender.send(bytes(1 << 16)):
                    pass
            until(lambda: not flight(sender).in_flight)
            acknowledged = flight(sender).acknowledged
            receiver.recv(1 << 16)
            until(lambda: flight(sender).acknowledged > acknowledged or receiver.recv(1 << 16))


def until(done, seconds=10.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


LISTEN = """
import socket, sys
with socket.create_server(("", 7000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
    sys.stdin.read()
"""
SEND = """
import socket, sys, time
from holdfast.collectives.links.sockets import flight
with socket.create_connection((sys.argv[1], 7000)) as connection:
    connection.sendall(b"x")
    while flight(connection).in_flight:
        time.sleep(0.01)
    print("ready", flush=True)
    sys.stdin.readline()
    connection.sendall(b"x")
    time.sleep(0.1)
    print(flight(connection).in_flight, flush=True)
"""


@pytest.mark.netns
def test_what_has_no_way_out_is_in_flight():
    """Nothing was under way when the route went: the kernel keeps it, and says nothing."""
    with build("kernel", star(2)) as net:
        engine = net.engine
        here, there = (engine.hosts[name] for name in ("h0", "h1"))
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with here.popen([sys.executable, "-c", LISTEN], **pipes) as listens:
            assert listens.stdout.readline() == b"ready\n"
            command = [sys.executable, "-c", SEND, str(here.address())]
            with there.popen(command, **pipes) as sends:
                assert sends.stdout.readline() == b"ready\n"
                ip_in(
                    {engine.plan.namespace("h1"): [f"route replace blackhole {here.address()}/32"]}
                )
                told, _ = sends.communicate(b"go\n", timeout=20.0)
            listens.communicate(timeout=20.0)
    assert told == b"True\n"
