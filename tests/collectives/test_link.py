"""The link's state machine: whatever breaks, every message is delivered once, whole, in order."""

from dataclasses import replace

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
from holdfast.collectives.links.pace import Pace
from holdfast.collectives.links.passage import Flight
from holdfast.errors import CollectiveMismatch, ProtocolError, UsageError

CONFIG = LinkConfig(
    segment=64, copy_limit=8, window=128, heartbeat=1.0, silence=4.0, patience=0.4, checksum="fold"
)


def pair(rails=1, config=CONFIG):
    return Link(0, 1, 7, config, rails), Link(1, 0, 7, config, rails)


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


def scramble(buffer):
    """Change every byte of a buffer, as its owner may who has it back; 0xAA is never sent."""
    buffer[:] = b"\xaa" * len(buffer)


def scrambled(buffer):
    return all(byte == 0xAA for byte in buffer)


class Broken(RuleBasedStateMachine):
    """Two ends and rails between them, which carry some bytes, hold them up and break at any.

    What one end has written and the other not read is in flight. A connection ends at its two ends
    at different times: what was on its way to the end that is gone is lost, the other may still
    read what was on its way there. A buffer changes as soon as it is its owner's again.
    """

    @initialize(rails=st.integers(1, 3), checksum=st.sampled_from(["none", "fold"]))
    def build(self, rails, checksum):
        self.ends = pair(rails, replace(CONFIG, checksum=checksum))
        self.flights = [[bytearray(), bytearray()] for _ in range(rails)]
        self.sent = ([], [])  # what is to come, and the buffers that were sent
        self.buffers = ([], [])
        self.awaited = ([], [])
        self.delivered = [0, 0]
        self.now = 0.0
        self.number = 0

    def rail(self, number):
        return number % len(self.flights)

    @rule(side=st.integers(0, 1), size=st.integers(0, 64))
    def send(self, side, size):
        self.number += 1
        message = bytearray((self.number * 7 + i) % 170 for i in range(size))
        self.sent[side].append(bytes(message))
        self.buffers[side].append(message)
        self.ends[side].send(memoryview(message), size)
        if size <= CONFIG.copy_limit:
            scramble(message)

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
        """One end has noticed that the connection is gone; the other is told by the next one."""
        rail = self.rail(number)
        standing = [end.rails[rail].attached for end in self.ends]
        if not all(standing):
            for side in (0, 1):
                if standing[side]:
                    self.end(rail, side)
            self.flights[rail] = [bytearray(), bytearray()]
            join(*self.ends, self.now, rail)

    @rule(number=st.integers(0, 2), side=st.integers(0, 1))
    def cut(self, number, side):
        rail = self.rail(number)
        if self.ends[side].rails[rail].attached:
            self.end(rail, side)

    def end(self, rail, side):
        self.ends[side].rails[rail].detach()
        self.flights[rail][1 - side].clear()

    @rule(number=st.integers(0, 2), side=st.integers(0, 1), most=st.integers(1, 200))
    def write(self, number, side, most):
        rail = self.rail(number)
        sender = self.ends[side].rails[rail]
        while most and (buffers := sender.gather(self.now)):
            data = b"".join(bytes(b) for b in buffers)[:most]
            if self.ends[1 - side].rails[rail].attached:
                self.flights[rail][side] += data
            sender.wrote(len(data))
            most -= len(data)

    @rule(number=st.integers(0, 2), side=st.integers(0, 1), most=st.integers(1, 200))
    def arrive(self, number, side, most):
        rail = self.rail(number)
        flight = self.flights[rail][side]
        taken = read(self.ends[1 - side].rails[rail], bytes(flight[:most]), self.now)
        del flight[:taken]

    @rule(side=st.integers(0, 1), on=st.booleans())
    def flush(self, side, on):
        self.ends[side].flushing = on

    @rule(number=st.integers(0, 2), side=st.integers(0, 1))
    def observe(self, number, side):
        rail = self.rail(number)
        if self.ends[side].rails[rail].attached:
            stuck = bool(self.flights[rail][side]) or not self.ends[1 - side].rails[rail].attached
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
            sent, awaited = self.sent[1 - side], self.awaited[side]
            assert self.delivered[side] <= end.received <= len(awaited) <= len(sent)
            for place in range(self.delivered[side], end.received):
                assert awaited[place] == sent[place]
                scramble(awaited[place])
            self.delivered[side] = end.received
            assert all(map(scrambled, awaited[: end.received]))
            for message in self.buffers[side][: end.acknowledged]:
                scramble(message)

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
                    self.delivered_once_whole_and_in_order()
            if all(self.done(side) for side in (0, 1)):
                break
        for side in (0, 1):
            assert self.delivered[side] == len(self.sent[1 - side])
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
        (header(number=1 << 16), "message 0 was expected"),
        (header(received=5), "says it has 5"),
        (header(kind=9), "kind 9"),
        (header(kind=Kind.ACK, length=4), "kind 2, number 0, length 4"),
        (header(kind=Kind.ACK, number=5, length=0), "kind 2, number 5, length 0"),
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


