"""The picture of a network: everything is on it, nothing lies over anything, names are escaped."""

import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.fabric.curves import Curve, Point
from holdfast.fabric.draw import draw
from holdfast.fabric.topology import (
    Cable,
    Topology,
    fat_tree,
    leaf_spine,
    load_topology,
    star,
    two_rails,
)

SVG = "{http://www.w3.org/2000/svg}"


def parsed(topology, ring=None, **options):
    return ET.fromstring(draw(topology, ring, **options))


def of_class(root, tag, kind):
    return [each for each in root.iter(SVG + tag) if kind in each.get("class", "").split()]


def titles(root):
    return [each.text for each in root.iter(SVG + "title")]


def boxes(root):
    """Return (left, right) of each box by its height on the page."""
    rows = defaultdict(list)
    for kind in ("host", "switch"):
        for box in of_class(root, "rect", kind):
            left, width = float(box.get("x")), float(box.get("width"))
            rows[kind, box.get("y")].append((left, left + width))
    return rows


TOPOLOGIES = st.one_of(
    st.builds(star, st.integers(1, 40), control=st.booleans()),
    st.builds(two_rails, st.integers(1, 20), control=st.booleans()),
    st.builds(
        leaf_spine,
        st.integers(1, 5),
        st.integers(1, 4),
        st.integers(1, 5),
        rate=st.sampled_from([None, "1gbit"]),
        control=st.booleans(),
    ),
    st.builds(fat_tree, st.sampled_from([2, 4])),
)


@settings(deadline=None)
@given(topology=TOPOLOGIES, data=st.data())
def test_everything_is_there_once_and_nothing_overlaps(topology, data):
    hosts = st.sampled_from(topology.hosts)
    ring = data.draw(st.one_of(st.just(list(topology.hosts)), st.lists(hosts, max_size=12)))
    root = parsed(topology, ring)
    assert len(of_class(root, "rect", "host")) == len(topology.hosts)
    assert len(of_class(root, "rect", "switch")) == len(topology.switches)
    assert len(of_class(root, "path", "cable")) == len(topology.cables)
    pairs = list(zip(ring, [*ring[1:], *ring[:1]], strict=True)) if len(ring) > 1 else []
    assert len(of_class(root, "path", "hop")) == sum(a != b for a, b in pairs)
    width, height = float(root.get("width")), float(root.get("height"))
    for row in boxes(root).values():
        row.sort()
        assert row[0][0] >= 0
        assert row[-1][1] <= width
        assert all(right < left for (_, right), (left, _) in pairwise(row))
    for path in root.iter(SVG + "path"):
        numbers = [float(each) for each in re.findall(r"-?[\d.]+", path.get("d"))]
        assert all(-1 <= value <= max(width, height) + 1 for value in numbers)
    assert draw(topology, ring) == draw(topology, ring)


def test_an_arrow_tells_its_way():
    told = titles(parsed(leaf_spine(2, 1, 1), ["h0", "h1"]))
    assert "rank 0 → rank 1: h0 → leaf0 → spine0 → leaf1 → h1" in told
    assert "rank 1 → rank 0: h1 → leaf1 → spine0 → leaf0 → h0" in told


def test_a_cable_that_several_hops_share_says_how_many():
    """Ranks placed round robin: every hop crosses the spine."""
    net = leaf_spine(2, 1, 2)
    round_robin = parsed(net, ["h0", "h2", "h1", "h3"])
    assert "leaf0 → spine0 carries 2 hops of the ring" in titles(round_robin)
    assert len(of_class(round_robin, "circle", "badge")) == 4
    in_order = parsed(net, ["h0", "h1", "h2", "h3"])
    assert not of_class(in_order, "circle", "badge")


def test_ranks_of_one_host_need_no_cable():
    root = parsed(star(2), ["h0", "h0", "h0", "h1"])
    assert len(of_class(root, "path", "hop")) == 2
    words = [each.text for each in root.iter(SVG + "text")]
    assert "ranks 0–2" in words
    assert "rank 3" in words
    assert "ranks 0, 2" in [each.text for each in parsed(star(2), ["h0", "h1"] * 2).iter()]


