"""What the kernel's network does to plain sockets."""

import contextlib
import errno
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time

import pytest

from holdfast.errors import FabricError
from holdfast.fabric.build import build
from holdfast.fabric.faults import KINDS
from holdfast.fabric.kernel.commands import ip, require
from holdfast.fabric.kernel.namespaces import RECORDS, inside
from holdfast.fabric.kernel.pipe import Pipe
from holdfast.fabric.topology import leaf_spine, star, two_rails

pytestmark = [pytest.mark.local, pytest.mark.netns]

DEADLINE = 30.0
SHORT = 0.3  # for what must not come: on a slow machine it is only noticed less


@pytest.fixture(autouse=True)
def means():
    try:
        require()
    except FabricError as error:
        pytest.skip(str(error))


class Sockets:
    """Opens sockets on a network's hosts, and closes them all."""

    def __init__(self, network):
        self._network = network
        self._stack = contextlib.ExitStack()

    def on(self, host, call):
        """Return what `call()` opens in a host's namespace."""
        (opened,) = inside([self._network.engine.hosts[host].namespace], lambda _: call())
        self._stack.callback(opened.close)
        return opened

    def address(self, host, network="data"):
        return self._network.engine.hosts[host].address(network)

    def tcp(self, a, b, near=None, far=None):
        """Return a connection from host a to host b: both ends."""
        near, far = near or self.address(a), far or self.address(b)
        listener = self.on(b, lambda: socket.create_server((far, 0)))
        listener.settimeout(DEADLINE)
        to = listener.getsockname()
        client = self.on(
            a, lambda: socket.create_connection(to, DEADLINE, source_address=(near, 0))
        )
        server, _ = listener.accept()
        self._stack.callback(server.close)
        listener.close()
        server.settimeout(DEADLINE)
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client, server

    def udp(self, a, b):
        """Return host a's and host b's end for datagrams."""

        def open_at(host):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((self.address(host), 0))
            sock.settimeout(DEADLINE)
            return sock

        near, far = self.on(a, lambda: open_at(a)), self.on(b, lambda: open_at(b))
        near.connect(far.getsockname())
        far.connect(near.getsockname())
        return near, far

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stack.close()


@pytest.fixture
def three():
    """A star of three hosts, and sockets on them."""
    with build("kernel", star(3)) as network, Sockets(network) as sockets:
        yield network, sockets


def quiet(*socks):
    """Return whether none of these has something to say: bytes, an end or an error."""
    return select.select(socks, [], [], SHORT)[0] == []


def deliver(fault, near, far, count):
    """Send datagrams 0 to count - 1 under a fault; return which came, in order."""
    with fault:
        for number in range(count):
            near.send(number.to_bytes(4, "big") + bytes(200))
            while select.select([near], [], [], 0)[0]:
                near.recv(1)
    near.send(b"done")
    came = []
    while (datagram := far.recv(1000)) != b"done":
        came.append(int.from_bytes(datagram[:4], "big"))
    return came


def stream(near, far, size, seed=0):
    """Send random bytes; return the seconds that they took, once they have come as they were."""
    sent = os.urandom(size)
    writer = threading.Thread(target=near.sendall, args=(sent,), daemon=True)
    began = time.monotonic()
    writer.start()
    came = bytearray()
    while len(came) < size:
        part = far.recv(1 << 20)
        assert part, "the stream ended early"
        came += part
    writer.join(DEADLINE)
    assert came == sent
    return time.monotonic() - began


def round_trips(near, far, count=20):
    """Return how many seconds a byte takes there and back, several times."""
    seen = []
    for _ in range(count):
        began = time.monotonic()
        near.send(b"x")
        far.send(far.recv(1))
        near.recv(1)
        seen.append(time.monotonic() - began)
    return seen


# What it is


def test_processes_run_on_their_hosts_and_reach_each_other(three):
    network, sockets = three
    host = network.engine.hosts["h1"]
    listener = sockets.on("h0", lambda: socket.create_server((sockets.address("h0"), 0)))
    listener.settimeout(DEADLINE)
    script = (
        "import socket,sys; sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)\n"
        "sock.sendall(open('/proc/net/dev', 'rb').read())"
    )
    to, port = network.engine.hosts["h0"].public(listener.getsockname()[1])
    process = host.popen([sys.executable, "-c", script, to, str(port)])
    sock, (address, _) = listener.accept()
    with sock, sock.makefile("rb") as lines:
        devices = {line.split(b":")[0].strip() for line in lines if b":" in line}
    assert process.wait(DEADLINE) == 0
    assert address == host.address() == host.public(1)[0]
    assert devices == {b"lo", b"eth0"}