def test_who_leaves_at_once_says_how_many_messages_are_on_their_way():
    a, b = pair()
    join(a, b)
    for number in range(20):
        a.send(message(number))
    places = awaiting(b, 20)
    a.rails[0].gather(0.0)  # the first is on its way, the others never will be
    a.leave(at_once=True)
    told = Header.parse(a.rails[0].gather(0.0)[-1])
    assert (told.kind, told.number) == (Kind.LEAVE, 1)
    move(a, b)
    assert whole(places[:1])
    assert not any(map(any, places[1:]))
    assert (b.received, b.left) == (1, True)
    late, _ = pair()
    join(late, pair()[1])
    read(late.rails[0], header(kind=Kind.LEAVE, number=2, length=0))
    assert not late.left  # two are on their way yet
    late.rails[0].detach()
    assert late.left


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
    assert a.rails[1].pace.rate == pytest.approx(
        3 * 40 / 0.01, rel=0.1
    )  # a window of three at a time


def test_a_rail_that_was_slow_and_is_idle_is_tried_again():
    a, b = two_rails(0)
    a.rails[0].pace.rate, a.rails[1].pace.rate = 10_000.0, 100.0
    for second in range(20):
        a.rails[1].silent(float(second))
        a.send(message(second))
        awaiting(b, 1)
        a.rails[1].gather(float(second))
        if a.rails[1].load:
            break
        move(a, b, rail=0, now=float(second))
        move(b, a, rail=0, now=float(second))
    assert 3 < second < 12  # the slower it was, the later
    assert a.rails[1].pace.rate <= a.rails[0].pace.rate


def test_what_an_old_rate_was_taken_for_does_not_count_when_it_is_measured_anew():
    pace = Pace()
    for second in range(3):
        pace.measure(100, second, second + 0.5)
    assert pace.rate == pytest.approx(200.0)
    pace.age(3.0, 1e6)
    assert pace.rate == pytest.approx(200.0)
    pace.age(3.5, 1e6)
    assert pace.rate == pytest.approx(400.0)
    pace.age(3.9, 1e6)
    assert pace.rate == pytest.approx(400.0)
    pace.age(10.0, 1000.0)
    assert pace.rate == pytest.approx(1000.0)
    pace.measure(10, 10.0, 11.0)
    assert pace.rate == pytest.approx(10.0)
    pace.measure(30, 11.0, 12.0)
    assert pace.rate == pytest.approx(20.0)


def test_a_rate_does_not_grow_old_under_a_large_message():
    a, _ = two_rails(1)
    a.rails[0].gather(0.0)
    a.rails[0].pace.rate, a.rails[1].pace.rate = 100.0, 10_000.0
    a.rails[0].silent(3.0)
    assert a.rails[0].pace.rate == 100.0
    cut(a, rail=0)
    a.rails[0].pace.rate = 100.0
    a.rails[0].attach(0, 3.0)
    a.rails[0].silent(6.0)
    assert a.rails[0].pace.rate > 100.0


