"""A network of relays: each fault falls on what passes where it is aimed, and on nothing else."""

import contextlib
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from holdfast.errors import FabricError, UsageError
from holdfast.fabric import leftovers
from holdfast.fabric.build import build
from holdfast.fabric.condition import Pair
from holdfast.fabric.faults import KINDS
from holdfast.fabric.relay.engine import RelayEngine
from holdfast.fabric.topology import Lane, leaf_spine, star, two_rails

pytestmark = pytest.mark.local

PORT = 29800
PATIENCE = 20.0
SILENCE = 0.15
"""Seconds for which nothing may come where nothing should."""


class Net:
    """A network whose hosts' sockets are all this process's."""

    def __init__(self, stack, topology):
        self.net = stack.enter_context(build("relay", topology))
        self._stack = stack
        self._listeners = {}

    def own(self, sock):
        sock.settimeout(PATIENCE)
        return self._stack.enter_context(sock)

    def listen(self, host, network="data"):
        if (host, network) not in self._listeners:
            address = self.net.engine.hosts[host].address(network)
            self._listeners[host, network] = self.own(socket.create_server((address, PORT)))
        return self._listeners[host, network]

    def dial(self, a, b, network="data", source=None):
        hosts = self.net.engine.hosts
        source = source or hosts[a].address(network)
        target = hosts[b].public(PORT, network)
        return self.own(socket.create_connection(target, PATIENCE, (source, 0)))

    def connect(self, a, b, network="data"):
        """Return both ends of a new connection from `a` to `b`."""
        listener = self.listen(b, network)
        return self.dial(a, b, network), self.own(listener.accept()[0])


@pytest.fixture
def nets():
    """Builds networks; fails if one leaves a descriptor, a thread or a folder."""
    gc.collect()
    before = descriptors(), set(threading.enumerate()), folders()
    with contextlib.ExitStack() as stack:
        yield lambda topology: Net(stack, topology)
    gc.collect()
    assert (descriptors(), set(threading.enumerate()), folders()) == before


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def folders():
    return {each.name for each in leftovers._root().iterdir() if mine(each)}


def mine(folder):
    with contextlib.suppress(FileNotFoundError):
        return (folder / "owner").read_text().split()[0] == str(os.getpid())
    return False


def until(true):
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def passes(a, b):
    """Return whether a byte gets from one end to the other."""
    a.sendall(b"x")
    return bool(select.select([b], [], [], SILENCE)[0]) and b.recv(1) == b"x"


def comes(b, data=b"x"):
    """Return whether what was sent comes after all."""
    got = b""
    while len(got) < len(data):
        got += b.recv(len(data) - len(got))
    return got == data


# Addresses


def test_hosts_have_addresses_of_their_own_and_are_reached_at_others(nets):
    net = nets(star(3)).net
    own = [host.address() for host in net.engine.hosts.values()]
    public = [host.public(PORT) for host in net.engine.hosts.values()]
    assert len({*own, *(address for address, _ in public)}) == 6
    assert {port for _, port in public} == {PORT}
    assert public == [host.public(PORT) for host in net.engine.hosts.values()]
    assert all(host.address("control") == host.address() for host in net.engine.hosts.values())


def test_a_control_network_has_addresses_of_its_own(nets):
    net = nets(star(2, control=True))
    assert net.net.engine.hosts["h0"].address("control") != net.net.engine.hosts["h0"].address()
    a, b = net.connect("h0", "h1", "control")
    assert passes(a, b)
    assert net.net.engine.passed()[Pair("h0", "h1", "control")] == 1


def test_networks_at_the_same_time_have_different_addresses(nets):
    one, other = nets(star(2)), nets(star(2))
    assert one.net.engine.hosts["h0"].address() != other.net.engine.hosts["h0"].address()
    for net in (one, other):
        a, b = net.connect("h0", "h1")
        assert passes(a, b)


def test_hundreds_of_hosts_have_an_address_each(nets):
    hosts = nets(star(260)).net.engine.hosts.values()
    assert len({host.address() for host in hosts}) == 260


def test_too_many_hosts_are_refused():
    with pytest.raises(UsageError, match="up to 31750 NICs"):
        RelayEngine(Crowd())


