"""The TCP transport over real sockets: rails, TLS, names; what breaks is in test_tcp_faults.py."""

import contextlib
import secrets
import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.links.tcp import TcpTransport
from holdfast.collectives.links.tls import Tls
from holdfast.errors import DeadlineExceeded, UsageError

pytestmark = pytest.mark.local

SEGMENT = 32 << 10
MESSAGES = 60
AHEAD = 4


def links(**knobs):
    quick = {"segment": SEGMENT, "copy_limit": 1 << 10, "heartbeat": 0.05, "silence": 0.5}
    return LinkConfig(**{**quick, **knobs})


@contextlib.contextmanager
def transports(count, config, hosts=("127.0.0.1",), timeout=10.0, names=None):
    """Yield the transports of `count` ranks, each with an interface at each of `hosts`."""
    listeners = [[socket.create_server((host, 0)) for host in hosts] for _ in range(count)]
    addresses = [
        [(name, each.getsockname()[1]) for name, each in zip(names or hosts, own, strict=True)]
        for own in listeners
    ]
    token = secrets.token_bytes(32)
    made = [
        TcpTransport(
            rank,
            own,
            addresses,
            token,
            sources=hosts,
            timeout=timeout,
            config=config[rank] if isinstance(config, list) else config,
        )
        for rank, own in enumerate(listeners)
    ]
    try:
        yield made
    finally:
        for wire in made:
            wire.close(graceful=False)


def message(rank, number, size=SEGMENT):
    return np.random.default_rng([rank, number]).bytes(size)


def exchange(wire, messages=MESSAGES, size=SEGMENT):
    """Send messages to the next rank, and check those of the one before; close the transport."""
    after, before = (wire.rank + 1) % wire.world_size, (wire.rank - 1) % wire.world_size
    places = [bytearray(size) for _ in range(messages)]
    with contextlib.ExitStack() as stack:
        stack.callback(wire.close)
        for number in range(messages):
            wire.send(after, memoryview(message(wire.rank, number, size)), number)
        for number in range(messages + AHEAD):
            if number < messages:
                wire.post(before, memoryview(places[number]), number)
            if number >= AHEAD:
                wire.wait(before)
                assert places[number - AHEAD] == message(before, number - AHEAD, size)
        wire.flush()
    return wire.rails(after)


@pytest.mark.parametrize("rails", [1, 3])
@pytest.mark.parametrize("hosts", [("127.0.0.1",), ("127.0.0.1", "127.0.0.2")])
@pytest.mark.parametrize("count", [2, 3])
def test_messages_come_whole_and_in_order_over_all_rails(ranks, rails, hosts, count):
    with transports(count, links(rails=rails), hosts) as made:
        for figures in ranks.threads(count, lambda rank: exchange(made[rank])):
            assert len(figures) == rails * len(hosts)
            assert [rail.rail for rail in figures] == list(range(len(figures)))
            assert {rail.address[0] for rail in figures} == set(hosts)


def test_every_rail_carries_a_share(ranks):
    with transports(2, links(rails=3, window=1 << 20)) as made:
        figures = ranks.threads(2, lambda rank: exchange(made[rank], 400))
    for rails in figures:
        assert sum(rail.sent for rail in rails) > 400 * SEGMENT
        assert all(rail.sent > 3 * SEGMENT for rail in rails), rails


def test_small_messages_go_over_the_first_rail(ranks):
    def sent(wire):
        return [rail.sent for rail in wire.rails(1 - wire.rank)]

    def body(rank):
        wire, place = made[rank], bytearray(8)

        def swap():
            wire.send(1 - rank, memoryview(b"8 bytes."), 0)
            wire.post(1 - rank, memoryview(place), 0)
            wire.wait(1 - rank)

        swap()
        while not all(rail.connected for rail in wire.rails(1 - rank)):
            wire.service()
        before = sent(wire)
        for _ in range(20):
            swap()
        return [now - then for now, then in zip(sent(wire), before, strict=True)]

    with transports(2, links(rails=3, patience=0.5)) as made:
        for first, *others in ranks.threads(2, body):
            assert first >= 20 * 8
            assert all(rail < 20 * 8 for rail in others)


def test_names_are_looked_up_at_every_dial(ranks, monkeypatch):
    """A connection is cut, and the name leads elsewhere for a while: nobody is there."""
    asked, look_up = [], socket.getaddrinfo

    def moving(host, *args, **kwargs):
        if host != "moving.test":
            return look_up(host, *args, **kwargs)
        asked.append(host)
        return look_up("127.0.0.2" if len(asked) == 2 else "127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", moving)
    with transports(2, links(), names=["moving.test"]) as made:

        def body(rank):
            wire, friend = made[rank], 1 - rank
            for turn in range(2):
                came = bytearray(SEGMENT)
                wire.send(friend, memoryview(message(rank, turn)), turn)
                wire.post(friend, memoryview(came), turn)
                wire.wait(friend)
                assert came == message(friend, turn)
                wire.flush()
                if rank == 1 and turn == 0:
                    assert len(asked) == 1
                    (carrier,) = wire._connections.peers[0].carriers
                    carrier.sock.shutdown(socket.SHUT_RDWR)

        ranks.threads(2, body)
    assert len(asked) >= 3