def test_a_slow_rail_takes_no_message_that_another_brings_sooner():
    a, b = two_rails(0)
    a.rails[0].pace.rate, a.rails[1].pace.rate = 10_000.0, 1_000.0
    for number in range(20):
        a.send(message(number))
    awaiting(b, 20)
    assert a.rails[1].gather(0.0)  # the fast one has enough to do meanwhile
    a, b = two_rails(0)
    a.rails[0].pace.rate, a.rails[1].pace.rate = 10_000.0, 1_000.0
    for number in range(3):
        a.send(message(number))
    assert not a.rails[1].gather(0.0)
    assert a.rails[0].gather(0.0)


def looked(rail, round_trip, now=0.0):
    """Let the kernel say of a rail that all is well."""
    rail.observe(now, Flight(False, 1, round_trip, round_trip))


def small(a, b, count, size=8):
    for _ in range(count):
        a.send(memoryview(bytes(size)))
    return awaiting(b, count, size)


@pytest.mark.parametrize("quick", [0, 1])
def test_small_messages_take_the_rail_with_the_least_round_trip(quick):
    a, b = two_rails(0)
    small(a, b, 1)
    assert move(a, b, rail=1)  # nothing is known: whichever is asked
    looked(a.rails[1 - quick], 0.2)
    looked(a.rails[quick], 0.001)
    small(a, b, 5)
    assert not move(a, b, rail=1 - quick)
    assert move(a, b, rail=quick) == 5 * (HEADER_SIZE + 8)
    assert b.received == 6


def test_small_messages_are_content_with_a_rail_that_is_hardly_slower():
    a, b = two_rails(0)
    looked(a.rails[0], 0.0004)
    looked(a.rails[1], 0.0001)
    small(a, b, 1)
    assert move(a, b, rail=0)


@pytest.mark.parametrize("trouble", ["suspected", "cut", "coming back", "long queue"])
def test_small_messages_do_not_wait_for_the_quickest_rail(trouble):
    a, b = two_rails(0)
    looked(a.rails[0], 0.001)
    looked(a.rails[1], 0.2)
    a.send(message(0))
    awaiting(b, 1)
    late = b"".join(map(bytes, a.rails[0].gather(0.0)))
    a.rails[0].wrote(len(late))
    if trouble == "suspected":
        stuck(a.rails[0], until=1.0)
        move(a, b, rail=1)
    elif trouble == "long queue":
        a.rails[0].pace.rate = 10.0  # 40 bytes are on their way
    else:
        cut(a, b, rail=0)
        move(a, b, rail=1)
        if trouble == "coming back":
            join(a, b, rail=0)
            a.send(message(1))
            a.rails[0].wrote(len(b"".join(map(bytes, a.rails[0].gather(0.0)))))
            assert not a.rails[0].open
    small(a, b, 1)
    assert any(len(buffer) == 8 for buffer in a.rails[1].gather(1.0))


def stuck(rail, until, start=0.0):
    """Let the kernel say, again and again, that nothing gets through."""
    for now in (start, until):
        rail.observe(now, Flight(True, 9, 0.001, 0.001))


@pytest.mark.parametrize(("rails", "most"), [(1, 5), (2, 3), (3, 2)])
def test_small_messages_are_acknowledged_before_they_fill_the_window(rails, most):
    """The window is 128 bytes; all rails together owe a quarter of it at most, and a message."""
    a, b = pair(rails)
    for rail in range(rails):
        join(a, b, rail=rail)
    small(a, b, 40)
    for rail in range(1, rails):
        a.rails[rail].suspected = True
    for sent in range(1, most + 1):
        assert not b.rails[0].gather(0.0)
        move(a, b, HEADER_SIZE + 8, rail=0)
        assert b.received == sent
    assert b.rails[0].gather(0.0)
    b.rails[0].wrote(HEADER_SIZE)