class Crowd:
    """Stands in for a topology that takes long to build."""

    name = "crowd"
    hosts = ("h",) * 40_000

    def nics(self, host):
        return (host,)


def test_a_listener_sees_the_dialling_hosts_address(nets):
    net = nets(star(2))
    _, b = net.connect("h0", "h1")
    assert b.getpeername()[0] == net.net.engine.hosts["h0"].address()


def test_an_address_that_is_taken_is_named(nets):
    engine = nets(star(2)).net.engine
    own = engine.hosts["h0"].address().rsplit(".", 2)
    public = f"{own[0]}.{int(own[1]) + 1}.{own[2]}"
    with (
        socket.create_server((public, PORT)),
        pytest.raises(FabricError, match=rf"cannot listen at {public}:{PORT}"),
    ):
        engine.hosts["h0"].public(PORT)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_is_none_is_refused(nets, port):
    with pytest.raises(UsageError, match="1 to 65535"):
        nets(star(1)).net.engine.hosts["h0"].public(port)


# Who may connect


def test_a_stranger_is_reset_and_counted(nets, caplog):
    net = nets(star(2))
    net.listen("h1")
    with pytest.raises(ConnectionResetError):
        net.dial("h0", "h1", source="127.0.0.1").recv(1)
    assert net.net.engine.refused == 1
    assert "no host has that address" in caplog.text


def test_networks_that_nothing_connects_are_not_connected_by_the_relay(nets, caplog):
    net = nets(star(2, control=True))
    net.listen("h1", "control")
    source = net.net.engine.hosts["h0"].address("data")
    with pytest.raises(ConnectionResetError):
        net.dial("h0", "h1", "control", source=source).recv(1)
    assert net.net.engine.refused == 1
    assert "nothing connects NIC 0 of h0 with NIC 1 of h1" in caplog.text


# Each kind of fault


def test_it_can_do_every_kind_of_fault():
    assert RelayEngine.kinds == frozenset(KINDS)


@pytest.mark.parametrize("name", ["down", "drop"])
def test_a_path_that_is_down_is_silent_until_it_heals(nets, name):
    net = nets(star(3))
    (a, b), (c, d) = net.connect("h0", "h1"), net.connect("h0", "h2")
    with getattr(net.net.link("h0", to="h1"), name)():
        assert not passes(a, b)
        assert not passes(b, a)
        assert passes(c, d)
    assert comes(a)
    assert comes(b)


def test_a_drop_one_way(nets):
    net = nets(star(2))
    a, b = net.connect("h0", "h1")
    with net.net.link("h0").drop(direction="to"):
        assert not passes(a, b)
        assert passes(b, a)
    assert comes(b)
    with net.net.link("h0").drop(direction="from"):
        assert passes(a, b)
        assert not passes(b, a)
    assert comes(a)


def test_a_new_connection_waits_for_its_path(nets):
    net = nets(star(2))
    listener = net.listen("h1")
    with net.net.switch("s0").down():
        a = net.dial("h0", "h1")
        assert not select.select([listener], [], [], SILENCE)[0]
    b = net.own(listener.accept()[0])
    assert passes(a, b)


def test_a_flap_heals_by_itself(nets):
    net = nets(star(2))
    a, b = net.connect("h0", "h1")
    net.net.link("h1").flap(down=0.05, up=0.01, times=2)
    a.sendall(b"x")
    assert comes(b)
    until(lambda: [each.what for each in net.net.happened] == ["began", "ended"])


def test_a_network_card_that_is_down_leaves_the_other_rail(nets):
    net = nets(two_rails(2))
    a, b = net.connect("h0", "h1")
    with net.net.nic("h1", 1).down(), net.net.switch("s1").down():
        assert passes(a, b)
    with net.net.nic("h1", 0).down():
        assert not passes(a, b)
    assert comes(b)


def test_a_partition_with_a_bridge(nets):
    net = nets(star(3, control=True))
    pairs = [("h0", "h1"), ("h1", "h2"), ("h0", "h2")]
    ends = {pair: net.connect(*pair) for pair in pairs}
    control = net.connect("h0", "h2", "control")
    with net.net.partition(["h0", "h1"], ["h1", "h2"]):
        assert passes(*ends["h0", "h1"])
        assert passes(*ends["h1", "h2"])
        assert passes(*control)
        assert not passes(*ends["h0", "h2"])
    assert comes(ends["h0", "h2"][1])