def test_a_name_that_nobody_knows_is_told(ranks):
    with transports(2, links(), names=["no-such-host.invalid"], timeout=1.0) as made:

        def body(rank):
            made[rank].post(1 - rank, memoryview(bytearray(1)), 0)
            with pytest.raises(DeadlineExceeded) as caught:
                made[rank].wait(1 - rank)
            return str(caught.value)

        assert "no-such-host.invalid cannot be resolved" in ranks.threads(2, body)[1]


def test_a_congestion_control_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="vegetables"):
        TcpTransport(0, [], [[("127.0.0.1", 1)]], b"", config=links(congestion="vegetables"))


def test_the_congestion_control_asked_for_is_used(ranks):
    with open("/proc/sys/net/ipv4/tcp_allowed_congestion_control") as file:
        name = file.read().split()[-1]
    with transports(2, links(congestion=name)) as made:

        def body(rank):
            wire = made[rank]
            wire.send(1 - rank, memoryview(b"x"), 0)
            wire.post(1 - rank, memoryview(bytearray(1)), 0)
            wire.wait(1 - rank)
            (carrier,) = wire._connections.peers[1 - rank].carriers
            return carrier.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)

        for used in ranks.threads(2, body):
            assert used.rstrip(b"\0").decode() == name


# TLS


@pytest.mark.parametrize("rails", [1, 3])
def test_links_over_tls(ranks, authority, rails):
    with transports(2, links(rails=rails, tls=authority("ours"))) as made:
        for figures in ranks.threads(2, lambda rank: exchange(made[rank], 200)):
            assert sum(rail.sent for rail in figures) > 200 * SEGMENT


@pytest.mark.parametrize("stranger", [0, 2], ids=["dialled", "dialling"])
@pytest.mark.parametrize(
    ("shows", "logged", "told"),
    [
        ("nothing", "TLS: ", "the handshake took too long"),
        ("another job's files", "certificate verify failed", "certificate verify failed"),
        ("another job's certificate", "certificate verify failed", "unknown ca"),
    ],
    ids=["nothing", "another job's files", "another job's certificate"],
)
def test_a_rank_without_a_certificate_of_the_job_never_connects(
    ranks, authority, caplog, stranger, shows, logged, told
):
    """No byte of a message goes either way, the reason is told, and the other ranks go on."""
    ours, theirs = authority("ours"), authority("theirs")
    good = sorted({0, 1, 2} - {stranger})
    config = [links(tls=ours, last_retry=0.1)] * 3
    config[stranger] = {
        "nothing": links(handshake=0.3, last_retry=0.1),
        "another job's files": links(tls=theirs, last_retry=0.1),
        "another job's certificate": links(
            tls=replace(theirs, authority=ours.authority), last_retry=0.1
        ),
    }[shows]
    given_up = threading.Event()

    def offer(wire, peers):
        for peer in peers:
            wire.send(peer, memoryview(b"secret"), 0)
            wire.post(peer, memoryview(bytearray(6)), 0)

    def alone(wire):
        offer(wire, good)
        try:
            with pytest.raises(DeadlineExceeded) as caught:
                wire.wait(good[0])
        finally:
            given_up.set()
        return str(caught.value)

    def together(wire):
        """Swap messages with the other of the job's ranks until the stranger has given up."""
        offer(wire, [stranger])
        friend = sum(good) - wire.rank
        for turn in range(100_000):
            last = wire.rank == good[0] and given_up.is_set()
            sent, came = bytes([last]) + message(wire.rank, turn), bytearray(1 + SEGMENT)
            wire.send(friend, memoryview(sent), turn)
            wire.post(friend, memoryview(came), turn)
            wire.wait(friend)
            assert came[1:] == message(friend, turn)
            if last or came[0]:
                break
        wire.flush()
        return ""

    with transports(3, config, timeout=1.0) as made:
        said = ranks.threads(3, lambda i: (alone if i == stranger else together)(made[i]))
        figures = [rail for peer in good for rail in made[stranger].rails(peer)]
        figures += [rail for rank in good for rail in made[rank].rails(stranger)]
    assert [(rail.sent, rail.received, rail.connected) for rail in figures] == [(0, 0, False)] * 4
    refusals = [each for each in caplog.messages if "a connection was refused: TLS: " in each]
    assert any(logged in each for each in refusals), caplog.messages
    assert (told if stranger == 2 else "no connection was made yet") in said[stranger]


def test_files_that_are_no_certificates_are_told(tmp_path, authority):
    ours = authority("ours")
    nothing = tmp_path / "nothing.pem"
    for wrong in (Tls(nothing, ours.key, ours.authority), Tls(ours.key, ours.key, ours.authority)):
        with pytest.raises(UsageError, match="three PEM files were expected"):
            wrong.context(listening=True)