def test_small_messages_wait_for_no_room():
    """They are acknowledged now and then only."""
    a, b = two_rails(0)
    a.rails[0].pace.rate = a.rails[1].pace.rate = 1.0
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
            a.rails[rail].pace.rate = rates[rail]
        a.send(message(0))
        assert any(rail.gather(0.0) for rail in a.rails)


def test_one_rail_has_a_window_and_no_other_bounds():
    a, b = pair()
    join(a, b)
    awaiting(b, 20)
    for number in range(20):
        a.send(message(number))
    while move(a, b):
        assert a._outstanding == 120 or b.received == 20
        move(b, a)
    assert b.received == 20


def test_who_wants_back_what_it_lent_takes_what_stands_before_the_acknowledgement():
    a, b = pair()
    join(a, b)
    for link in (a, b):
        link.send(message(0))
    places = awaiting(b, 1)
    assert move(b, a, HEADER_SIZE + 40) == HEADER_SIZE  # its place is not known yet
    move(a, b)
    move(b, a)
    assert whole(places)
    assert not a.flushed
    a.flushing = True
    move(b, a)
    assert a.flushed
    assert whole(awaiting(a, 1))


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


def test_a_rail_that_moves_again_is_trusted_when_the_peer_has_all_that_it_carried():
    """TCP sends again slowly what was lost: a message put behind that would wait long."""
    a, b = two_rails(2)
    awaiting(b, 4)
    late = b"".join(map(bytes, a.rails[0].gather(0.0)))
    a.rails[0].wrote(len(late))
    stuck(a.rails[0], until=0.5)
    a.rails[0].observe(0.6, Flight(True, 20, 0.001, 0.001))
    assert a.rails[0].suspected
    a.send(message(2))
    assert not move(a, b, rail=0)
    move(a, b, rail=1)
    assert b.received == 3
    read(b.rails[0], late)
    move(b, a, rail=0)
    a.rails[0].observe(0.7, Flight(True, 30, 0.001, 0.001))  # a heartbeat is under way
    assert not a.rails[0].suspected


def test_an_outage_is_not_taken_for_a_round_trip():
    """Where only acknowledgements are lost, what the kernel measures then is the outage."""
    a, _ = two_rails(2)
    a.rails[0].gather(0.0)
    for turn in range(9):
        a.rails[0].observe(turn * 0.25, Flight(True, 9, 0.5, 0.00001))
        assert a.rails[0].suspected == (turn > 4)  # after two of them


def test_a_rail_is_not_suspected_for_the_time_before_it_was_used():
    a, _ = two_rails(1)
    a.rails[0].observe(0.0, Flight(False, 9, 0.001, 0.001))
    a.rails[0].gather(100.0)
    a.rails[0].observe(100.1, Flight(True, 9, 0.001, 0.001))
    assert not a.rails[0].suspected
    a.rails[0].observe(100.5, Flight(True, 9, 0.001, 0.001))
    assert a.rails[0].suspected


def test_an_acknowledgement_that_a_rail_has_lost_goes_over_another():
    """It carries no message of ours: only its acknowledgements are not acknowledged."""
    a, b = two_rails(1)
    awaiting(b, 1)
    move(a, b, rail=0)
    lost = b"".join(map(bytes, b.rails[0].gather(0.0)))
    b.rails[0].wrote(len(lost))
    assert b.rails[0].busy  # so that somebody looks
    assert not b.rails[1].gather(0.1)
    stuck(b.rails[0], until=0.5)
    assert b.rails[0].suspected
    assert not b.rails[0].gather(0.5)
    move(b, a, now=0.5, rail=1)
    assert a.acknowledged == 1


def test_what_still_comes_over_a_suspected_rail_is_acknowledged_over_another():
    """One way only is broken: the peer does not know yet."""
    a, b = two_rails(0)
    b.rails[0].silent(1.0)
    b.rails[0].wrote(len(b"".join(map(bytes, b.rails[0].gather(1.0)))))  # a heartbeat is lost
    stuck(b.rails[0], until=2.0, start=1.0)
    move(b, a, rail=1)
    a.send(message(0))
    awaiting(b, 1)
    move(a, b, rail=0)
    assert b.received == 1
    move(b, a, rail=1)
    assert a.acknowledged == 1