def test_a_host_that_is_cut_off_still_reaches_itself(nets):
    net = nets(star(2))
    a, b = net.connect("h0", "h0")
    with net.net.link("h0").down():
        assert passes(a, b)


def test_latency_adds_up_along_the_way(nets):
    net = nets(star(2, latency="10ms"))
    a, b = net.connect("h0", "h1")
    with net.net.link("h1").latency("40ms", direction="from"):
        began = time.monotonic()
        a.sendall(b"x")
        assert comes(b)
        assert time.monotonic() - began >= 0.06


@pytest.mark.parametrize("how", ["cable", "fault"])
def test_a_cable_is_shared_by_all_that_pass_it(nets, how):
    net = nets(star(3, rate="8mbit") if how == "cable" else star(3))
    ends = [net.connect("h0", "h1"), net.connect("h0", "h2")]
    if how == "fault":
        net.net.link("h0").rate("8mbit")
    began = time.monotonic()
    for a, _ in ends:
        a.sendall(bytes(100_000))
    for _, b in ends:
        assert comes(b, bytes(100_000))
    assert time.monotonic() - began >= 0.19


def test_loss_and_reordering_only_take_time(nets):
    net = nets(star(2))
    a, b = net.connect("h0", "h1")
    data = os.urandom(30_000)
    with net.net.link("h0").loss(0.2), net.net.link("h1").reorder(0.2, latency="1ms"):
        a.sendall(data)
        assert comes(b, data)


def test_corruption(nets):
    net = nets(star(2))
    a, b = net.connect("h0", "h1")
    with net.net.link("h0").corrupt(1.0):
        a.sendall(bytes(1000))
        assert not comes(b, bytes(1000))
    a.sendall(bytes(1000))
    assert comes(b, bytes(1000))


def test_a_reset_tells_both_ends_of_what_passes_there(nets):
    net = nets(star(3))
    hit, other = net.connect("h0", "h1"), net.connect("h0", "h2")
    net.net.link("h1").reset()
    for end in hit:
        with pytest.raises(ConnectionResetError):
            end.recv(1)
    assert passes(*other)


@pytest.mark.parametrize("told", ["h0", "h1"])
def test_a_reset_of_one_end_tells_the_host_named_first(nets, told):
    net = nets(star(2))
    ends = dict(zip(("h0", "h1"), net.connect("h0", "h1"), strict=True))
    other = "h1" if told == "h0" else "h0"
    net.net.link(told, to=other).reset(ends="one")
    with pytest.raises(ConnectionResetError):
        ends[told].recv(1)
    ends[other].sendall(b"is anybody there?")
    assert not select.select([ends[other]], [], [], SILENCE)[0]


def test_connections_are_spread_over_the_spines_and_each_keeps_its_way(nets):
    topology = leaf_spine(2, 2, 1)
    net = nets(topology)
    ends = [net.connect("h0", "h1") for _ in range(8)]
    lanes = [
        Lane(number, topology.cables[number].a == "leaf0")
        for number in (topology.between("leaf0", spine) for spine in ("spine0", "spine1"))
    ]
    for a, b in ends:
        assert passes(a, b)
    passed = net.net.engine.passed()
    spread = [passed[lane] for lane in lanes]
    assert sum(spread) == 8
    assert min(spread) > 0
    with net.net.switch("spine0").down():
        assert sum(passes(a, b) for a, b in ends) == spread[1]


# Processes

SPEAKER = """
import socket, sys
with socket.create_connection((sys.argv[2], int(sys.argv[3])), 20, (sys.argv[1], 0)) as sock:
    while True:
        sock.sendall(b"x")
        if not sock.recv(1):
            break
"""


def speak(net, a, b):
    """Start a process on `a` that keeps asking `b`; return it and b's end of its connection."""
    listener = net.listen(b)
    hosts = net.net.engine.hosts
    address, port = hosts[b].public(PORT)
    process = hosts[a].popen(
        [sys.executable, "-c", SPEAKER, hosts[a].address(), address, str(port)],
        stderr=subprocess.DEVNULL,
        rank=3,
    )
    return process, net.own(listener.accept()[0])


