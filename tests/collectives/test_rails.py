"""One of several rails is lost in the middle: the others carry on, and it comes back."""

import contextlib
import itertools
import random
import secrets
import socket
import time

import numpy as np
import pytest

from holdfast.collectives.links.frame import HEADER_SIZE
from holdfast.collectives.links.handshake import CHALLENGE_SIZE, HELLO_SIZE, WELCOME_SIZE
from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.links.tcp import TcpTransport
from holdfast.fabric.relay.cut import Cut, CutRelay

pytestmark = pytest.mark.local

SEGMENT = 16 << 10
FRAME = SEGMENT + HEADER_SIZE
AHEAD = 4
LINK = LinkConfig(
    segment=SEGMENT,
    copy_limit=1 << 10,
    window=8 * SEGMENT,
    heartbeat=0.05,
    silence=0.5,
    handshake=1.0,
    last_retry=0.1,
)
SHAKE = {"up": HELLO_SIZE, "down": CHALLENGE_SIZE + WELCOME_SIZE}


@contextlib.contextmanager
def two_ranks(cuts):
    """Yield two transports joined by rails of which number i passes a relay with `cuts[i]`."""
    token = secrets.token_bytes(32)
    with contextlib.ExitStack() as stack:
        hosts = [f"127.0.0.{number + 1}" for number in range(len(cuts))]
        listeners = [[socket.create_server((host, 0)) for host in hosts] for _ in range(2)]
        direct = [[each.getsockname() for each in own] for own in listeners]
        relays = [
            stack.enter_context(CutRelay(direct[0][number], each))
            for number, each in enumerate(cuts)
        ]
        relayed = [[relay.address for relay in relays], direct[1]]
        made = [
            TcpTransport(
                rank, listeners[rank], (direct, relayed)[rank], token, timeout=20.0, config=LINK
            )
            for rank in range(2)
        ]
        stack.callback(lambda: [wire.close(graceful=False) for wire in made])
        yield made, relays


def message(rank, number):
    return np.random.default_rng([rank, number]).bytes(SEGMENT)


def exchange(wire, first, messages):
    """Send messages both ways at once and check each that comes."""
    peer = 1 - wire.rank
    places = [bytearray(SEGMENT) for _ in range(messages)]
    for number in range(messages):
        wire.send(peer, memoryview(message(wire.rank, first + number)), 7)
    for number in range(messages + AHEAD):
        if number < messages:
            wire.post(peer, memoryview(places[number]), 7)
        if number >= AHEAD:
            wire.wait(peer)
            assert places[number - AHEAD] == message(peer, first + number - AHEAD)
    wire.flush()


def until(wire, done, seconds=15.0):
    """Exchange small runs until both ranks find it `done`: they say so after each, and agree."""
    peer, end = 1 - wire.rank, time.monotonic() + seconds
    for turn in itertools.count():
        exchange(wire, 1000 + 20 * turn, 20)
        fine, here = done(), bytearray(1)
        wire.send(peer, memoryview(bytes([fine])), 9)
        wire.post(peer, memoryview(here), 9)
        wire.wait(peer)
        if fine and here[0]:
            return
        assert time.monotonic() < end, "what is broken did not come back"


def back(wire, number):
    """Return a function that says whether a rail was lost, and carries its share again."""
    carrier = wire._connections.peers[1 - wire.rank].carriers[number]
    before = []

    def done():
        if carrier.connections < 2:
            return False
        before.append((carrier.sent, carrier.received))
        return all(now > then + 4 * FRAME for now, then in zip(before[-1], before[0], strict=True))

    return done


def lose_a_rail(ranks, rails, rng, how):
    direction = rng.choice(["up", "down"])
    lost = rng.randrange(rails)
    cut = Cut(0, direction, SHAKE[direction] + rng.randrange(4 * FRAME), how)
    print(f"rail {lost} of {rails}: {cut}")
    cuts = [() for _ in range(rails)]
    cuts[lost] = (cut,)
    with two_ranks(cuts) as (made, relays):

        def body(rank):
            exchange(made[rank], 0, 80)
            until(made[rank], back(made[rank], lost))
            made[rank].close()

        ranks.threads(2, body)
        assert [relay.cuts_made for relay in relays] == [int(i == lost) for i in range(rails)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["reset", "stall"])
@pytest.mark.parametrize("rails", [2, 3])
def test_a_rail_that_is_lost_costs_nothing_and_comes_back(ranks, rails, how, seed):
    lose_a_rail(ranks, rails, random.Random(f"{rails} {how} {seed}"), how)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("how", ["reset", "stall"])
@pytest.mark.parametrize("rails", [2, 3])
def test_hundreds_of_lost_rails(ranks, rails, how, seed):
    lose_a_rail(ranks, rails, random.Random(f"{rails} {how} {seed}"), how)


@pytest.mark.parametrize("seed", range(3))
def test_all_rails_are_lost_in_turn(ranks, seed):
    rng = random.Random(seed)
    cuts = [
        tuple(
            Cut(
                number,
                rng.choice(["up", "down"]),
                rng.randrange(6 * FRAME),
                rng.choice(["reset", "stall"]),
            )
            for number in range(3)
        )
        for _ in range(3)
    ]
    print(cuts)
    with two_ranks(cuts) as (made, relays):

        def body(rank):
            exchange(made[rank], 0, 80)
            until(made[rank], lambda: all(relay.cuts_made == 3 for relay in relays))
            made[rank].close()

        ranks.threads(2, body)