def test_it_carries_out_every_kind_of_fault(three):
    network, _ = three
    assert network.engine.kinds == set(KINDS)


def test_a_killed_host_has_no_processes(three):
    network, _ = three
    process = network.engine.hosts["h1"].popen([shutil.which("sleep"), "600"])
    network.host("h1").kill()
    assert process.wait(DEADLINE) == -signal.SIGKILL


def test_control_has_addresses_of_its_own_and_survives_a_partition_of_the_data():
    with build("kernel", star(2, control=True)) as network, Sockets(network) as sockets:
        assert sockets.address("h0", "control") != sockets.address("h0")
        near, far = sockets.tcp("h0", "h1")
        here, there = sockets.tcp(
            "h0", "h1", sockets.address("h0", "control"), sockets.address("h1", "control")
        )
        with network.partition(["h0"], ["h1"]):
            near.send(b"data")
            here.send(b"control")
            assert there.recv(100) == b"control"
            assert quiet(far)
        assert far.recv(100) == b"data"
        with network.partition(["h0"], ["h1"], network="control"):
            near.send(b"data")
            here.send(b"control")
            assert far.recv(100) == b"data"
            assert quiet(there)


def test_each_rail_fails_alone():
    with build("kernel", two_rails(2)) as network, Sockets(network) as sockets:
        plan = network.engine.plan
        (a0, a1), (b0, b1) = (plan.addresses(host, "data") for host in ("h0", "h1"))
        first, second = sockets.tcp("h0", "h1", a0, b0), sockets.tcp("h0", "h1", a1, b1)
        with network.nic("h0", 1).down():
            first[0].send(b"1")
            second[0].send(b"2")
            assert first[1].recv(10) == b"1"
            assert quiet(second[1])
        assert second[1].recv(10) == b"2"
        with network.switch("s0").down():
            second[1].send(b"2")
            assert second[0].recv(10) == b"2"
        with pytest.raises(OSError, match="No route to host"):
            sockets.tcp("h0", "h1", a1, b0)
        # A pair's fault concerns all its rails.
        with network.link("h0", to="h1").down():
            first[0].send(b"1")
            second[0].send(b"2")
            assert quiet(first[1], second[1])
        assert (first[1].recv(10), second[1].recv(10)) == (b"1", b"2")


def test_connections_are_spread_over_the_spines_and_stay_where_they_are():
    """TCP sends again, which must not take it to another path: a switch hashes ports, not tries."""
    with build("kernel", leaf_spine(2, 2, 2)) as network, Sockets(network) as sockets:
        pairs = [sockets.tcp("h0", "h2") for _ in range(64)]
        waiting = {far for _, far in pairs}
        with network.switch("spine0").down():
            for near, _ in pairs:
                near.send(b"x")
            while len(waiting) == len(pairs):
                waiting -= set(select.select(waiting, [], [], DEADLINE)[0])
            until = time.monotonic() + 1.0  # several tries
            while (left := until - time.monotonic()) > 0:
                waiting -= set(select.select(waiting, [], [], left)[0])
            # Half of them on average; all but 10 have gone by now where tries change the path.
            assert 10 < len(waiting) < len(pairs)
        deadline = time.monotonic() + DEADLINE
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} connections do not go on"
            waiting -= set(select.select(waiting, [], [], 1.0)[0])


# What faults do


def test_a_pulled_cable_is_silent_and_heals(three):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    other, end = sockets.tcp("h0", "h2")
    with network.link("h1").down():
        near.send(b"1")
        far.send(b"2")
        other.send(b"3")
        assert end.recv(10) == b"3"
        assert quiet(near, far)
    assert (near.recv(10), far.recv(10)) == (b"2", b"1")


