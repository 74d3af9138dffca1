"""The relay passes bytes on, exactly, does to them what is imposed, and cuts where it is told."""

import contextlib
import gc
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

from holdfast.errors import FabricError
from holdfast.fabric.condition import CLEAR, Condition, Pair
from holdfast.fabric.relay.connection import Route, Way
from holdfast.fabric.relay.cut import Cut, CutRelay
from holdfast.fabric.relay.relay import Relay

pytestmark = pytest.mark.local

THERE, BACK = Pair("a", "b"), Pair("b", "a")
BLOCKED = Condition(blocked=True)
PATIENCE = 20.0
SILENCE = 0.15
"""Seconds for which nothing may come where nothing should."""


def seeds(few):
    """A few seeds for every run of the tests, and many for the long one."""
    many = [pytest.param(seed, marks=pytest.mark.soak) for seed in range(1000, 1060)]
    return [*range(few), *many]


@contextlib.contextmanager
def nothing_left():
    """Fail if a descriptor or a thread is left."""
    gc.collect()
    descriptors, threads = len(os.listdir("/proc/self/fd")), set(threading.enumerate())
    yield
    gc.collect()
    assert set(threading.enumerate()) <= threads
    assert len(os.listdir("/proc/self/fd")) == descriptors


class Bench:
    """A relay in front of a listener, and connections that pass it."""

    def __init__(self, stack):
        self.stack = stack
        self.listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=500))
        self.listener.settimeout(PATIENCE)
        self.relay = stack.enter_context(Relay(seed=1))
        self.address = self.listen()

    def listen(self, there=THERE, back=BACK):
        route = Route(self.listener.getsockname(), Way((there,)), Way((back,)), None, "a", "b")
        return self.relay.listen(("127.0.0.1", 0), lambda dialler: route)

    def impose(self, there=CLEAR, back=CLEAR):
        self.relay.impose({THERE: there, BACK: back})

    def dial(self, address=None):
        return self.own(socket.create_connection(address or self.address, PATIENCE))

    def accept(self):
        return self.own(self.listener.accept()[0])

    def own(self, sock):
        sock.settimeout(PATIENCE)
        return self.stack.enter_context(sock)

    def connect(self, address=None):
        """Return both ends of a new connection."""
        return self.dial(address), self.accept()

    def await_connections(self, count):
        until(lambda: self.relay.connections == count)


@pytest.fixture
def bench():
    with nothing_left(), contextlib.ExitStack() as stack:
        yield Bench(stack)


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def exactly(sock, count):
    data = b""
    while len(data) < count and (part := sock.recv(count - len(data))):
        data += part
    return data


def silent(sock):
    """Return whether nothing comes, neither bytes nor an end nor an error."""
    return not select.select([sock], [], [], SILENCE)[0]


