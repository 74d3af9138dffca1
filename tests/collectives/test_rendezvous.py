"""How ranks meet: tokens, strangers, ports, ranks that never come."""

import contextlib
import json
import secrets
import socket
import threading

import pytest

from holdfast.collectives import GroupConfig, connect, group
from holdfast.collectives.links import handshake
from holdfast.collectives.rendezvous import Rendezvous, listen
from holdfast.errors import (
    AuthenticationError,
    CommunicationError,
    PeerLost,
    ProtocolError,
    RendezvousError,
    UsageError,
)

pytestmark = pytest.mark.local
TOKEN = secrets.token_bytes(32)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def test_everybody_learns_of_everybody(ranks):
    port = free_port()

    def body(rank):
        with Rendezvous(rank, 5, "127.0.0.1", port, TOKEN, timeout=10) as table:
            first = table.exchange({"rank": rank})
            second = table.exchange({"twice": 2 * rank})
        return first, second

    expected = ([{"rank": r} for r in range(5)], [{"twice": 2 * r} for r in range(5)])
    assert ranks.threads(5, body) == [expected] * 5


def test_a_wrong_token_is_refused_and_the_others_go_on(ranks):
    port = free_port()

    def body(index):
        if index == 2:
            with pytest.raises(AuthenticationError, match=r"does not hold|HOLDFAST_TOKEN"):
                Rendezvous(1, 2, "127.0.0.1", port, secrets.token_bytes(32), timeout=10)
            refused.append(True)
            return None
        if index == 1:
            while not refused:
                socket.create_connection(("127.0.0.1", port)).close()
        with Rendezvous(index, 2, "127.0.0.1", port, TOKEN, timeout=10) as table:
            return table.exchange({})

    refused = []
    assert ranks.threads(3, body)[:2] == [[{}, {}]] * 2


def test_a_rank_that_never_comes_is_named():
    with pytest.raises(RendezvousError, match=r"rank\(s\) 1, 2 of 3 did not come"):
        Rendezvous(0, 3, "127.0.0.1", free_port(), TOKEN, timeout=0.2)


def test_a_master_that_is_not_there_is_named():
    with pytest.raises(RendezvousError, match=r"rank 1 did not reach rank 0 at 127\.0\.0\.1 port"):
        Rendezvous(1, 2, "127.0.0.1", free_port(), TOKEN, timeout=0.2)


def test_a_port_in_use_is_named():
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(RendezvousError, match=r"port \d+ of 127.0.0.1 is in use"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])


def test_something_else_at_the_master_s_address(ranks):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def body(index):
            if index == 0:
                sock, _ = server.accept()
                with sock, contextlib.suppress(ConnectionResetError):
                    sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 3)
                    sock.recv(100)
                return
            with pytest.raises(ProtocolError, match="not a Holdfast rank"):
                Rendezvous(1, 2, *server.getsockname()[:2], TOKEN, timeout=5)

        ranks.threads(2, body)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 2, "world_size": 2, "token": TOKEN}, "rank 2 of 2"),
        ({"rank": 0, "world_size": 2, "token": b"short"}, "at least 16 bytes"),
    ],
)
def test_a_config_that_cannot_be(config, message):
    with pytest.raises(UsageError, match=message):
        GroupConfig(**config)


def test_an_unknown_transport():
    with pytest.raises(UsageError, match="shm, tcp, two-level was expected, found 'pigeon'"):
        connect(GroupConfig(0, 1, transport="pigeon"))


def test_tokens_are_not_shown():
    assert TOKEN.hex() not in repr(GroupConfig(0, 2, token=TOKEN))
    assert str(TOKEN) not in repr(GroupConfig(0, 2, token=TOKEN))