def test_a_host_that_is_not_there_is_bad_usage():
    with pytest.raises(UsageError, match="star has no host 'h7'"):
        draw(star(2), ["h0", "h7"])


def test_control_cables_are_dashed_and_lie_below():
    root = parsed(star(3, control=True), ["h0", "h1", "h2"])
    assert len(of_class(root, "path", "control")) == 3
    rows = {float(y): kind for kind, y in boxes(root)}
    assert [rows[y] for y in sorted(rows)] == ["switch", "host", "switch"]


def test_rates_stand_beside_a_tier_or_at_their_cables():
    alike = [each.text for each in parsed(star(3, rate="1gbit", latency="50us")).iter(SVG + "text")]
    assert alike.count("1 Gbit/s, 50us") == 1
    cables = tuple(Cable(f"h{n}", "s0", rate) for n, rate in enumerate((1e9, 1e8, None)))
    mixed = parsed(Topology("mixed", ("h0", "h1", "h2"), ("s0",), cables))
    words = [each.text for each in mixed.iter(SVG + "text")]
    assert words.count("1 Gbit/s") == 1
    assert words.count("100 Mbit/s") == 1


def test_names_are_escaped_and_cut_but_known_in_full(tmp_path):
    name = 'a<b & "c" with a very long tail'
    file = tmp_path / "net.toml"
    file.write_text(
        f"hosts = ['{name}', 'h1']\nswitches = []\n[[cable]]\nbetween = ['{name}', 'h1']\n"
    )
    root = parsed(load_topology(file), [name, "h1"], title="<one> & two")
    assert "<one> & two" in titles(root)
    assert name in titles(root)
    shown = [each.text for each in of_class(root, "text", "name")]
    assert any(each.startswith("a<b & ") and each.endswith("…") for each in shown)


def test_switches_of_one_tier_are_joined_by_arches():
    ends = ("h0 s0", "h1 s1", "h2 s2", "s0 s1", "s1 s2", "s0 s2")
    cables = tuple(Cable(*end.split()) for end in ends)
    net = Topology("triangle", ("h0", "h1", "h2"), ("s0", "s1", "s2"), cables)
    root = parsed(net, ["h0", "h1", "h2"])
    tops = {float(box.get("y")) for box in of_class(root, "rect", "switch")}
    assert len(tops) == 1
    arch = of_class(root, "path", "cable")[-1].get("d")
    assert min(float(y) for y in re.findall(r" (-?[\d.]+)", arch)) < min(tops)


def test_the_picture_is_light_or_dark_and_needs_nothing_else():
    text = draw(star(2), ["h0", "h1"])
    assert "prefers-color-scheme: dark" in text
    assert text.count("http") == 1  # the name of the format
    assert "<script" not in text
    assert " id=" not in text


PLACES = st.builds(Point, st.floats(-500, 500), st.floats(-500, 500))


@settings(deadline=None)
@given(start=PLACES, end=PLACES, bend=PLACES, cut=st.floats(0, 90), part=st.floats(0, 1))
def test_a_shorter_curve_is_a_part_of_the_curve(start, end, bend, cut, part):
    curve = Curve(start, bend, end)
    there, back = curve.at(part), curve.turned().at(1 - part)
    assert there == pytest.approx(back, abs=1e-6)
    assert curve.without(0, 0).at(part) == pytest.approx(there, abs=1e-6)
    assert curve.until(part).start == start
    straight = Curve(start, Point((start.x + end.x) / 2, (start.y + end.y) / 2), end)
    length = abs(complex(end.x - start.x, end.y - start.y))
    shorter = straight.without(cut, cut)
    left = abs(complex(shorter.end.x - shorter.start.x, shorter.end.y - shorter.start.y))
    assert 0.1 * length - 1e-6 <= left <= length + 1e-6