@pytest.mark.parametrize(("direction", "there", "back"), [("to", 0, 5), ("from", 5, 0)])
def test_a_drop_has_a_direction(three, direction, there, back):
    network, sockets = three
    near, far = sockets.udp("h1", "h0")
    assert len(deliver(network.link("h1").drop(direction=direction), near, far, 5)) == there
    assert len(deliver(network.link("h1").drop(direction=direction), far, near, 5)) == back
    to = network.link("h1", to="h0")
    assert len(deliver(to.drop(direction=direction), near, far, 5)) == there
    assert len(deliver(to.drop(direction=direction), far, near, 5)) == back


def test_a_bridge_sees_both_sides(three):
    network, sockets = three
    seen = {}
    for a, b in (("h0", "h1"), ("h1", "h2"), ("h0", "h2")):
        near, far = sockets.udp(a, b)
        fault = network.partition(["h0", "h1"], ["h1", "h2"])
        seen[a, b] = len(deliver(fault, near, far, 5))
    assert seen == {("h0", "h1"): 5, ("h1", "h2"): 5, ("h0", "h2"): 0}


def test_loss_and_corruption_take_their_share_of_packets(three):
    network, sockets = three
    near, far = sockets.udp("h0", "h1")
    path = network.link("h0", to="h1")
    assert 20 < len(deliver(path.loss(0.5), near, far, 200)) < 180
    assert 20 < len(deliver(path.corrupt(0.5), near, far, 200)) < 180
    assert deliver(path.corrupt(1.0), near, far, 20) == []


def test_reordered_packets_all_come(three):
    network, sockets = three
    near, far = sockets.udp("h0", "h1")
    came = deliver(network.link("h0", to="h1").reorder(0.3), near, far, 200)
    assert sorted(came) == list(range(200))
    assert came != sorted(came)


def test_a_stream_keeps_its_bytes_whatever_happens_to_its_packets(three):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    path = network.link("h0", to="h1")
    for fault in (path.loss(0.02), path.corrupt(0.02), path.reorder(0.1, latency="2ms")):
        with fault:
            stream(near, far, 1 << 20)
    with path.latency("1ms", jitter="2ms"), network.link("h1").rate("500mbit"), path.loss(0.001):
        stream(near, far, 4 << 20)


def test_latency_is_what_was_asked_for(three):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    assert statistics.median(round_trips(near, far)) < 0.02
    with network.link("h0", to="h1").latency("20ms"):
        seen = round_trips(near, far)
        assert min(seen) >= 0.04
        assert min(seen) < 0.044  # the best of them: the machine may be busy
        with network.link("h1").latency("10ms", direction="from"):
            assert min(round_trips(near, far, 5)) >= 0.05
    assert statistics.median(round_trips(near, far)) < 0.02


def test_a_topology_has_its_own_rates_and_latencies():
    topology = star(2, rate="40mbit", latency="5ms")
    with build("kernel", topology) as network, Sockets(network) as sockets:
        near, far = sockets.tcp("h0", "h1")
        assert min(round_trips(near, far, 5)) >= 0.02
        with network.link("h0").latency("5ms", direction="to"):
            assert min(round_trips(near, far, 5)) >= 0.025
        assert stream(near, far, 2 << 20) > 0.85 * (2 << 23) / 40e6


@pytest.mark.parametrize("where", [("h0",), ("h1",), ("h0", "h1")], ids=["card", "switch", "pair"])
def test_a_rate_is_kept_and_used(three, where):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    size, rate = 2 << 20, 40e6
    with network.link(*where).rate(rate):
        taken = stream(near, far, size)
    # A queue's worth may be on its way at once; a busy machine may take much longer.
    assert 0.9 * size * 8 / rate < taken < 5 * size * 8 / rate
    stream(near, far, 4 << 20)


def test_conditions_come_and_go_one_by_one(three):
    network, sockets = three
    near, far = sockets.udp("h0", "h1")
    slow = network.link("h1").latency("20ms")
    other = network.link("h2").down()
    assert deliver(network.link("h0", to="h1").loss(1.0), near, far, 5) == []
    began = time.monotonic()
    near.send(b"x")
    far.recv(10)
    assert time.monotonic() - began >= 0.02
    slow.heal()
    other.heal()
    for host in ("h0", "h1", "h2"):
        assert qdiscs(network.engine.hosts[host].namespace) == ["noqueue"]


def qdiscs(namespace):
    """Return the kinds of queues on a host's first NIC."""
    command = ["tc", "-n", namespace, "qdisc", "show", "dev", "eth0"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split()[1] for line in shown.splitlines()]


# Resets


