"""Connections are cut at every phase of the ring; the sum doesn't notice."""

import contextlib
import gc
import os
import random
import secrets
import socket
import threading
from dataclasses import replace

import numpy as np
import pytest

from holdfast.collectives.links import handshake
from holdfast.collectives.links.frame import HEADER_SIZE
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.links.tcp import TcpTransport
from holdfast.collectives.scheduled import ScheduledCommunicator
from holdfast.errors import CommunicationError, DeadlineExceeded
from holdfast.fabric.relay.cut import Cut, CutRelay, Direction

pytestmark = pytest.mark.local

LINK = LinkConfig(
    segment=16 << 10, copy_limit=1 << 10, heartbeat=0.04, silence=0.2, handshake=0.3, last_retry=0.1
)
COUNT = 60_000  # float32: two chunks of 120,000 bytes, 8 segments each
CHUNK = COUNT * 4 // 2
SHAKE = {"up": handshake.HELLO_SIZE, "down": handshake.CHALLENGE_SIZE + handshake.WELCOME_SIZE}
SEGMENTS = -(-CHUNK // LINK.segment)
PHASES = ["connect", "header", "mid-chunk", "between", "last-chunk"]


def place(phase, direction, rng):
    """Return after how many bytes of the first connection the cut falls."""
    shake = SHAKE[direction]
    framed = CHUNK + SEGMENTS * HEADER_SIZE
    return {
        "connect": lambda: rng.randrange(shake),
        "header": lambda: shake + rng.randrange(1, HEADER_SIZE),
        "mid-chunk": lambda: shake + HEADER_SIZE + rng.randrange(1, framed - 2 * HEADER_SIZE),
        "between": lambda: shake + framed + rng.randrange(HEADER_SIZE),
        "last-chunk": lambda: shake + 2 * framed - rng.randrange(1, LINK.segment),
    }[phase]()


@contextlib.contextmanager
def nothing_left():
    """Fail if a descriptor or a thread is left."""
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


def group(stack, size, relays, token=None, link=LINK, timeout=15.0):
    """Return `size` communicators; `relays[(dialer, listener)]` are cuts on the way between two."""
    token = token or secrets.token_bytes(32)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(size)]
    direct = [listener.getsockname()[:2] for listener in listeners]
    made = {}
    members = []
    for rank in range(size):
        addresses = list(direct)
        for (dialer, listener), cuts in relays.items():
            if dialer == rank:
                relay = stack.enter_context(CutRelay(direct[listener], cuts))
                made[(dialer, listener)] = relay
                addresses[listener] = relay.address
        wire = TcpTransport(
            rank,
            [listeners[rank]],
            [[address] for address in addresses],
            token,
            timeout=timeout,
            config=link,
        )
        members.append(ScheduledCommunicator(wire, "tcp", segment=link.segment))
    return members, made


def all_reduces(ranks, members, seed, turns=3):
    """Return every rank's results of a few all-reduces."""

    def body(rank):
        rng = np.random.default_rng([seed, rank])
        results = []
        try:
            for _ in range(turns):
                x = rng.normal(size=COUNT).astype(np.float32)
                out = np.empty_like(x)
                members[rank].all_reduce(x, out=out)
                results.append(out)
        finally:
            members[rank].close()
        return results

    return ranks.threads(len(members), body)


def check(ranks, size, seed, relays):
    """Run all-reduces quietly and with cuts, and compare bits; return the relays."""
    with contextlib.ExitStack() as stack:
        quiet = all_reduces(ranks, group(stack, size, {})[0], seed)
    with nothing_left(), contextlib.ExitStack() as stack:
        members, made = group(stack, size, relays)
        cut = all_reduces(ranks, members, seed)
        for rank in range(size):
            for one, other in zip(quiet[0], cut[rank], strict=True):
                assert one.tobytes() == other.tobytes()
    return made


def cut_once(ranks, phase, how, seed):
    rng = random.Random(f"{phase} {how} {seed}")
    direction: Direction = rng.choice(["up", "down"])
    cut = Cut(0, direction, place(phase, direction, rng), how)
    print("seed", seed, cut)
    relay = check(ranks, 2, seed, {(1, 0): (cut,)})[(1, 0)]
    assert relay.cuts_made == 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", ["reset", "stall"])
