"""Faults and scripts as data: what they may say, what they make of a network, what is drawn."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.fabric.condition import CLEAR, Condition, Pair, along, conditions, impose, places
from holdfast.fabric.faults import KINDS, Fault
from holdfast.fabric.script import (
    LINK_KINDS,
    When,
    draw,
    draw_fault,
    draw_steps,
    flap,
    kill,
    load_script,
    parse_script,
    partition,
    reset,
)
from holdfast.fabric.topology import Lane, leaf_spine, star, two_rails
from holdfast.fabric.units import bits_per_second, format_rate, format_seconds, seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [("3s", 3.0), ("200ms", 0.2), ("50us", 50e-6), ("2m", 120.0), ("1.5", 1.5), (0.25, 0.25)],
)
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value)
    assert seconds(format_seconds(value)) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("100mbit", 1e8), ("1gbit", 1e9), ("2.5 kbit", 2500)])
def test_rates(text, value):
    assert bits_per_second(text) == pytest.approx(value)
    assert bits_per_second(format_rate(value)) == pytest.approx(value)


@pytest.mark.parametrize("text", ["3 parsecs", "-1s", "", "s", "1e400"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageError, match="a duration such as"):
        seconds(text)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"kind": "explode"}, "a fault of down"),
        ({"kind": "down"}, "aimed at one link or nic or switch, found none"),
        ({"kind": "down", "link": ("h0",), "switch": "s0"}, "found link and switch"),
        ({"kind": "pause", "link": ("h0",)}, "aimed at one host"),
        ({"kind": "loss", "link": ("h0",)}, "needs p above 0"),
        ({"kind": "loss", "link": ("h0",), "p": 1.5}, "from 0 to 1"),
        ({"kind": "down", "link": ("h0",), "p": 0.5}, "does not take p"),
        ({"kind": "reset", "link": ("h0",), "for_": 3.0}, "does not take for"),
        ({"kind": "drop", "link": ("h0",), "direction": "up"}, "direction is one of"),
        ({"kind": "down", "link": ("a", "b", "c")}, "one or two names"),
        ({"kind": "partition", "groups": (("h0",),)}, "at least two groups"),
        ({"kind": "flap", "link": ("h0",), "down": 1.0, "times": 0}, "at least 1"),
        ({"kind": "latency", "link": ("h0",), "latency": -1.0}, "from 0"),
    ],
)
def test_what_cannot_be_said_is_refused(made, said):
    with pytest.raises(UsageError, match=said):
        Fault(**made)


NETS = [star(3), two_rails(3), leaf_spine(2, 2, 2), star(4, control=True)]
drawn = st.builds(
    lambda net, kind, seed: draw_fault(net, random.Random(seed), kinds=[kind], longest=2.0),
    st.sampled_from(NETS),
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 1 << 30),
)


@given(drawn)
def test_a_fault_is_its_table(fault):
    assert Fault.from_table(fault.to_table()) == fault
    assert str(fault).startswith(fault.kind)


@given(st.sampled_from(NETS), st.integers(0, 1000), st.floats(0.5, 20))
def test_a_script_is_its_text_and_the_seed_is_the_script(net, seed, mtbf):
    kinds = sorted(KINDS)
    script = draw(net, seed=seed, mtbf=mtbf, duration=30, kinds=kinds)
    assert parse_script(script.to_toml()) == script
    assert script == draw(net, seed=seed, mtbf=mtbf, duration=30, kinds=kinds)
    script.check(net, world_size=1)
    again = draw_steps(net, seed=seed, steps=5, faults=4, world_size=3, kinds=kinds)
    assert parse_script(again.to_toml()) == again
    again.check(net, world_size=3)


def test_faults_come_as_often_as_was_asked():
    script = draw(star(3), seed=1, mtbf=2.0, duration=4000)
    assert len(script.entries) == pytest.approx(2000, rel=0.1)
    assert {entry.fault.kind for entry in script.entries} == set(LINK_KINDS)


def test_a_line_of_python_is_a_script():
    script = flap("h0", "h1", down=2.0, at_step=5) + kill(worker=1, at="3s")
    assert script.to_toml() == (
        '[[fault]]\nat_step = 5\nkind = "flap"\nlink = ["h0", "h1"]\ndown = "2s"\n'
        '\n[[fault]]\nat = "3s"\nkind = "kill"\nworker = 1\n'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[fault]]\nkind = 'down'\nlink = 'h0'", "give one of the two"),
        ("[[fault]]\nat = '1s'\nat_step = 3\nkind = 'down'\nlink = 'h0'", "give one of the two"),
        ("[[fault]]\nat_step = 3\nphase = 'lunch'\nkind = 'down'\nlink = 'h0'", "a phase is one"),
        ("[[fault]]\nat_step = 'x'\nkind = 'down'\nlink = 'h0'", "whole numbers"),
        ("[[fault]]\nat = '1s'\nkind = 'down'\nlink = 'h0'\ncolour = 1", "found 'colour'"),
        ("[[fault]]\nat = '1s'\nlink = 'h0'", "kind is missing"),
        ("[[fault]]\nat = '1s'\nkind = 'down'\nlink = 3", "link = 3"),
        ("[[fault]]\nat = '1s'\nkind = 'loss'\nlink = 'h0'\np = 'x'", "p = 'x'"),
        ("faults = 3", "tables and a whole seed"),
        ("[[fault", "not TOML"),
        ("[fault]\nat = '1s'", "tables and a whole seed"),
        ("fault = [3]", "tables and a whole seed"),
        ("seed = true", "tables and a whole seed"),
        ("[[fault]]\nat = ['1s']\nkind = 'down'\nlink = 'h0'", "a duration"),
        ("[[fault]]\nat = true\nkind = 'down'\nlink = 'h0'", "a duration"),
        ("[[fault]]\nat = '1e99999999999s'\nkind = 'down'\nlink = 'h0'", "a duration"),
        ("[[fault]]\nat = '1s'\nkind = 'down'\nnic = ['h1', true]", "nic ="),
        ("[[fault]]\nat = '1s'\nkind = 'down'\nlink = ''", "link = ''"),
        ("[[fault]]\nat = '1s'\nkind = 'partition'\ngroups = 'h0'", "groups = 'h0'"),
        ("[[fault]]\nat = '1s'\nkind = 'kill'\nworker = -1", "from 0"),
    ],
)
def test_a_bad_script_names_its_line(tmp_path, text, said):
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        load_script(path)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (flap("h0", "h9", down=1), "no 'h9'"),
        (kill(host="h7"), "no 'h7'"),
        (kill(worker=3), "from 0 to 2"),
        (partition(groups=[["h0"], ["x"]]), "no 'x'"),
        (partition(groups=[["h0"], ["h1"]], network="control"), "no control network"),
        (reset(switch="s0", ends="one"), "must be a host"),
    ],
)
def test_a_script_for_another_network_is_refused(script, said):
    with pytest.raises(UsageError, match=f"fault 1 of the script.*{said}"):
        script.check(star(3), world_size=3)


def test_a_script_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "faults.toml"
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load_script(path)


def test_moments():
    assert When(step=3, phase="all-gather").matches(2, 3, "all-gather")
    assert not When(step=3, phase="all-gather", rank=1).matches(2, 3, "all-gather")
    assert not When(step=3).matches(0, 3, "all-gather")


# What faults make of a network


def test_a_link_is_a_cable_a_pair_or_everything_at_a_node():
    net = star(3)
    assert places(net, Fault("down", link=("h1",))) == (Lane(1, True), Lane(1, False))
    assert places(net, Fault("down", link=("h1", "s0"))) == (Lane(1, True), Lane(1, False))
    assert places(net, Fault("down", link=("h1", "h0"))) == (Pair("h1", "h0"), Pair("h0", "h1"))
    assert places(net, Fault("drop", link=("h1", "h0"), direction="to")) == (Pair("h1", "h0"),)
    assert places(net, Fault("drop", link=("h1",), direction="from")) == (Lane(1, False),)
    assert places(net, Fault("down", switch="s0")) == tuple(
        Lane(number, forward) for number in range(3) for forward in (False, True)
    )
    rails = two_rails(2)
    assert places(rails, Fault("down", nic=("h1", 1))) == (Lane(3, True), Lane(3, False))
    with pytest.raises(UsageError, match="2 NIC"):
        places(rails, Fault("down", nic=("h1", 2)))
    with pytest.raises(UsageError, match="no cable connects"):
        places(leaf_spine(2, 1, 1), Fault("down", link=("leaf0", "leaf1")))


def test_a_partition_cuts_whoever_shares_no_group():
    net = star(4)
    cut = set(places(net, Fault("partition", groups=(("h0", "h1"), ("h1", "h2")))))
    assert cut == {Pair("h0", "h2"), Pair("h2", "h0")}
    both = Fault("partition", groups=(("h0",), ("h1",)), network="all")
    assert {pair.network for pair in places(net, both)} == {"data", "control"}


def test_conditions_add_up_and_healing_leaves_one_out():
    net = star(2, rate="1gbit", latency="1ms")
    slow = Fault("latency", link=("h0",), latency=0.01, jitter=0.002)
    lossy = Fault("loss", link=("h0",), p=0.5)
    total = conditions(net, [slow, lossy, lossy])
    assert total[Lane(0, True)] == Condition(latency=0.011, jitter=0.002, loss=0.75, rate=1e9)
    assert total[Lane(1, True)] == Condition(latency=0.001, rate=1e9)
    assert conditions(net, [])[Lane(0, True)] == Condition(latency=0.001, rate=1e9)
    pair = Pair("h0", "h1")
    met = along(total, net.route(net.nic("h0"), net.nic("h1")), pair)
    assert met == Condition(latency=0.012, jitter=0.002, loss=0.75, rate=1e9)
    down = Fault("down", link=("h0", "h1"))
    assert along(conditions(net, [down]), (), pair).blocked


@given(st.sampled_from(NETS), drawn)
def test_every_fault_is_a_condition_somewhere_or_none(net, fault):
    try:
        made = impose(net, fault)
    except UsageError:
        return  # of another network
    assert all(condition != CLEAR for condition in made.values())
    lasting = KINDS[fault.kind].lasts and fault.host is None
    single = fault.groups and len({h for g in fault.groups for h in g}) == 1
    assert bool(made) == (lasting and not single) or fault.groups
