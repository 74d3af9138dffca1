"""The door: what cannot be let in does no harm; which address is dialled, and when."""

import contextlib
import os
import resource
import select
import socket
import ssl
import time

import pytest

from holdfast.collectives.links.door import OUT_OF_DESCRIPTORS_SECONDS, Door
from holdfast.collectives.links.handshake import CHALLENGE_SIZE, Hello
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.links.redial import Redial
from holdfast.collectives.links.resolver import Resolver

pytestmark = pytest.mark.local


class House:
    """Nobody is at home: takes note of what failed."""

    def __init__(self):
        self.failures = []

    def admit(self, hello):
        raise AssertionError(hello)

    def check(self, peer, received):
        raise AssertionError(peer)

    def settle(self, peer, rail, sock, received):
        raise AssertionError(peer)

    def fail(self, peer, rail, why):
        self.failures.append((peer, rail, why))


@contextlib.contextmanager
def a_door(config):
    """Yield a door, its epoll, its house and its listener."""
    listener, house = socket.create_server(("127.0.0.1", 0)), House()
    with select.epoll() as poll:
        door = Door([listener], b"token", poll, house, config=config)
        try:
            yield door, poll, house, listener
        finally:
            door.close()


def serve(door, poll, timeout=5.0):
    """Let the door deal with what happens next; return how much that was."""
    events = poll.poll(timeout)
    for fd, _ in events:
        assert door.handle(fd)
    return len(events)


class BrokenTls:
    """TLS over a connection whose peer is gone: OpenSSL closes it, and says so."""

    def context(self, *, listening):
        return self

    def wrap_socket(self, sock, **_):
        os.close(sock.detach())
        raise ssl.SSLError("Closed before TLS handshake with data in recv buffer.")


@pytest.mark.parametrize("dialling", [True, False])
def test_a_peer_that_is_gone_before_tls_begins_harms_nobody(dialling):
    config = LinkConfig(tls=BrokenTls())
    with a_door(config) as (door, poll, house, listener):
        if dialling:
            with socket.create_server(("127.0.0.1", 0)) as other:
                door.dial(other.getsockname(), Hello(1, 0, 0, 0, 0))
                assert serve(door, poll)
            assert [(peer, rail) for peer, rail, _ in house.failures] == [(0, 0)]
        else:
            with socket.create_connection(listener.getsockname()):
                assert serve(door, poll)
        assert not door._visitors
        assert not door._strangers
        assert poll.poll(0.0) == []


def test_without_a_descriptor_to_spare_nobody_waits_and_the_next_is_let_in_later():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    config = LinkConfig()
    with (
        a_door(config) as (door, poll, _, listener),
        socket.create_connection(listener.getsockname(), timeout=5.0) as guest,
    ):
        lowest = os.dup(guest.fileno())
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        try:
            assert serve(door, poll)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert not door._visitors
        assert poll.poll(0.0) == []  # the kernel does not tell of who waits without end
        door.expire(0.0)
        assert poll.poll(0.0) == []
        door.expire(time.monotonic() + OUT_OF_DESCRIPTORS_SECONDS)
        assert serve(door, poll)
        assert len(guest.recv(CHALLENGE_SIZE)) == CHALLENGE_SIZE


def test_a_dial_that_was_of_no_use_is_counted_and_pauses_grow():
    redial = Redial(LinkConfig(first_retry=1.0, last_retry=3.0))
    pauses = []
    for useful in (False, False, False, False, True, False):
        redial.postpone(10.0, useful=useful)
        pauses.append(redial.due - 10.0)
    assert pauses == [0.0, 1.0, 2.0, 3.0, 0.0, 1.0]
    assert redial.failures == 5


def answered(resolver, address, turn):
    end = time.monotonic() + 10.0
    while time.monotonic() < end:
        found = resolver.resolve(address, turn)
        if found is not None:
            return found
        time.sleep(0.001)
    raise AssertionError(f"{address} was not looked up")


def test_the_addresses_of_a_name_take_turns(monkeypatch):
    def several(host, port, **_):
        hosts = ("10.0.0.1", "10.0.0.1", "::1")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in hosts]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    resolver = Resolver()
    found = [answered(resolver, ("host.test", 5), turn) for turn in (0, 1, 1, 2)]
    assert found == [("10.0.0.1", 5), ("::1", 5), ("::1", 5), ("10.0.0.1", 5)]
    assert resolver.resolve(("10.0.0.9", 5), 7) == ("10.0.0.9", 5)