def test_what_a_suspected_rail_took_when_it_was_alone_is_lent_when_it_is_not():
    a, b = two_rails(1)
    awaiting(b, 2)
    a.rails[0].wrote(len(b"".join(map(bytes, a.rails[0].gather(0.0)))))
    stuck(a.rails[0], until=0.5)
    cut(a, b, rail=1)
    a.send(message(1))
    a.rails[0].wrote(len(b"".join(map(bytes, a.rails[0].gather(0.6)))))  # all of it is lost
    join(a, b, rail=1, now=0.7)
    a.rails[0].observe(0.8, Flight(True, 9, 0.001, 0.001))
    assert a.rails[0].suspected
    for _ in range(3):  # one at a time: the other has come back
        move(a, b, now=0.8, rail=1)
        move(b, a, now=0.8, rail=1)
    assert b.received == 2


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
    a.requeue([0])
    move(a, b, HEADER_SIZE + 20, rail=1)
    assert not b.rails[0].gather(0.0)
    read(b.rails[0], frame[HEADER_SIZE + 10 :])  # goes nowhere: the place is the other's
    assert b.received == 0
    assert a.rails[0].load == 40
    move(b, a, rail=0)
    assert a.rails[0].load == 0  # the peer has read it, wherever it went
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
    a.requeue([0])
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
    a.requeue([0])
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
    a.requeue([0])
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


def test_patience_is_not_begun_anew_by_each_message_that_is_kept():
    a, b = two_rails(4)
    move(a, b, rail=1)
    assert move(a, b, now=0.05, rail=1) == 0
    a.rails[0].wrote(sum(map(len, a.rails[0].gather(0.0))))  # another is lost
    assert move(a, b, now=1.2, rail=1) >= 40 + HEADER_SIZE + 40  # both at once, at last
    assert b._stashed == 80
    places = awaiting(b, 2)  # all that is kept has its place: whoever waits from now on is patient
    assert whole(places)
    move(b, a, now=1.2, rail=1)
    cut(a, b, rail=0)
    assert move(a, b, now=1.2, rail=1) == HEADER_SIZE
    assert move(a, b, now=1.25, rail=1) == 0
    assert move(a, b, now=1.5, rail=1) >= 40


def test_what_a_connection_has_brought_is_known_by_rail():
    a, b = two_rails(1)
    awaiting(b, 1)
    move(a, b, rail=0)
    assert (b.rails[0].brought, b.rails[1].brought) == (40, 0)
    move(b, a, rail=0)
    assert (a.rails[0].brought, a.rails[1].brought) == (1, 0)
    cut(a, b, rail=0)
    assert a.rails[0].brought == 1
    join(a, b, rail=0)
    assert (a.rails[0].brought, b.rails[0].brought) == (0, 0)


def test_an_empty_message_whose_checksum_is_wrong_is_found_when_it_gets_its_place():
    a, b = pair()
    join(a, b)
    read(a.rails[0], bytes(Header(Kind.DATA, 0, 7, 0, 0, 0, 0, 1).pack()))
    a.expect(memoryview(bytearray()))
    with pytest.raises(CorruptFrame):
        a.rails[0].wanted(0.0)


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


def test_a_rail_that_comes_back_goes_on_though_an_earlier_message_is_missing():
    a, b = two_rails(0)
    for link in (a, b):
        link.rails[1].detach()
    join(a, b, rail=1)
    for number in range(3):
        a.send(message(number))
    awaiting(b, 3)
    assert a.rails[0].gather(0.0)  # the first, which is not there yet
    assert move(a, b, rail=1) == HEADER_SIZE + 40
    move(b, a, rail=1)
    assert a.acknowledged == 0
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