def state(process):
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


def test_a_paused_host_answers_when_it_is_resumed(nets):
    net = nets(star(2))
    process, end = speak(net, "h0", "h1")
    assert comes(end)
    with net.net.host("h0").pause():
        until(lambda: state(process) == "T")
        end.sendall(b"x")
        assert not select.select([end], [], [], SILENCE)[0]
    assert comes(end)
    process.kill()
    process.wait(PATIENCE)


@pytest.mark.parametrize("who", ["host", "worker"])
def test_the_peers_of_a_killed_process_see_its_connections_end(nets, who):
    net = nets(star(2))
    process, end = speak(net, "h0", "h1")
    assert comes(end)
    (net.net.host("h0") if who == "host" else net.net.worker(3)).kill()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    with contextlib.suppress(ConnectionResetError):
        assert end.recv(1) == b""


def test_nobody_learns_of_a_death_behind_a_path_that_is_down(nets):
    net = nets(star(2))
    process, end = speak(net, "h0", "h1")
    assert comes(end)
    with net.net.link("h0").down():
        net.net.host("h0").kill()
        process.wait(PATIENCE)
        assert not select.select([end], [], [], SILENCE)[0]
    with contextlib.suppress(ConnectionResetError):
        assert end.recv(1) == b""


def test_what_a_worker_is_told_leads_to_its_peers(nets):
    net = nets(star(2))
    engine = net.net.engine
    told = [engine.environment(name, rank) for rank, name in enumerate(("h0", "h1"))]
    with socket.create_server((told[0]["HOLDFAST_ADDRESS"], int(told[0]["HOLDFAST_PORT"]))) as door:
        host, port = told[0]["HOLDFAST_PUBLIC_ADDRESS"].split(":")
        source = (told[1]["HOLDFAST_ADDRESS"], 0)
        a = net.own(socket.create_connection((host, int(port)), PATIENCE, source))
        b = net.own(door.accept()[0])
        assert passes(a, b)
    with socket.create_server((told[0]["MASTER_ADDR"], int(told[0]["MASTER_PORT"]))) as door:
        target = (told[1]["MASTER_ADDR"], int(told[1]["MASTER_PORT"]))
        source = (told[1]["HOLDFAST_CONTROL_ADDRESS"], 0)
        a = net.own(socket.create_connection(target, PATIENCE, source))
        b = net.own(door.accept()[0])
        assert passes(a, b)


# The end


def test_closing_ends_processes_connections_and_listeners(nets):
    net = nets(star(2))
    process, end = speak(net, "h0", "h1")
    address = net.net.engine.hosts["h1"].public(PORT)
    net.net.link("h0").down()
    net.net.close()
    net.net.close()
    assert process.wait(PATIENCE) == -signal.SIGKILL
    with contextlib.suppress(ConnectionResetError):
        while end.recv(100):
            pass
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, PATIENCE)


# Holds on to life when its parent dies, as no host's process should, and as daemons do.
OWNER = """
import sys, time
from holdfast.fabric.build import build
from holdfast.fabric.topology import star
stay = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('ready', flush=True)"
with build("relay", star(2)) as net:
    stay += "; time.sleep(600)"
    process = net.engine.hosts["h0"].popen([sys.executable, "-c", stay], stdout=1)
    print(process.pid, net.engine.traces.name, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_owner_leaves_behind_is_swept(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="holdfast-") as folder:  # nobody else sweeps there
        monkeypatch.setattr(tempfile, "tempdir", folder)
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER],
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
        )
        try:
            lines = sorted(owner.stdout.readline().split() for _ in range(2))
            assert lines[1] == [b"ready"]
            pid, name = int(lines[0][0]), lines[0][1].decode()
            assert leftovers.sweep() == []  # its owner lives
        finally:
            owner.kill()
            owner.wait(PATIENCE)
            owner.stdout.close()
        assert leftovers.start_time(pid) is not None
        assert [each.name for each in leftovers.abandoned()] == [name]
        with build("relay", star(1)):  # whoever comes next sweeps
            until(lambda: leftovers.start_time(pid) is None)
            assert list(leftovers.abandoned()) == []
