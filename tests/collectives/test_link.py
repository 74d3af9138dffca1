"""The link's state machine: whatever breaks, every message is delivered once, whole, in order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from holdfast.collectives.links.checksum import FOLD_FROM, checksum, fold
from holdfast.collectives.links.frame import HEADER_SIZE, CorruptFrame, Header, Kind
from holdfast.collectives.links.link import Link, LinkConfig
from holdfast.collectives.links.rail import Flight
from holdfast.errors import CollectiveMismatch, ProtocolError, UsageError

CONFIG = LinkConfig(
    segment=64, copy_limit=8, window=128, heartbeat=1.0, silence=4.0, patience=0.4, checksum="fold"
)


def pair(rails=1):
    return Link(0, 1, 7, CONFIG, rails), Link(1, 0, 7, CONFIG, rails)


def join(a, b, now=0.0, rail=0):
    had = a.received, b.received
    a.rails[rail].attach(had[1], now)
    b.rails[rail].attach(had[0], now)


def cut(*links, rail=0):
    for link in links:
        link.rails[rail].detach()


def read(rail, data, now=0.0):
    """Give a rail the bytes that have come; return how many it took."""
    taken = 0
    while taken < len(data) and (into := rail.wanted(now)) is not None:
        count = min(len(into), len(data) - taken)
        into[:count] = data[taken : taken + count]
        rail.filled(count, now)
        taken += count
    return taken


def move(source, target, most=1 << 30, now=0.0, rail=0):
    """Carry at most `most` bytes over a rail from one end to the other; return how many."""
    moved = 0
    sender, receiver = source.rails[rail], target.rails[rail]
    while moved < most and (buffers := sender.gather(now)):
        data = b"".join(bytes(b) for b in buffers)[: most - moved]
        taken = read(receiver, data, now)
        sender.wrote(taken)
        moved += taken
        if taken < len(data):
            break
    return moved


class Broken(RuleBasedStateMachine):
    """Two ends and rails between them, which carry some bytes, hold them up and break at any.

    What one end has written and the other not read is in flight; a rail that breaks loses it.
    """

    @initialize(rails=st.integers(1, 3))
    def build(self, rails):
        self.ends = pair(rails)
        self.flights = [[bytearray(), bytearray()] for _ in range(rails)]
        self.sent = ([], [])
        self.awaited = ([], [])
        self.now = 0.0
        self.number = 0

    def rail(self, number):
        return number % len(self.flights)

    @rule(side=st.integers(0, 1), size=st.integers(0, 64))
    def send(self, side, size):
        self.number += 1
        message = bytearray((self.number * 7 + i) % 251 for i in range(size))
        self.sent[side].append(message)
        self.ends[side].send(memoryview(message), size)

    @rule(side=st.integers(0, 1))
    def expect(self, side):
        sent = self.sent[1 - side]
        place = len(self.awaited[side])
        if place < len(sent):
            into = bytearray(b"\xff" * len(sent[place]))
            assert self.ends[side].expect(memoryview(into), len(into)) == place
            self.awaited[side].append(into)

    @rule(number=st.integers(0, 2))
    def connect(self, number):
        rail = self.rail(number)
        if not self.ends[0].rails[rail].attached:
            join(*self.ends, self.now, rail)

    @rule(number=st.integers(0, 2))
    def cut(self, number):
        rail = self.rail(number)
        if self.ends[0].rails[rail].attached:
            cut(*self.ends, rail=rail)
            self.flights[rail] = [bytearray(), bytearray()]

    @rule(number=st.integers(0, 2), side=st.integers(0, 1), most=st.integers(1, 200))
    def write(self, number, side, most):
        rail = self.rail(number)
        sender = self.ends[side].rails[rail]
        while most and (buffers := sender.gather(self.now)):
            data = b"".join(bytes(b) for b in buffers)[:most]
            self.flights[rail][side] += data
            sender.wrote(len(data))
            most -= len(data)

    @rule(number=st.integers(0, 2), side=st.integers(0, 1), most=st.integers(1, 200))
    def arrive(self, number, side, most):
        rail = self.rail(number)
        flight = self.flights[rail][side]
        taken = read(self.ends[1 - side].rails[rail], bytes(flight[:most]), self.now)
        del flight[:taken]

    @rule(number=st.integers(0, 2), side=st.integers(0, 1))
    def observe(self, number, side):
        rail = self.rail(number)
        if self.ends[side].rails[rail].attached:
            stuck = bool(self.flights[rail][side])
            self.ends[side].rails[rail].observe(self.now, Flight(stuck, 5, 0.001, 0.001))

    @rule(seconds=st.floats(0.05, 1.5))
    def wait(self, seconds):
        self.now += seconds
        for end in self.ends:
            for rail in end.rails:
                rail.silent(self.now)

    @invariant()
    def delivered_once_whole_and_in_order(self):
        for side, end in enumerate(self.ends):
            sent = self.sent[1 - side]
            assert end.received <= len(self.awaited[side]) <= len(sent)
            for place in range(end.received):
                assert self.awaited[side][place] == sent[place]

    @invariant()
    def nothing_needed_is_forgotten(self):
        a, b = self.ends
        assert a.acknowledged <= b.received
        assert b.acknowledged <= a.received

    @invariant()
    def memory_is_bounded(self):
        for end in self.ends:
            assert 0 <= end._stashed <= CONFIG.window
            kept = sum(len(early[0]) for early in end._early.values() if early)
            filling = sum(len(rail._stashed) for rail in end.rails if rail._stashed is not None)
            assert kept + filling == end._stashed

    def teardown(self):
        """Whatever has happened, connections that hold bring everything across."""
        if not hasattr(self, "ends"):
            return
        for side in (0, 1):
            for _ in range(len(self.sent[1 - side]) - len(self.awaited[side])):
                self.expect(side)
        for rail in range(len(self.flights)):
            self.connect(rail)
        for _ in range(1000):
            self.now += 0.2
            for rail in range(len(self.flights)):
                for side in (0, 1):
                    self.ends[side].rails[rail].silent(self.now)
                    self.observe(rail, side)
                    self.write(rail, side, 1 << 20)
                    self.arrive(rail, side, 1 << 20)
            if all(self.done(side) for side in (0, 1)):
                break
        for side in (0, 1):
            assert self.awaited[side] == self.sent[1 - side]
            assert self.ends[side].flushed
            assert self.ends[side].numbered - self.ends[side].acknowledged < 100

    def done(self, side):
        return self.ends[side].received == len(self.sent[1 - side]) and self.ends[side].flushed


Broken.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestBroken = Broken.TestCase


@pytest.mark.soak
class TestBrokenAtLength(Broken.TestCase):  # type: ignore[misc, valid-type]
    settings = settings(max_examples=20_000, stateful_step_count=60, deadline=None)


def test_what_arrived_before_a_cut_is_not_sent_again():
    a, b = pair()
    join(a, b)
    got = [bytearray(20) for _ in range(4)]
    for i, into in enumerate(got):
        b.expect(memoryview(into))
        a.send(memoryview(bytes([i]) * 20))
    move(a, b, 2 * (HEADER_SIZE + 20) + HEADER_SIZE + 5)  # two and a bit
    assert b.received == 2
    cut(a, b)
    join(a, b)
    assert a.acknowledged == 2
    move(a, b)
    assert got == [bytes([i]) * 20 for i in range(4)]
    assert a.resent == 1  # the third, which broke off


def test_small_messages_are_copied_large_ones_borrowed_until_acknowledged():
    a, b = pair()
    small, large = bytearray(b"small"), bytearray(b"x" * 100)
    a.send(memoryview(small))
    assert a.flushed
    a.send(memoryview(large))
    small[:] = b"wrong"
    assert not a.flushed
    got = bytearray(5), bytearray(100)
    for into in got:
        b.expect(memoryview(into))
    join(a, b)
    move(a, b)
    move(b, a)
    assert got[0] == b"small"
    assert a.flushed


def test_a_link_that_is_not_awaited_leaves_bytes_in_the_connection_and_is_not_silent():
    a, b = pair()
    join(a, b)
    a.send(memoryview(b"123"))
    assert move(a, b) == HEADER_SIZE
    assert b.rails[0].wanted(0.0) is None
    assert not b.rails[0].silent(100.0)
    into = bytearray(3)
    b.expect(memoryview(into))
    move(a, b)
    assert into == b"123"


def test_heartbeats_keep_a_quiet_link_and_their_absence_ends_it():
    a, b = pair()
    join(a, b)
    for second in range(1, 20):
        assert not a.rails[0].silent(float(second))
        assert not b.rails[0].silent(float(second))
        assert move(a, b, now=float(second)) == HEADER_SIZE
        move(b, a, now=float(second))
    rail = a.rails[0]
    assert not rail.silent(23.0)
    assert rail.silent(23.1)
    rail.moved(23.1)
    assert not rail.silent(24.0)


def header(kind=Kind.DATA, epoch=7, number=0, received=0, length=3, tag=0):
    return bytes(Header(kind, tag, epoch, number, received, 0, length, 0).pack())


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (header(epoch=6), "epoch 6"),
        (header(number=1), "message 0 was expected"),
        (header(received=5), "says it has 5"),
        (header(kind=9), "kind 9"),
        (header(kind=Kind.ACK, length=4), "kind 2"),
    ],
)
def test_frames_that_break_the_protocol(frame, error):
    a, b = pair()
    join(a, b)
    with pytest.raises(ProtocolError, match=error):
        feed(a, frame)


def feed(link, data):
    read(link.rails[0], data)


def test_a_message_of_another_size_is_a_mismatch_of_collectives():
    a, b = pair()
    join(a, b)
    a.expect(memoryview(bytearray(3)))
    with pytest.raises(CollectiveMismatch, match=r"3 bytes .* was expected, rank 1 sends 9999"):
        feed(a, header(length=9999) + b"xyz")


def test_a_message_of_another_call_is_a_mismatch_though_its_size_fits():
    a, b = pair()
    join(a, b)
    a.expect(memoryview(bytearray(3)), 0x1234)
    with pytest.raises(CollectiveMismatch, match=r"of call 1234 was expected.*of call 00ff"):
        feed(a, header(tag=0xFF) + b"xyz")


def test_leaving_is_told_behind_all_that_was_sent():
    a, b = pair()
    a.send(memoryview(b"last words"))
    a.leave()
    join(a, b)
    move(a, b)
    assert not b.left  # not attached then: there was nobody to tell
    a.leave()
    into = bytearray(10)
    move(a, b)
    assert not b.left  # it is behind a message that is not awaited yet
    b.expect(memoryview(into))
    move(a, b)
    assert into == b"last words"
    assert b.left
    assert not a.left


def test_what_breaks_off_and_comes_again_is_no_progress():
    a, b = pair()
    into = bytearray(100)
    b.expect(memoryview(into))
    a.send(memoryview(bytes(100)))
    seen = []
    for most in (60, 60, 90, 60, 200):
        join(a, b)
        move(a, b, HEADER_SIZE + most)
        seen.append(b.progress)
        cut(a, b)
    assert seen == [60, 60, 90, 90, 100]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_clean_error(data):
    a, b = pair()
    join(a, b)
    into = bytearray(3)
    a.expect(memoryview(into))
    try:
        feed(a, data)
    except (ProtocolError, CollectiveMismatch, CorruptFrame):
        return
    assert a.received <= 1


SMALL = st.integers(0, 5)
HEADERS = st.builds(
    Header,
    kind=st.integers(0, 6),
    tag=st.integers(0, 1),
    epoch=st.just(7) | st.integers(0, (1 << 32) - 1),
    number=SMALL | st.integers(0, (1 << 64) - 1),
    received=SMALL | st.integers(0, (1 << 64) - 1),
    read=SMALL | st.integers(0, (1 << 64) - 1),
    length=SMALL | st.integers(0, (1 << 64) - 1),
    checksum=st.just(0) | st.integers(0, (1 << 32) - 1),
)


def fuzz(frames, rails):
    """Feed a link with two messages sent and two awaited what no peer of ours would send."""
    link, _ = pair(rails)
    for rail in link.rails:
        rail.attach(0, 0.0)
        link.send(memoryview(b"12345678"))
        rail.gather(0.0)
    awaiting(link, 2, 3)
    for number, (frame, payload) in enumerate(frames):
        data = bytes(frame.pack()) + payload
        try:
            read(link.rails[number % rails], data, now=float(number))
        except (ProtocolError, CollectiveMismatch, CorruptFrame):
            break
    assert link._stashed <= CONFIG.window
    assert len(link._early) <= len(frames)
    return link


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=8)), max_size=6), st.integers(1, 3))
def test_any_frames_are_messages_or_a_clean_error(frames, rails):
    link = fuzz(frames, rails)
    assert 0 <= link.received <= 2
    assert 0 <= link.acknowledged <= link.numbered


@pytest.mark.soak
@settings(max_examples=50_000, deadline=None)
@given(st.lists(st.tuples(HEADERS, st.binary(max_size=8)), max_size=12), st.integers(1, 3))
def test_any_frames_at_length(frames, rails):
    fuzz(frames, rails)


def test_no_memory_is_taken_on_a_peer_s_word():
    link, _ = pair(2)
    link.rails[0].attach(0, 0.0)
    awaiting(link, 1)
    for now in (0.0, 1.0):
        read(link.rails[0], bytes(header(number=1, length=1 << 60)), now=now)
    assert link._stashed == 0
    assert link.rails[0].wanted(2.0) is None


@given(
    st.binary(min_size=1, max_size=40_000) | st.just(bytes(70_000)), st.data(), st.integers(1, 255)
)
def test_a_changed_byte_is_never_delivered(message, data, change):
    a, b = pair()
    join(a, b)
    into = bytearray(len(message))
    b.expect(memoryview(into))
    a.send(memoryview(message))
    wire = bytearray(b"".join(a.rails[0].gather(0.0)))
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= change
    with pytest.raises(CorruptFrame):
        feed(b, bytes(wire))
    assert b.received == 0
    cut(a, b)
    join(a, b)
    move(a, b, 1 << 20)
    assert into == message


@given(st.integers(0, 3 * FOLD_FROM), st.data())
def test_the_checksum_sees_every_byte(size, data):
    content = bytearray(size)
    whole = fold(memoryview(content))
    if size:
        content[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
        assert fold(memoryview(content)) != whole


# Several rails


def message(number, size=40):
    return memoryview(bytes([number + 1]) * size)


def awaiting(link, count, size=40):
    places = [bytearray(size) for _ in range(count)]
    for place in places:
        link.expect(memoryview(place))
    return places


def whole(places):
    return [bytes(place) for place in places] == [
        bytes(message(n, len(p))) for n, p in enumerate(places)
    ]


def two_rails(count=6):
    a, b = pair(2)
    for rail in (0, 1):
        join(a, b, rail=rail)
    for number in range(count):
        a.send(message(number))
    return a, b


def test_each_rail_takes_the_next_message_when_it_has_room():
    a, b = two_rails(3)
    places = awaiting(b, 3)
    first, second = a.rails[0].gather(0.0), a.rails[1].gather(0.0)
    assert [bytes(buffers[1]) for buffers in (first, second)] == [message(0), message(1)]
    move(a, b, rail=1)
    assert b.received == 0  # the second is here, and the first is not
    move(a, b, rail=0)
    assert b.received == 3
    assert whole(places)


def test_no_more_than_the_window_goes_ahead_of_what_is_acknowledged():
    a, b = two_rails(6)
    awaiting(b, 6)
    assert move(a, b, rail=1) == 2 * (HEADER_SIZE + 40)
    assert move(a, b, rail=0) == HEADER_SIZE + 40  # 120 of 128 bytes
    move(b, a, rail=1)
    assert move(a, b, rail=0) + move(a, b, rail=1) == 3 * (HEADER_SIZE + 40)
    assert b.received == 6


def test_a_rail_of_unknown_speed_carries_about_one_segment():
    a, b = two_rails(6)
    awaiting(b, 6)
    assert move(a, b, rail=1) == 2 * (HEADER_SIZE + 40)  # 64 bytes are a segment
    assert a.rails[1].load == 80
    move(b, a, rail=1)
    assert a.rails[1].load == 0


def paced(a, b, rail, seconds, messages):
    """Let `rail` carry messages, each of which takes `seconds`."""
    now = 0.0
    for _ in range(messages):
        now += seconds
        move(a, b, rail=rail, now=now - seconds)
        move(b, a, rail=rail, now=now)


def test_a_rail_s_rate_is_measured_while_it_is_busy():
    a, b = two_rails(0)
    cut(a, b, rail=0)
    for number in range(40):
        a.send(message(number))
    awaiting(b, 40)
    paced(a, b, 1, 0.01, 40)
    assert b.received == 40
    assert a.rails[1].rate == pytest.approx(3 * 40 / 0.01, rel=0.1)  # a window of three at a time


def test_a_slow_rail_takes_no_message_that_another_brings_sooner():
    a, b = two_rails(0)
    a.rails[0].rate, a.rails[1].rate = 10_000.0, 1_000.0
    for number in range(20):
        a.send(message(number))
    awaiting(b, 20)
    assert a.rails[1].gather(0.0)  # the fast one has enough to do meanwhile
    a, b = two_rails(0)
    a.rails[0].rate, a.rails[1].rate = 10_000.0, 1_000.0
    for number in range(3):
        a.send(message(number))
    assert not a.rails[1].gather(0.0)
    assert a.rails[0].gather(0.0)


def test_small_messages_wait_for_no_room():
    """They are acknowledged now and then only."""
    a, b = two_rails(0)
    a.rails[0].rate = a.rails[1].rate = 1.0
    for _ in range(12):
        a.send(memoryview(bytes(8)))
    awaiting(b, 12, 8)
    move(a, b, rail=1)
    assert b.received == 12


def test_one_of_idle_rails_always_takes_what_is_there():
    for rates in ([5.0, 5.0, 5.0], [1.0, 100.0, 0.0], [1e9, 1.0, 3.0]):
        a, b = pair(3)
        for rail in range(3):
            join(a, b, rail=rail)
            a.rails[rail].rate = rates[rail]
        a.send(message(0))
        assert any(rail.gather(0.0) for rail in a.rails)


def test_one_rail_knows_no_window():
    a, b = pair()
    join(a, b)
    awaiting(b, 20)
    for number in range(20):
        a.send(message(number))
    move(a, b)
    assert b.received == 20


def test_a_rail_that_gets_nothing_through_lends_its_messages_and_what_comes_twice_is_dropped():
    a, b = two_rails(2)
    places = awaiting(b, 2)
    late = b"".join(bytes(part) for part in a.rails[0].gather(0.0))
    a.rails[0].wrote(len(late))
    for now in (0.0, 0.2, 0.5):
        a.rails[0].observe(now, Flight(True, 9, 0.001, 0.001))
    assert a.rails[0].suspected
    assert not a.rails[0].gather(0.5)
    move(a, b, rail=1)
    assert whole(places)
    for place in places:
        place[:] = bytes(40)  # they are the caller's again
    read(b.rails[0], late)
    assert b.received == 2
    assert b.dropped == 1
    assert not any(map(any, places))
    move(b, a, rail=0)
    assert a.acknowledged == 2
    a.rails[0].observe(0.6, Flight(False, 10, 0.001, 0.001))
    assert not a.rails[0].suspected


def test_a_slow_rail_is_not_suspected():
    a, _ = two_rails(2)
    a.rails[0].gather(0.0)
    for turn in range(100):
        a.rails[0].observe(
            turn * 0.1, Flight(True, turn, 0.001, 0.001)
        )  # acknowledgements keep coming
    assert not a.rails[0].suspected
    for turn in range(100):
        a.rails[0].observe(10 + turn * 0.03, Flight(True, 9, 2.0, 2.0))  # a round trip takes 2 s
    assert not a.rails[0].suspected


def test_an_only_rail_is_never_suspected():
    a, b = two_rails(2)
    cut(a, b, rail=1)
    for turn in range(10):
        a.rails[0].observe(float(turn), Flight(True, 9, 0.001, 0.001))
    assert not a.rails[0].suspected


def test_another_rail_takes_over_in_the_middle_of_a_message():
    a, b = two_rails(1)
    (place,) = awaiting(b, 1)
    frame = b"".join(bytes(part) for part in a.rails[0].gather(0.0))
    a.rails[0].wrote(len(frame))
    read(b.rails[0], frame[: HEADER_SIZE + 10])
    a.requeue(a.rails[0], [0])
    move(a, b, HEADER_SIZE + 20, rail=1)
    read(b.rails[0], frame[HEADER_SIZE + 10 :])  # goes nowhere: the place is the other's
    assert b.received == 0
    move(a, b, rail=1)
    assert b.received == 1
    assert whole([place])


def test_what_is_kept_is_given_up_when_another_rail_brings_it():
    a, b = two_rails(1)
    frame = b"".join(bytes(part) for part in a.rails[0].gather(0.0))
    a.rails[0].wrote(len(frame))
    assert read(b.rails[0], frame[: HEADER_SIZE + 10], now=0.0) == HEADER_SIZE
    read(b.rails[0], frame[HEADER_SIZE : HEADER_SIZE + 10], now=1.0)
    assert b._stashed == 40
    places = awaiting(b, 2)
    a.requeue(a.rails[0], [0])
    move(a, b, rail=1)
    assert b.received == 1
    read(b.rails[0], b"\xee" * 30, now=1.0)  # the buffer is the caller's again, and was changed
    assert (b.received, b._stashed, b._early) == (1, 0, {})
    assert whole(places[:1])
    assert not any(places[1])


def test_a_place_is_left_alone_once_its_message_was_delivered():
    a, b = two_rails(1)
    frame = b"".join(bytes(part) for part in a.rails[0].gather(0.0))
    a.rails[0].wrote(len(frame))
    a.requeue(a.rails[0], [0])
    other = b"".join(bytes(part) for part in a.rails[1].gather(0.0))
    a.rails[1].wrote(len(other))
    assert read(b.rails[1], other[: HEADER_SIZE + 10], now=0.0) == HEADER_SIZE
    read(b.rails[1], other[HEADER_SIZE : HEADER_SIZE + 10], now=1.0)  # kept
    (place,) = awaiting(b, 1)
    read(b.rails[0], frame[: HEADER_SIZE + 10], now=1.0)  # straight into its place
    read(b.rails[1], other[HEADER_SIZE + 10 :], now=1.0)
    read(b.rails[0], frame[HEADER_SIZE + 10 :], now=1.0)
    assert b.received == 1
    assert whole([place])
    assert (b._stashed, b._early) == (0, {})


def test_a_message_that_was_lent_and_taken_back_is_not_lost_with_its_rail():
    a, b = two_rails(1)
    (place,) = awaiting(b, 1)
    frame = b"".join(bytes(part) for part in a.rails[0].gather(0.0))
    a.rails[0].wrote(len(frame))
    a.requeue(a.rails[0], [0])
    move(a, b, HEADER_SIZE + 20, rail=1)
    read(b.rails[0], frame[: HEADER_SIZE + 5])
    cut(a, b, rail=0)
    move(a, b, rail=1)
    assert b.received == 1
    assert whole([place])


def test_what_is_taken_from_what_was_kept_is_acknowledged():
    a, b = two_rails(1)
    assert move(a, b, rail=0) == HEADER_SIZE
    move(a, b, now=1.0, rail=0)
    move(b, a, now=1.0, rail=0)
    assert a.acknowledged == 0
    (place,) = awaiting(b, 1)
    assert whole([place])
    move(b, a, now=1.0, rail=0)
    assert a.acknowledged == 1


def test_what_stands_before_a_missing_message_is_read_ahead():
    """The missing one is sent again behind it, on the only rail that is left."""
    a, b = two_rails(3)
    places = awaiting(b, 1)
    a.rails[0].wrote(sum(map(len, a.rails[0].gather(0.0))))  # the first message is lost
    move(a, b, rail=1)
    cut(a, b, rail=0)
    assert b.received == 0
    assert move(a, b, now=0.05, rail=1) == 0  # a moment's patience
    assert move(a, b, now=1.2, rail=1) > 0
    assert b.received == 1
    places += awaiting(b, 2)
    assert b.received == 2  # the second was read ahead; the third stands in the connection
    move(a, b, now=1.2, rail=1)
    assert whole(places)
    assert b._stashed == 0


def test_a_rail_that_comes_back_carries_one_message_at_a_time_at_first():
    a, b = two_rails(0)
    for link in (a, b):
        link.rails[1].detach()
    join(a, b, rail=1)
    for number in range(3):
        a.send(message(number))
    awaiting(b, 3)
    assert move(a, b, rail=1) == HEADER_SIZE + 40
    move(b, a, rail=1)
    assert move(a, b, rail=1) == HEADER_SIZE + 40


def test_leaving_waits_for_what_other_rails_bring():
    a, b = two_rails(1)
    places = awaiting(b, 1)
    held = b"".join(bytes(part) for part in a.rails[0].gather(0.0))
    a.rails[0].wrote(len(held))
    a.leave()
    move(a, b, rail=1)
    assert not b.left
    read(b.rails[0], held)
    assert b.left
    assert whole(places)


def test_knobs_that_cannot_work_are_refused():
    for bad in (
        {"rails": 0},
        {"window": 1 << 19},
        {"patience": 5.0},
        {"heartbeat": 3.0},
        {"checksum": "md5"},
    ):
        with pytest.raises(UsageError):
            LinkConfig(**bad)


@pytest.mark.parametrize("name", ["fold", "crc32c"])
def test_checksums_tell_a_changed_byte(name):
    value = checksum(name)
    data = bytearray(range(256)) * 300
    before = value(memoryview(data))
    data[1234] ^= 4
    assert value(memoryview(data)) != before
    if name == "crc32c":
        assert value(memoryview(b"123456789")) == 0xE3069283