def test_a_handshake_binds_every_field_both_nonces_and_the_purpose():
    def shake(purpose=b"link", alter=None, token=TOKEN):
        acceptor = handshake.Acceptor(TOKEN, b"link")
        dialer = handshake.Dialer(token, purpose, handshake.Hello(3, 1, 5, 2, 42))
        hello = bytearray(dialer.answer(acceptor.challenge()))
        if alter is not None:
            hello[alter] ^= 1
        found = acceptor.check(bytes(hello))
        return found, dialer.admitted(acceptor.welcome(17))

    assert shake() == (handshake.Hello(3, 1, 5, 2, 42), 17)
    for place in range(handshake.HELLO_SIZE):
        with pytest.raises(AuthenticationError):
            shake(alter=place)
    with pytest.raises(AuthenticationError):
        shake(purpose=b"rendezvous")
    with pytest.raises(AuthenticationError):
        shake(token=secrets.token_bytes(32))


def test_a_recorded_handshake_is_of_no_use():
    first = handshake.Acceptor(TOKEN, b"link")
    dialer = handshake.Dialer(TOKEN, b"link", handshake.Hello(1, 0, 0, 0, 0))
    hello = dialer.answer(first.challenge())
    first.check(hello)
    welcome = first.welcome(0)
    with pytest.raises(AuthenticationError):
        handshake.Acceptor(TOKEN, b"link").check(hello)
    again = handshake.Dialer(TOKEN, b"link", handshake.Hello(1, 0, 0, 0, 0))
    again.answer(first.challenge())
    with pytest.raises(AuthenticationError):
        again.admitted(welcome)


def test_a_table_that_is_too_large_is_not_read(ranks):
    port = free_port()

    def body(rank):
        with Rendezvous(rank, 2, "127.0.0.1", port, TOKEN, timeout=5) as table:
            if rank == 1:
                table._peers[0].sendall((1 << 30).to_bytes(4, "little") + json.dumps({}).encode())
                return
            with pytest.raises(ProtocolError, match="was announced"):
                table.exchange({})

    ranks.threads(2, body)


def meeting_of(size, ranks, leaving, timeout=10.0):
    """Return what the ranks are told where `leaving` comes, and does not give its table."""
    port, told = free_port(), threading.Event()

    def body(rank):
        with Rendezvous(rank, size, "127.0.0.1", port, TOKEN, timeout=timeout) as table:
            table.exchange({})
            if rank == leaving:
                if timeout < 10.0:
                    told.wait(20)
                return None
            with pytest.raises(CommunicationError) as caught:
                table.exchange({})
            if rank == 0 or leaving == 0:
                told.set()
            return caught.value

    return ranks.threads(size, body)


def test_a_rank_that_leaves_the_table_is_named(ranks):
    first, second, _ = meeting_of(3, ranks, leaving=2)
    assert isinstance(first, PeerLost)
    assert str(first).startswith("rank 2 left while rank 0 was waiting for its table (the peer")
    assert isinstance(second, PeerLost)
    assert str(second).startswith("rank 0 left while rank 1 was waiting for the tables")
    assert str(second).endswith("its own output says why")


def test_a_rank_that_falls_silent_at_the_table_is_named(ranks):
    (error, _) = meeting_of(2, ranks, leaving=1, timeout=3.0)
    assert isinstance(error, RendezvousError)
    assert str(error).startswith("rank 1 fell silent while rank 0 was waiting for its table")


@pytest.mark.parametrize("transport", ["auto", "shm", "tcp"])
def test_an_algorithm_that_there_is_not_is_refused_first(transport):
    with pytest.raises(UsageError, match=r"an algorithm of ring, .* was expected, found 'rign'"):
        group._agree([transport] * 2, ["a", "a"], "rign")


def test_what_fails_after_the_links_are_open_closes_them(ranks, monkeypatch):
    closed = []

    def refuse(transport, *args, **options):
        monkeypatch.setattr(transport, "close", lambda graceful: closed.append(graceful))
        transports.append(transport)
        raise UsageError("as asked")

    def body(communicator):
        raise AssertionError("it was opened")

    transports = []
    monkeypatch.setattr(group, "ScheduledCommunicator", refuse)
    with pytest.raises(UsageError, match="as asked"):
        ranks(2, "tcp", body)
    assert closed == [False, False]
    monkeypatch.undo()
    for transport in transports:
        transport.close(graceful=False)