def test_a_reset_tells_both_ends_and_nobody_else(three):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    back, end = sockets.tcp("h1", "h0")
    other = sockets.tcp("h0", "h2")
    network.link("h1", to="h0").reset()
    for sock in (near, far, back, end):
        with pytest.raises(ConnectionError):
            sock.recv(1)
    assert quiet(*other)
    network.link("h2").reset()
    for sock in other:
        with pytest.raises(ConnectionError):
            sock.recv(1)


def test_a_reset_tells_both_ends_although_nothing_gets_through(three):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    with network.link("h1").down():
        network.link("h1").reset()
        for sock in (near, far):
            with pytest.raises(ConnectionError):
                sock.recv(1)


def test_a_reset_meets_connections_that_are_being_made(three):
    network, sockets = three
    listener = sockets.on("h1", lambda: socket.create_server((sockets.address("h1"), 0)))
    near = sockets.on("h0", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    near.setblocking(False)
    with network.link("h1", to="h0").drop(direction="to"):
        assert near.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        network.link("h0", to="h1").reset()
        select.select([], [near], [], DEADLINE)
        assert near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED
    assert quiet(listener)


def test_a_reset_finds_ipv4_connections_of_ipv6_sockets(three):
    network, sockets = three
    listener = sockets.on(
        "h1", lambda: socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    )
    to = (sockets.address("h1"), listener.getsockname()[1])
    near = sockets.on("h0", lambda: socket.create_connection(to, DEADLINE))
    with listener.accept()[0] as far:
        far.settimeout(DEADLINE)
        network.link("h0", to="h1").down()
        network.link("h1", to="h0").reset()
        for sock in (near, far):
            with pytest.raises(ConnectionError):
                sock.recv(1)


def test_a_half_open_connection_stays_so_whatever_its_other_end_sends(three):
    network, sockets = three
    near, far = sockets.tcp("h0", "h1")
    other = sockets.tcp("h2", "h1")
    network.link("h0", to="h1").reset(ends="one")
    with pytest.raises(ConnectionError):
        near.recv(1)
    far.send(b"are you there?")
    assert quiet(far, *other)
    # New connections are whole, and may meet other faults.
    again, answer = sockets.tcp("h0", "h1")
    with network.link("h1").latency("1ms"):
        again.send(b"here I am")
        assert answer.recv(100) == b"here I am"
        assert quiet(far)
    far.send(b"hello?")
    assert quiet(far)
    with network.link("h0").latency("1ms"):
        network.link("h1", to="h0").reset(ends="one")
    for sock in (answer, far):
        with pytest.raises(ConnectionError):
            sock.recv(1)
    assert quiet(again)


def test_networks_stand_side_by_side():
    with contextlib.ExitStack() as stack:
        networks = [stack.enter_context(build("kernel", star(2))) for _ in range(3)]
        pairs = []
        for network in networks:
            sockets = stack.enter_context(Sockets(network))
            pairs.append(sockets.tcp("h0", "h1"))
        networks[1].link("h0").down()
        for near, _ in pairs:
            near.send(b"x")
        assert quiet(pairs[1][1])
        assert pairs[0][1].recv(1) == pairs[2][1].recv(1) == b"x"


# Errors


def test_without_root_it_says_what_to_do(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(FabricError, match=r"needs root .*use the relay network"):
        build("kernel", star(2))


def test_without_a_tool_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(FabricError, match=r"needs the command ip, .* install iproute2"):
        build("kernel", star(2))


def test_a_command_that_fails_is_named():
    with pytest.raises(FabricError, match=r"failed with status .*, at `link set nothing-here up`"):
        ip(["link show lo", "link set nothing-here up"])


def test_packets_that_are_no_longer_served_are_an_error(monkeypatch):
    wrong = pytest.raises(FabricError, match="packets are no longer served: TypeError")
    with wrong, build("kernel", star(2)) as network, Sockets(network) as sockets:
        near, _ = sockets.udp("h0", "h1")
        network.link("h1").latency("1ms")
        (thread,) = (each for each in threading.enumerate() if each.name == "holdfast-taps")
        monkeypatch.setattr(Pipe, "admit", None)
        near.send(b"x")
        thread.join(DEADLINE)
        network.link("h1").latency("2ms")
    assert not (RECORDS / network.engine.traces.name).is_symlink()