@pytest.mark.parametrize("phase", PHASES)
def test_a_cut_connection_changes_no_bit(ranks, phase, how, seed):
    cut_once(ranks, phase, how, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
@pytest.mark.parametrize("how", ["reset", "stall"])
@pytest.mark.parametrize("phase", PHASES)
def test_two_hundred_cuts(ranks, phase, how, seed):
    cut_once(ranks, phase, how, seed)


@pytest.mark.parametrize("seed", range(4))
def test_many_cuts_on_every_link_of_a_ring_of_three(ranks, seed):
    rng = random.Random(seed)
    relays = {
        link: tuple(
            Cut(
                number,
                rng.choice(["up", "down"]),
                rng.randrange(250_000),
                rng.choice(["reset", "stall"]),
            )
            for number in range(3)
        )
        for link in [(1, 0), (2, 1), (2, 0)]
    }
    print("seed", seed, relays)
    check(ranks, 3, seed, relays)


def test_idle_links_are_kept_and_mended(ranks):
    """A connection cut between two collectives is back before the next."""
    with contextlib.ExitStack() as stack:
        framed = 2 * (CHUNK + SEGMENTS * HEADER_SIZE) + SHAKE["up"]
        members, made = group(stack, 2, {(1, 0): (Cut(0, "up", framed + HEADER_SIZE, "reset"),)})
        relay = made[(1, 0)]
        cut = threading.Event()

        def body(rank):
            x = np.ones(COUNT, np.float32)
            members[rank].all_reduce(x)
            for _ in range(1000):  # heartbeats alone bring the connection to its end
                if relay.cuts_made:
                    break
                cut.wait(0.02)
            members[rank].all_reduce(x)
            members[rank].close()
            return x

        for x in ranks.threads(2, body):
            assert (x == 4).all()
        assert relay.cuts_made == 1


@pytest.mark.parametrize("seed", range(8))
def test_a_rank_that_leaves_first_lets_the_other_have_what_it_sent_last(ranks, seed):
    """The connection is cut within a barrier's messages, and both close right after it."""
    rng = random.Random(seed)
    direction = rng.choice(["up", "down"])
    cut = Cut(0, direction, SHAKE[direction] + rng.randrange(2 * HEADER_SIZE), "reset")
    print("seed", seed, cut)
    with nothing_left(), contextlib.ExitStack() as stack:
        # If the last acknowledgement is lost, nobody is left who could say that all is well.
        members, _ = group(stack, 2, {(1, 0): (cut,)}, link=replace(LINK, linger=2.0))

        def body(rank):
            members[rank].barrier()
            members[rank].close()

        ranks.threads(2, body)


def test_what_was_sent_last_arrives_though_the_path_is_down_for_a_while(ranks):
    """One rank has all that it needs and leaves; what it sent last arrives at the fifth try."""
    cuts = tuple(Cut(number, "up", SHAKE["up"] + 1, "stall") for number in range(4))
    with nothing_left(), contextlib.ExitStack() as stack:
        members, made = group(stack, 2, {(1, 0): cuts})

        def body(rank):
            members[rank].barrier()
            members[rank].close()

        ranks.threads(2, body)
        assert made[(1, 0)].cuts_made == 4


def test_a_path_that_brings_nothing_is_redialled_more_and_more_slowly(ranks):
    cuts = tuple(Cut(number, "up", 40, "reset") for number in range(10_000))
    with nothing_left(), contextlib.ExitStack() as stack:
        members, made = group(stack, 2, {(1, 0): cuts}, timeout=1.5)

        def body(rank):
            with pytest.raises(DeadlineExceeded):
                members[rank].barrier()
            members[rank].close()

        ranks.threads(2, body)
        assert made[(1, 0)].cuts_made < 60


def test_a_peer_that_never_comes_is_named_within_the_deadline(ranks):
    with nothing_left(), contextlib.ExitStack() as stack:
        members, _ = group(stack, 2, {}, timeout=0.5)
        members[1].close()
        with pytest.raises(
            DeadlineExceeded, match=r"rank 0 waited 0\.5 s .* rank 1 at 127\.0\.0\.1"
        ):
            members[0].all_reduce(np.zeros(10, np.float32))
        with pytest.raises(CommunicationError, match="broke before this call"):
            members[0].barrier()
        members[0].close()


def strangers(address):
    """Open connections that do not belong: silence, noise, a wrong token, a replayed handshake."""
    with socket.create_connection(address) as silent:
        yield silent
    with socket.create_connection(address) as noisy:
        noisy.sendall(os.urandom(4096))
        yield noisy
    dialer = handshake.Dialer(b"another job's token" * 2, b"link", handshake.Hello(1, 0, 0, 0, 0))
    for _ in range(50):  # on a busy machine the door may have lost its patience meanwhile
        with socket.create_connection(address) as thief, contextlib.suppress(ConnectionError):
            challenge = thief.recv(handshake.CHALLENGE_SIZE)
            if len(challenge) == handshake.CHALLENGE_SIZE:
                hello = dialer.answer(challenge)
                thief.sendall(hello)
                yield thief
                break
    with socket.create_connection(address) as replay, contextlib.suppress(ConnectionError):
        replay.sendall(hello)
        yield replay


def test_strangers_are_refused_and_the_job_is_unharmed(ranks):
    with nothing_left(), contextlib.ExitStack() as stack:
        members, _ = group(stack, 2, {})
        address = next(iter(members[0].wire._connections._door._listeners.values())).getsockname()[
            :2
        ]
        done = threading.Event()

        def body(rank):
            if rank == 2:
                try:
                    for stranger in strangers(address):
                        stranger.settimeout(5)
                        with contextlib.suppress(ConnectionResetError):
                            while stranger.recv(4096):
                                pass
                finally:
                    done.set()
                return None
            turns = 0
            with contextlib.closing(members[rank]) as comm:
                going = np.ones(1, np.int32)
                while going[0]:
                    x = np.full(COUNT, rank + 1, np.float32)
                    comm.all_reduce(x)
                    assert (x == 3).all()
                    going[0] = not done.is_set() if rank == 0 else 1
                    comm.all_reduce(going, "min")
                    turns += 1
            return turns

        assert ranks.threads(3, body)[0] >= 1


def test_a_wrong_token_never_joins(ranks):
    with nothing_left(), contextlib.ExitStack() as stack:
        token = secrets.token_bytes(32)
        members, _ = group(stack, 2, {}, token=token, timeout=1.0)
        members[1].wire._connections._door._token = secrets.token_bytes(32)

        def body(rank):
            with contextlib.closing(members[rank]), pytest.raises(DeadlineExceeded):
                members[rank].barrier()

        ranks.threads(2, body)
