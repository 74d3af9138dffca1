"""Topologies: what is wired up, which ways packets take, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.fabric.topology import (
    Cable,
    Lane,
    Nic,
    Topology,
    fat_tree,
    leaf_spine,
    load_topology,
    parse_topology,
    star,
    two_rails,
)

ALL = [star(1), star(4), two_rails(3), leaf_spine(2, 2, 2), fat_tree(2), fat_tree(4)]


@pytest.mark.parametrize("topology", [*ALL, star(3, control=True)], ids=lambda each: each.name)
def test_every_path_leads_from_one_host_to_the_other_along_cables(topology):
    for a in topology.hosts:
        for b in topology.hosts:
            for path in topology.paths(topology.nic(a), topology.nic(b)):
                node = a
                for lane in path:
                    assert topology.start_of(lane) == node
                    node = topology.end_of(lane)
                assert node == b
                assert len({lane.cable for lane in path}) == len(path)


def test_a_star_has_one_path_of_two_cables():
    net = star(3)
    assert net.paths(Nic("h0", 0), Nic("h2", 0)) == ((Lane(0, True), Lane(2, False)),)
    assert net.paths(Nic("h1", 0), Nic("h1", 0)) == ((),)


def test_rails_don_t_meet():
    net = two_rails(2)
    assert net.paths(Nic("h0", 0), Nic("h1", 0))
    assert not net.paths(Nic("h0", 0), Nic("h1", 1))
    with pytest.raises(UsageError, match="nothing connects NIC 0 of h0 with NIC 1 of h1"):
        net.route(Nic("h0", 0), Nic("h1", 1))


def test_ecmp_has_a_path_over_every_spine_and_spreads_connections_over_them():
    net = leaf_spine(2, 4, 2, rate="1gbit", oversubscription=2)
    paths = net.paths(Nic("h0", 0), Nic("h2", 0))
    assert len(paths) == 4
    assert {net.route(Nic("h0", 0), Nic("h2", 0), number) for number in range(100)} == set(paths)
    up = net.cables[net.between("leaf0", "spine3")]
    assert up.rate == pytest.approx(1e9 * 2 / 4 / 2)
    assert len(net.paths(Nic("h0", 0), Nic("h1", 0))) == 1


@pytest.mark.parametrize("k", [2, 4, 6])
def test_a_fat_tree_has_its_textbook_numbers(k):
    net = fat_tree(k)
    assert len(net.hosts) == k**3 // 4
    assert len(net.switches) == k * k + k * k // 4
    assert all(len(net.cables_of(switch)) == k for switch in net.switches)
    if k > 2:
        last = net.hosts[-1]
        assert len(net.paths(Nic("h0", 0), Nic(last, 0))) == (k // 2) ** 2


def test_a_control_network_is_apart():
    net = star(2, control=True)
    assert net.nic("h0") == Nic("h0", 0)
    assert net.nic("h0", "control") == Nic("h0", 1)
    assert not net.paths(Nic("h0", 0), Nic("h1", 1))
    assert star(2).nic("h0", "control") == Nic("h0", 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hosts": ("h0", "h0")}, "stand twice"),
        ({"cables": (Cable("h0", "x"),)}, "'x', which is no host"),
        ({"cables": (Cable("h0", "h0"),)}, "two different nodes"),
        ({"cables": (Cable("h0", "s0"), Cable("s0", "h0"))}, "found 2 between"),
        ({"hosts": ()}, "without hosts"),
        ({"cables": (Cable("h0", "s0"),)}, "h1 has no cable"),
        ({"cables": (Cable("h0", "s0"), Cable("h1", "s1"))}, "no path from h0 to h1"),
    ],
)
def test_what_cannot_be_wired_up_is_refused(change, said):
    whole = {
        "name": "odd",
        "hosts": ("h0", "h1"),
        "switches": ("s0", "s1"),
        "cables": (Cable("h0", "s0"), Cable("h1", "s0")),
    }
    with pytest.raises(UsageError, match=said):
        Topology(**(whole | change))


FILE = """
name = "office"
hosts = ["h0", "h1"]
switches = ["s0"]
[[cable]]
between = ["h0", "s0"]
rate = "1gbit"
latency = "50us"
[[cable]]
between = ["s0", "h1"]
[[cable]]
between = ["h0", "h1"]
network = "control"
"""


def test_a_file_gives_what_it_says(tmp_path):
    path = tmp_path / "net.toml"
    path.write_text(FILE)
    net = load_topology(path)
    assert net.name == "office"
    assert net.cables[0] == Cable("h0", "s0", 1e9, 50e-6)
    assert net.nic("h1", "control") == Nic("h1", 1)
    assert parse_topology(str(path)) == net


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('hosts = ["h0", "h1"]', 'hosts = "h0"', "lists of names"),
        ('rate = "1gbit"', 'rate = "fast"', "a rate such as"),
        ('rate = "1gbit"', 'speed = "1gbit"', "may have rate"),
        ('network = "control"', 'network = "other"', "data or control"),
        ('name = "office"', "name = ", "is not TOML"),
        ('name = "office"', "owner = 3", "owner"),
        ('rate = "1gbit"', "rate = 0", "above 0"),
        ('rate = "1gbit"', "rate = []", "a rate such as"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, old, new, said):
    path = tmp_path / "net.toml"
    path.write_text(FILE.replace(old, new))
    with pytest.raises(UsageError, match=said):
        load_topology(path)


@pytest.mark.parametrize(
    ("text", "hosts"),
    [("star:3", 3), ("two-rails:2", 2), ("leaf-spine:2,1,3", 6), ("fat-tree:4+control", 16)],
)
def test_topologies_by_name(text, hosts):
    assert len(parse_topology(text).hosts) == hosts


@pytest.mark.parametrize(
    "text", ["ring:3", "star", "star:x", "leaf-spine:2,2", "star:0", "no.toml"]
)
def test_what_names_no_topology_is_refused(text):
    with pytest.raises(UsageError):
        parse_topology(text)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_any_leaf_and_spine_connects_everybody(leaves, spines, hosts):
    net = leaf_spine(leaves, spines, hosts)
    first = net.nic("h0")
    for host in net.hosts[1:]:
        near = int(host[1:]) < hosts
        assert len(net.paths(first, net.nic(host))) == (1 if near else spines)
