"""A schedule's picture: what is in it, that it is sound XML, and what is too large for it."""

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from holdfast.collectives.schedules.by_name import COLLECTIVES, by_name
from holdfast.collectives.schedules.picture import draw
from holdfast.errors import UsageError
from holdfast.launch.cli import main

SVG = "{http://www.w3.org/2000/svg}"
EVERY = [
    *[("all-reduce", name) for name in ("ring", "exchange", "direct", "halving-doubling")],
    *[("all-reduce", name) for name in ("double-tree", "bidirectional-ring", "binary-tree")],
    ("all-reduce", "two-level:2"),
    *[(each, "ring") for each in ("reduce-scatter", "all-gather", "reduce")],
    *[(each, "direct") for each in ("reduce-scatter", "all-gather", "reduce", "gather")],
    *[("scatter", "direct"), ("all-to-all", "direct"), ("barrier", "dissemination")],
    *[("broadcast", "binomial"), ("broadcast", "chain")],
]


@pytest.mark.parametrize(("collective", "algorithm"), EVERY)
@pytest.mark.parametrize("size", [2, 6])
def test_every_schedule_has_a_picture_with_all_its_messages(collective, algorithm, size):
    rooted = collective in ("broadcast", "reduce", "gather", "scatter")
    root = 1 if rooted else 0
    schedule = by_name(collective, algorithm, size, root=root)
    picture = ElementTree.fromstring(draw(schedule, root=root))
    arrows = [each.text for each in picture.iter(f"{SVG}title") if "→" in (each.text or "")]
    sent = [send for rank in range(size) for s in schedule.steps(rank) for send in s.sends]
    assert len(arrows) == len(sent)
    assert {each[0] for each in EVERY} == set(COLLECTIVES)


def test_a_ring_of_three_in_words():
    picture = draw(by_name("all-reduce", "ring", 3))
    assert "<title>rank 0 → rank 1: chunk 2</title>" in picture
    assert "<title>rank 0, chunk 0: ((1+2)+0)</title>" in picture
    assert picture == draw(by_name("all-reduce", "ring", 3))
    assert "<b>" not in draw(by_name("all-reduce", "ring", 3), title="<b>")


def test_what_cannot_be_read_is_refused():
    with pytest.raises(UsageError, match=r"room for 16 ranks, .* has 17, 32 and 17"):
        draw(by_name("all-reduce", "ring", 17))
    with pytest.raises(UsageError, match="fewer ranks"):
        draw(replace(by_name("all-reduce", "ring", 4), chunks=65))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (("all-reduce", "rings", 3), "two-level:RANKS"),
        (("all-reduces", "ring", 3), "a collective of all-reduce"),
        (("gather", "ring", 3), "schedules of gather are direct"),
        (("gather", "direct", 0), "a root from 0"),
    ],
)
def test_names_that_there_aren_t_are_refused(call, match):
    with pytest.raises(UsageError, match=match):
        by_name(*call)


def test_the_command_writes_a_picture(tmp_path, capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["schedule", "draw", *arguments])
        return ended.value.code, capsys.readouterr()

    file = tmp_path / "ring.svg"
    assert run("ring", "--ranks", "8", "-o", str(file))[0] == 0
    assert file.read_text() == draw(by_name("all-reduce", "ring", 8))
    assert run("chain", "--collective", "broadcast", "--root", "2", "-o", str(file))[0] == 0
    assert "chain: broadcast of 8 ranks" in file.read_text()
    assert run("double-tree", "--pieces", "2", "-o", str(file))[0] == 0
    for bad, said in (
        (("ring", "--ranks", "40"), "room for 16 ranks"),
        (("rong",), "an algorithm of"),
        (("binary-tree", "--pieces", "0"), "1 to 32 pieces"),
    ):
        status, (_, error) = run(*bad, "-o", str(file))
        assert status == 2
        assert said in error
    status, (_, error) = run("ring", "-o", str(tmp_path / "no" / "ring.svg"))
    assert status == 2
    assert "cannot be written" in error