def reset(sock):
    """Close a socket as a process that is killed with unread bytes does."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def in_background(call, *args):
    thread = threading.Thread(target=call, args=args, daemon=True)
    thread.start()
    return thread


# Nothing in force


def test_bytes_pass_both_ways_and_are_counted(bench):
    a, b = bench.connect()
    sent = os.urandom(3_000_000)
    for one, other in ((a, b), (b, a)):
        writer = in_background(one.sendall, sent)
        assert exactly(other, len(sent)) == sent
        writer.join(PATIENCE)
    assert bench.relay.passed() == {THERE: len(sent), BACK: len(sent)}


def test_one_stream_may_end_before_the_other(bench):
    a, b = bench.connect()
    a.sendall(b"question")
    a.shutdown(socket.SHUT_WR)
    assert exactly(b, 100) == b"question"
    b.sendall(b"answer")
    b.close()
    assert exactly(a, 100) == b"answer"
    bench.await_connections(0)


def test_a_reset_of_one_end_reaches_the_other(bench):
    a, b = bench.connect()
    reset(a)
    with pytest.raises(ConnectionResetError):
        b.recv(1)
    bench.await_connections(0)


def test_an_end_that_closed_while_the_other_goes_on_writing_resets_it(bench):
    a, b = bench.connect()
    a.close()
    assert b.recv(1) == b""
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        b.sendall(bytes(1 << 26))
    bench.await_connections(0)


def test_a_listener_that_is_gone_resets_who_dials(bench):
    bench.listener.close()
    with pytest.raises(ConnectionResetError):  # already connecting may raise it
        bench.dial().recv(1)
    bench.await_connections(0)


def test_a_reader_that_is_slow_holds_the_writer_up(bench):
    """What is on the way stays within bounds, and all of it comes in the end."""
    a, b = bench.connect()
    a.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < 1 << 30:
            sent += a.send(bytes(1 << 20))
            select.select([], [a], [], SILENCE)
    assert sent < 1 << 28
    a.close()
    buffer, got = bytearray(1 << 20), 0
    while count := b.recv_into(buffer):
        got += count
    assert got == sent


def test_many_connections_at_once(bench):
    count = 150
    message = os.urandom(50_000)
    diallers = [bench.dial() for _ in range(count)]
    accepted = [bench.accept() for _ in range(count)]
    bench.await_connections(count)

    def echo():
        for sock in accepted:
            sock.sendall(exactly(sock, len(message)))

    writer = in_background(lambda: [sock.sendall(message) for sock in diallers])
    echoer = in_background(echo)
    for sock in diallers:
        assert exactly(sock, len(message)) == message
        sock.close()
    writer.join(PATIENCE)
    echoer.join(PATIENCE)
    for sock in accepted:
        sock.close()
    bench.await_connections(0)


# Who may connect


def test_a_connection_without_a_route_is_reset_and_counted(bench):
    address = bench.relay.listen(("127.0.0.1", 0), lambda dialler: None)
    with pytest.raises(ConnectionResetError):
        bench.dial(address).recv(1)
    assert bench.relay.refused == 1
    a, b = bench.connect()
    a.sendall(b"still here")
    assert exactly(b, 10) == b"still here"


def test_an_admission_that_fails_is_a_refusal(bench, caplog):
    def admit(dialler):
        raise ZeroDivisionError

    address = bench.relay.listen(("127.0.0.1", 0), admit)
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            bench.dial(address).recv(1)
    assert bench.relay.refused == 2
    assert "cannot be told" in caplog.text


def test_an_address_in_use_is_named(bench):
    taken = bench.listener.getsockname()
    with pytest.raises(FabricError, match=rf"cannot listen at 127\.0\.0\.1:{taken[1]}"):
        bench.relay.listen(taken, lambda dialler: None)


FEW_DESCRIPTORS = """
import resource, sys
from holdfast.fabric.relay.relay import Relay
from holdfast.fabric.relay.connection import Route
resource.setrlimit(resource.RLIMIT_NOFILE, (30, 30))
with Relay() as relay:
    address = relay.listen(("127.0.0.1", 0), lambda dialler: Route(("127.0.0.1", int(sys.argv[1]))))
    print(address[1], flush=True)
    sys.stdin.read()
