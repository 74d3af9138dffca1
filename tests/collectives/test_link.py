"""The link's state machine: whatever breaks, every message is delivered once, whole, in order."""

import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.collectives.checksum import FOLD_FROM, checksum
from holdfast.collectives.link import HEADER, CorruptFrame, Kind, Link, LinkConfig
from holdfast.errors import CollectiveMismatch, ProtocolError

CONFIG = LinkConfig(copy_limit=8, heartbeat=1.0, silence=4.0)


def pair():
    return Link(0, 1, 7, CONFIG), Link(1, 0, 7, CONFIG)


def join(a, b, now=0.0):
    a.attach(b.received, now)
    b.attach(a.received, now)


def move(source, target, most=1 << 30, now=0.0):
    """Carry at most `most` bytes from one end to the other; return how many."""
    moved = 0
    while moved < most and (buffers := source.gather(now)):
        data = b"".join(bytes(b) for b in buffers)[: most - moved]
        taken = 0
        while taken < len(data):
            into = target.wanted()
            if into is None:
                break
            count = min(len(into), len(data) - taken)
            into[:count] = data[taken : taken + count]
            target.filled(count, now)
            taken += count
        source.wrote(taken)
        moved += taken
        if taken < len(data):
            break
    return moved


class Broken(RuleBasedStateMachine):
    """Two ends, a connection between them that carries some bytes and breaks at any of them."""

    def __init__(self):
        super().__init__()
        self.ends = pair()
        self.sent = ([], [])
        self.awaited = ([], [])
        self.now = 0.0
        self.number = 0

    @rule(side=st.integers(0, 1), size=st.integers(0, 40))
    def send(self, side, size):
        self.number += 1
        message = bytearray((self.number * 7 + i) % 251 for i in range(size))
        self.sent[side].append(message)
        self.ends[side].send(memoryview(message))

    @precondition(lambda self: any(len(self.awaited[1 - s]) < len(self.sent[s]) for s in (0, 1)))
    @rule(side=st.integers(0, 1))
    def expect(self, side):
        sent = self.sent[1 - side]
        place = len(self.awaited[side])
        if place < len(sent):
            into = bytearray(len(sent[place]))
            assert self.ends[side].expect(memoryview(into)) == place
            self.awaited[side].append(into)

    @precondition(lambda self: not self.ends[0].attached)
    @rule()
    def connect(self):
        join(*self.ends, self.now)

    @precondition(lambda self: self.ends[0].attached)
    @rule()
    def cut(self):
        for end in self.ends:
            end.detach()

    @precondition(lambda self: self.ends[0].attached)
    @rule(side=st.integers(0, 1), most=st.integers(1, 120))
    def carry(self, side, most):
        move(self.ends[side], self.ends[1 - side], most, self.now)

    @rule(seconds=st.floats(0.1, 1.5))
    def wait(self, seconds):
        self.now += seconds
        for end in self.ends:
            end.silent(self.now)

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

    def teardown(self):
        """Whatever has happened, a connection that holds brings everything across."""
        for side in (0, 1):
            for _ in range(len(self.sent[1 - side]) - len(self.awaited[side])):
                self.expect(side)
        if not self.ends[0].attached:
            self.connect()
        while sum(move(self.ends[s], self.ends[1 - s], now=self.now) for s in (0, 1)):
            pass
        for side in (0, 1):
            assert self.awaited[side] == self.sent[1 - side]
            assert self.ends[side].flushed
            assert self.ends[side].numbered - self.ends[side].acknowledged < 40


TestBroken = Broken.TestCase
TestBroken.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


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
    move(a, b, 2 * (HEADER.size + 20) + HEADER.size + 5)  # two and a bit
    assert b.received == 2
    a.detach()
    b.detach()
    join(a, b)
    assert a.acknowledged == 2
    move(a, b)
    assert got == [bytes([i]) * 20 for i in range(4)]
    assert a.resent == 2  # the third, which broke off, and the fourth, which was committed


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
    assert move(a, b) == HEADER.size
    assert b.wanted() is None
    assert not b.silent(100.0)
    into = bytearray(3)
    b.expect(memoryview(into))
    move(a, b)
    assert into == b"123"


def test_heartbeats_keep_a_quiet_link_and_their_absence_ends_it():
    a, b = pair()
    join(a, b)
    for second in range(1, 20):
        assert not a.silent(float(second))
        assert not b.silent(float(second))
        assert move(a, b, now=float(second)) == HEADER.size
        move(b, a, now=float(second))
    assert not a.silent(23.0)
    assert a.silent(23.1)
    a.moved(23.1)
    assert not a.silent(24.0)


def header(kind=Kind.DATA, epoch=7, number=0, received=0, length=3, tag=0):
    blank = HEADER.pack(kind, tag, epoch, number, received, length, 0, 0)[:-4]
    return blank + zlib.crc32(blank).to_bytes(4, "little")


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
    while data and (into := link.wanted()) is not None:
        count = min(len(into), len(data))
        into[:count] = data[:count]
        link.filled(count, 0.0)
        data = data[count:]


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
        move(a, b, HEADER.size + most)
        seen.append(b.progress)
        a.detach()
        b.detach()
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


@given(
    st.binary(min_size=1, max_size=40_000) | st.just(bytes(70_000)), st.data(), st.integers(1, 255)
)
def test_a_changed_byte_is_never_delivered(message, data, change):
    a, b = pair()
    join(a, b)
    into = bytearray(len(message))
    b.expect(memoryview(into))
    a.send(memoryview(message))
    wire = bytearray(b"".join(a.gather(0.0)))
    place = data.draw(st.integers(0, len(wire) - 1))
    wire[place] ^= change
    with pytest.raises(CorruptFrame):
        feed(b, bytes(wire))
    assert b.received == 0
    for link in (a, b):
        link.detach()
    join(a, b)
    move(a, b, 1 << 20)
    assert into == message


@given(st.integers(0, 3 * FOLD_FROM), st.data())
def test_the_checksum_sees_every_byte(size, data):
    content = bytearray(size)
    whole = checksum(memoryview(content))
    if size:
        content[data.draw(st.integers(0, size - 1))] ^= data.draw(st.integers(1, 255))
        assert checksum(memoryview(content)) != whole
