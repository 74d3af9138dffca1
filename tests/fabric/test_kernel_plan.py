"""The routes that the kernel gets are a topology's shortest paths, and addresses are one each."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.fabric.condition import Pair
from holdfast.fabric.kernel.plan import Plan, Port
from holdfast.fabric.topology import (
    Cable,
    Lane,
    Nic,
    Topology,
    fat_tree,
    leaf_spine,
    star,
    two_rails,
)


@st.composite
def meshes(draw):
    """Switches wired at random, each host on one or two of them."""
    switches = [f"s{n}" for n in range(draw(st.integers(1, 5)))]
    hosts = [f"h{n}" for n in range(draw(st.integers(2, 4)))]
    cables = [Cable(one, two) for one, two in pairwise(switches)]
    for one in range(len(switches)):
        for two in range(one + 2, len(switches)):
            if draw(st.booleans()):
                cables.append(Cable(switches[one], switches[two]))
    for host in hosts:
        at = draw(st.lists(st.sampled_from(switches), min_size=1, max_size=2, unique=True))
        cables += [Cable(host, switch) for switch in at]
    return Topology("mesh", tuple(hosts), tuple(switches), tuple(draw(st.permutations(cables))))


TOPOLOGIES = st.one_of(
    st.sampled_from(
        [
            star(3, control=True),
            two_rails(3, control=True),
            leaf_spine(2, 3, 2),
            fat_tree(4),
            Topology("cable", ("a", "b"), (), (Cable("a", "b"),)),
        ]
    ),
    meshes(),
)


def routes(plan):
    """Return {node: {(table, address): devices}} as the commands lay them."""
    found = {}
    for node in plan.nodes:
        table = found.setdefault(node, {})
        for line in plan.configuration()[plan.namespace(node)]:
            words = line.split()
            if words[:2] != ["route", "add"] or words[2] == "unreachable":
                continue
            number = words[words.index("table") + 1] if "table" in words else "main"
            devices = [words[i + 1] for i, word in enumerate(words) if word == "dev"]
            table[number, words[2].removesuffix("/32")] = devices
    return found


def walk(plan, laid, source, target):
    """Return every way that packets from one NIC to another may take, as paths of lanes."""
    topology, address = plan.topology, plan.address(target)
    nics = topology.nics(source.host)
    table = str(100 + source.number) if len(nics) > 1 else "main"
    ways, ended = [(source.host, table, ())], set()
    for _ in range(len(plan.nodes) + 1):
        further = []
        for node, number, path in ways:
            for device in laid[node].get((number, address), ()):
                cable = topology.cables_of(node)[int(device.removeprefix("eth"))]
                lane = Lane(cable, topology.cables[cable].a == node)
                end = topology.end_of(lane)
                if end == target.host:
                    ended.add((*path, lane))
                else:
                    assert end not in topology.hosts, "hosts forward nothing"
                    further.append((end, "main", (*path, lane)))
        ways = further
    assert not ways, "packets go in circles"
    return ended


@settings(max_examples=60, deadline=None)
@given(TOPOLOGIES)
def test_packets_take_all_the_shortest_paths_and_no_others(topology):
    plan = Plan(topology, "deadbeef")
    laid = routes(plan)
    for a in topology.hosts:
        for b in topology.hosts:
            for source in topology.nics(a):
                for target in topology.nics(b):
                    if a != b:
                        expected = set(topology.paths(source, target))
                        assert walk(plan, laid, source, target) == expected


def test_a_host_without_a_choice_of_address_takes_the_nearest_nic():
    plan = Plan(two_rails(2, control=True), "deadbeef")
    lines = plan.configuration()["hf-deadbeef-h0"]
    assert "route add 10.2.0.2/32 dev eth1 src 10.2.0.1" in lines
    assert "route add 10.101.0.2/32 dev eth2 src 10.101.0.1" in lines


@given(TOPOLOGIES)
@settings(max_examples=30, deadline=None)
def test_every_nic_has_an_address_of_its_own(topology):
    plan = Plan(topology, "deadbeef")
    nics = [nic for host in topology.hosts for nic in topology.nics(host)]
    assert len({plan.address(nic) for nic in nics}) == len(nics)


def test_addresses_go_on_beyond_250_hosts():
    plan = Plan(star(252), "deadbeef")
    assert plan.address(Nic("h249", 0)) == "10.1.0.250"
    assert plan.address(Nic("h250", 0)) == "10.1.1.1"


def test_a_lane_begins_and_ends_at_a_port():
    plan = Plan(leaf_spine(2, 2, 1), "deadbeef")
    number = plan.topology.between("leaf1", "spine0")
    assert plan.sender(Lane(number, True)) == Port("leaf1", 1)
    assert plan.receiver(Lane(number, True)) == Port("spine0", 1)
    assert plan.receiver(Lane(number, True)).device == "eth1"


def test_who_is_connected_over_a_place():
    plan = Plan(leaf_spine(2, 2, 2), "deadbeef")
    over = plan.connected_over(plan.topology.lanes("spine1"))
    assert {(near.host, far.host) for near, far in over} == {
        (a, b) for a in ("h0", "h1") for b in ("h2", "h3")
    } | {(a, b) for a in ("h2", "h3") for b in ("h0", "h1")}
    rails = Plan(two_rails(3, control=True), "deadbeef")
    assert rails.connected_over([Pair("h0", "h2", "data")]) == [
        (Nic("h0", 0), Nic("h2", 0)),
        (Nic("h2", 0), Nic("h0", 0)),
        (Nic("h0", 1), Nic("h2", 1)),
        (Nic("h2", 1), Nic("h0", 1)),
    ]


@pytest.mark.parametrize("name", ["h 0", "a/b", "..", "", "h" * 101])
def test_a_name_that_cannot_be_a_namespace_is_refused(name):
    topology = Topology("odd", (name,), ("s0",), (Cable(name, "s0"),))
    with pytest.raises(UsageError, match="letters, digits"):
        Plan(topology, "deadbeef")