"""


def test_a_relay_without_descriptors_left_recovers(bench):
    port = bench.listener.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-c", FEW_DESCRIPTORS, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        address = ("127.0.0.1", int(child.stdout.readline()))
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                with contextlib.suppress(ConnectionResetError):
                    stack.enter_context(socket.create_connection(address, PATIENCE))
            assert b"raise ulimit -n" in child.stderr.readline()
        a = bench.dial(address)
        a.sendall(b"x")
        found = b""
        while not found:  # the first ones are those that were given up
            with bench.accept() as b, contextlib.suppress(ConnectionResetError):
                found = b.recv(1)
    finally:
        child.kill()
        child.communicate()


# Conditions


def test_a_blocked_path_is_silent_and_goes_on_by_itself(bench):
    a, b = bench.connect()
    bench.impose(BLOCKED, BLOCKED)
    a.sendall(b"to b")
    b.sendall(b"to a")
    b.shutdown(socket.SHUT_WR)
    assert silent(a)
    assert silent(b)
    bench.impose()
    assert exactly(b, 4) == b"to b"
    assert exactly(a, 100) == b"to a"


def test_a_path_blocked_one_way_is_free_the_other(bench):
    a, b = bench.connect()
    bench.impose(there=BLOCKED)
    b.sendall(b"through")
    assert exactly(a, 7) == b"through"
    a.sendall(b"not through")
    a.close()
    assert silent(b)
    bench.impose()
    assert exactly(b, 100) == b"not through"


def test_nobody_learns_of_a_reset_behind_a_blocked_path(bench):
    a, b = bench.connect()
    bench.impose(there=BLOCKED)
    reset(a)
    assert silent(b)
    bench.impose()
    with pytest.raises(ConnectionResetError):
        b.recv(1)


@pytest.mark.parametrize("way", [{"there": BLOCKED}, {"back": BLOCKED}])
def test_a_new_connection_waits_for_the_path(bench, way):
    bench.impose(**way)
    a = bench.dial()
    a.sendall(b"x")
    assert silent(bench.listener)
    bench.impose()
    assert exactly(bench.accept(), 1) == b"x"


def test_a_dialler_that_gives_up_on_a_blocked_path_was_never_there(bench):
    bench.impose(BLOCKED, BLOCKED)
    a = bench.dial()
    bench.await_connections(1)
    a.close()
    bench.await_connections(0)
    bench.impose()
    assert silent(bench.listener)


def test_nothing_passes_where_everything_is_lost(bench):
    a, b = bench.connect()
    bench.impose(Condition(loss=1.0))
    a.sendall(b"x")
    assert silent(b)


def test_bytes_take_the_latency(bench):
    a, b = bench.connect()
    bench.impose(Condition(latency=0.06, jitter=0.01), Condition(latency=0.03))
    began = time.monotonic()
    a.sendall(b"x")
    b.sendall(exactly(b, 1))
    exactly(a, 1)
    assert time.monotonic() - began >= 0.09


def test_connecting_and_ending_take_the_latency_too(bench):
    bench.impose(Condition(latency=0.05), Condition(latency=0.03))
    began = time.monotonic()
    a, b = bench.connect()
    assert time.monotonic() - began >= 0.08
    began = time.monotonic()
    a.close()
    assert b.recv(1) == b""
    assert time.monotonic() - began >= 0.05


def test_a_reset_takes_the_latency_too(bench):
    a, b = bench.connect()
    bench.impose(Condition(latency=0.05))
    began = time.monotonic()
    reset(a)
    with pytest.raises(ConnectionResetError):
        b.recv(1)
    assert time.monotonic() - began >= 0.05


def test_a_latency_that_is_healed_holds_nothing_up(bench):
    a, b = bench.connect()
    bench.impose(Condition(latency=1000.0))
    a.sendall(b"x")
    a.shutdown(socket.SHUT_WR)
    assert silent(b)
    bench.impose()
    assert exactly(b, 100) == b"x"


def test_nobody_is_faster_than_the_rate(bench):
    a, b = bench.connect()
    bench.impose(Condition(rate=8e6))
    began = time.monotonic()
    writer = in_background(a.sendall, bytes(300_000))
    exactly(b, 300_000)
    assert time.monotonic() - began >= 0.29
    writer.join(PATIENCE)


@pytest.mark.parametrize("more", [CLEAR, Condition(latency=0.001)])
def test_connections_share_the_rate_of_a_place(bench, more):
    pairs = [bench.connect() for _ in range(3)]
    bench.impose(more | Condition(rate=8e6))
    began = time.monotonic()
    writers = [in_background(a.sendall, bytes(100_000)) for a, _ in pairs]
    for _, b in pairs:
        exactly(b, 100_000)
    assert time.monotonic() - began >= 0.29
    for writer in writers:
        writer.join(PATIENCE)


@pytest.mark.parametrize("more", [CLEAR, Condition(latency=0.001)])
def test_a_rate_that_is_healed_holds_nothing_up(bench, more):
    a, b = bench.connect()
    bench.impose(more | Condition(rate=10.0))  # a byte takes almost a second
    a.sendall(bytes(5000))
    assert silent(b)
    bench.impose(more)
    assert exactly(b, 5000) == bytes(5000)


@pytest.mark.parametrize(
    "condition",
    [Condition(loss=0.3), Condition(reordering=0.5, overtaken=0.001), Condition(jitter=0.01)],
)
def test_loss_reordering_and_jitter_change_no_byte(bench, condition):
    a, b = bench.connect()
    bench.impose(condition, condition)
    sent = os.urandom(20_000)
    a.sendall(sent)
    assert exactly(b, len(sent)) == sent


def test_corruption_changes_bytes_and_loses_none(bench):
    a, b = bench.connect()
    bench.impose(Condition(corruption=1.0))
    sent = os.urandom(100_000)
    a.sendall(sent)
    got = exactly(b, len(sent))
    assert len(got) == len(sent)
    assert sum(x != y for x, y in zip(sent, got, strict=True)) >= len(sent) // 1448


def any_condition(rng):
    return rng.choice(
        (
            CLEAR,
            BLOCKED,
            Condition(latency=rng.uniform(0, 0.01)),
            Condition(latency=rng.uniform(0, 0.01), jitter=0.01, reordering=0.1, overtaken=0.01),
            Condition(jitter=0.002),
            Condition(loss=0.001),
            Condition(rate=rng.uniform(2e7, 1e9)),
            Condition(rate=rng.uniform(2e7, 1e9), latency=0.005, loss=0.0001),
        )
    )


@pytest.mark.parametrize("seed", seeds(4))
def test_whatever_changes_while_bytes_flow_not_one_is_changed(bench, seed):
    rng = random.Random(seed)
    a, b = bench.connect()
    sent = {a: rng.randbytes(6_000_000), b: rng.randbytes(6_000_000)}
    got = {}

    def write(sock):
        data, draw = memoryview(sent[sock]), random.Random(seed)
        while data:
            count = draw.choice((1, 100, 10_000, 1_000_000))
            sock.sendall(data[:count])
            data = data[count:]
        sock.shutdown(socket.SHUT_WR)

    def read(sock):
        got[sock] = exactly(sock, 10_000_000)

    threads = [in_background(call, sock) for call in (write, read) for sock in (a, b)]
    for _ in range(60):
        bench.impose(any_condition(rng), any_condition(rng))
        time.sleep(rng.uniform(0, 0.02))
        if not any(thread.is_alive() for thread in threads):
            break
    bench.impose()
    for thread in threads:
        thread.join(PATIENCE)
    assert got[a] == sent[b]
    assert got[b] == sent[a]
    bench.await_connections(0)


@pytest.mark.parametrize("seed", seeds(3))
def test_whatever_ends_do_to_each_other_nothing_is_left(bench, seed):
    """Ends send, half-close, close and reset at random while conditions change and resets fall."""
    rng = random.Random(seed)
    for _ in range(25):
        pairs = [bench.connect() for _ in range(4)]
        ends = [end for pair in pairs for end in pair]
        for end in ends:
            end.setblocking(False)
        for _ in range(20):
            end = rng.choice(ends)
            with contextlib.suppress(OSError):
                match rng.randrange(8):
                    case 0:
                        end.shutdown(socket.SHUT_WR)
                    case 1:
                        reset(end)
                    case 2:
                        end.close()
                    case 3:
                        end.recv(1 << 20)
                    case 4:
                        bench.impose(any_condition(rng), any_condition(rng))
                    case _:
                        end.send(bytes(rng.choice((1, 3000, 3_000_000))))
            if rng.random() < 0.02:
                bench.relay.reset(frozenset({THERE}), rng.choice((None, "a", "b")))
        for end in ends:
            end.close()
        bench.impose()
    bench.await_connections(0)


# Resets


def test_a_reset_tells_both_ends_of_what_passes_there(bench):
    other = bench.listen(Pair("a", "c"), Pair("c", "a"))
    a, b = bench.connect()
    c, d = bench.connect(other)
    assert bench.relay.reset(frozenset({BACK})) == 1
    for end in (a, b):
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    c.sendall(b"unharmed")
    assert exactly(d, 8) == b"unharmed"
    bench.await_connections(1)


@pytest.mark.parametrize("told", ["a", "b"])
def test_a_reset_of_one_end_leaves_the_other_half_open(bench, told):
    a, b = bench.connect()
    hit, other = (a, b) if told == "a" else (b, a)
    bench.relay.reset(frozenset({THERE}), told)
    with pytest.raises(ConnectionResetError):
        hit.recv(1)
    other.sendall(b"is anybody there?")
    assert silent(other)
    other.sendall(b"no")
    other.close()
    bench.await_connections(0)


def test_a_half_open_end_that_nobody_reads_from_is_missed_when_it_closes(bench):
    """The end of its stream cannot come, as it stands behind bytes that cannot."""
    a, _ = bench.connect()
    bench.relay.reset(frozenset({THERE}), "b")
    a.setblocking(False)
    while select.select([], [a], [], SILENCE)[1]:
        a.send(bytes(1 << 20))
    a.close()
    bench.await_connections(0)


def test_a_reset_of_the_dialler_whose_connection_still_waits(bench):
    bench.impose(BLOCKED)
    a = bench.dial()
    bench.await_connections(1)
    bench.relay.reset(frozenset({THERE}), "a")
    with pytest.raises(ConnectionResetError):
        a.recv(1)
    bench.await_connections(0)


# Cuts


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
                threads.append(in_background(serve, sock))

    threads.append(in_background(accept))
    yield server.getsockname()[:2]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for thread in threads:
        thread.join(10)


def test_without_a_cut_all_passes(echo):
    sent = os.urandom(3_000_000)
    with CutRelay(echo) as relay, socket.create_connection(relay.address, timeout=20) as sock:
        writer = in_background(lambda: (sock.sendall(sent), sock.shutdown(socket.SHUT_WR)))
        assert exactly(sock, len(sent)) == sent
        assert sock.recv(1) == b""
        writer.join()
        assert relay.passed == {"up": len(sent), "down": len(sent)}


@pytest.mark.parametrize("after", [0, 1, 1000, 4999])
def test_a_reset_falls_on_the_byte_and_the_next_connection_is_whole(echo, after):
    with CutRelay(echo, (Cut(0, "down", after, "reset"),)) as relay:
        with (
            contextlib.suppress(ConnectionResetError, BrokenPipeError),
            socket.create_connection(relay.address, timeout=20) as sock,
        ):
            sock.sendall(bytes(5000))
            assert len(exactly(sock, 5000)) <= after
        until(lambda: relay.cuts_made == 1)
        assert relay.passed["down"] == after
        with socket.create_connection(relay.address, timeout=20) as sock:
            sock.sendall(b"whole")
            assert exactly(sock, 5) == b"whole"
        assert relay.cuts_made == 1


def test_a_stalled_connection_says_nothing(echo):
    with (
        CutRelay(echo, (Cut(0, "up", 10, "stall"),)) as relay,
        socket.create_connection(relay.address, timeout=20) as sock,
    ):
        sock.sendall(bytes(20))
        until(lambda: relay.cuts_made)
        assert relay.passed["up"] == 10
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            assert len(sock.recv(100)) <= 10


# Its end


def test_closing_is_complete_and_may_be_repeated():
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts in the kernel alone
        before = len(os.listdir("/proc/self/fd"))
        relay = CutRelay(server.getsockname()[:2])
        with socket.create_connection(relay.address, timeout=20) as sock:
            sock.sendall(b"x")
            until(lambda: relay.passed["up"])
            relay.close()
            relay.close()
            assert sock.recv(1) == b""
        assert len(os.listdir("/proc/self/fd")) == before


def test_nothing_can_be_asked_of_a_closed_relay():
    with nothing_left():
        relay = Relay()
        relay.close()
        with pytest.raises(FabricError, match="closed"):
            relay.impose({})
        with pytest.raises(FabricError, match="closed"):
            relay.listen(("127.0.0.1", 0), lambda dialler: None)
