"""The report: files, page and terminal lines, of drills that are made up here as they would go."""

import json
import math
import random
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.fabric.faults import KINDS, Fault
from holdfast.fabric.script import LINK_KINDS, Script, draw, kill
from holdfast.fabric.topology import Topology, leaf_spine, star
from holdfast.launch.drill.causes import Layout
from holdfast.launch.drill.figures import figures
from holdfast.launch.drill.page_chart import Axis, averages, extremes, means, stairs
from holdfast.launch.drill.page_faults import FAMILIES
from holdfast.launch.drill.page_loss import compare
from holdfast.launch.drill.page_timeline import throughput
from holdfast.launch.drill.record import Ended, FaultSpan, LinkEvent, RunRecord, StepEnd, Traffic
from holdfast.launch.drill.report import describe, ranks_on, write_report
from holdfast.launch.drill.words import seconds_text, verdict

SILENCE, REDIAL, STARTUP = 2.0, 0.08, 1.4
"""Seconds until a silent link is given up, until it is back, until a job's first step."""
CHECKPOINT = 100
"""Steps between two."""
SLOWER = {"rate": 6.0, "latency": 0.9, "loss": 0.4}
"""By how many of its own times a step is longer under these."""


@dataclass
class Job:
    """Plays a data-parallel job, a rank on each host in a ring, step after step under faults."""

    topology: Topology
    script: Script
    steps: int = 940
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    now: float = 0.2
    spans: list[FaultSpan] = field(default_factory=list)
    met: set[int] = field(default_factory=set)
    starts: list[float] = field(default_factory=list)
    step_ends: list[StepEnd] = field(default_factory=list)
    links: list[LinkEvent] = field(default_factory=list)
    traffic: list[Traffic] = field(default_factory=list)
    ends: list[Ended] = field(default_factory=list)

    def run(self) -> RunRecord:
        """Return what would have been seen of it."""
        for number, entry in enumerate(self.script.entries):
            fault, began = entry.fault, STARTUP + (entry.when.time or 0.0)
            lasts = fault.for_ or 0.0
            if fault.kind == "flap":
                lasts = fault.times * (fault.down + fault.up) - fault.up
            self.spans.append(FaultSpan(number, fault, began, began + lasts))
        self._start()
        done = sent = 0
        said = 0.0
        while done < self.steps:
            if self._killed():
                done, sent = done // CHECKPOINT * CHECKPOINT, 0
                continue
            took = 0.022 * self.rng.lognormvariate(0, 0.08)
            self.now += took
            for span in self.spans:
                if span.began <= self.now:
                    self._suffer(span, took)
            for rank in range(self.ranks):
                late = self.rng.uniform(0, 2e-3)
                self.step_ends.append(StepEnd(self.now + late, rank, done, len(self.starts) - 1))
            done, sent = done + 1, sent + 1_800_000
            if self.now - said > 0.15:
                said = self.now
                self._tell(sent)
        self.ends += [Ended(self.now + 0.3, rank, 0, 0) for rank in range(self.ranks)]
        return RunRecord(
            seconds=self.now + 0.4,
            exit_status=0,
            weights_sha256="3f2a9c0de1b47a55" * 4,
            steps=self.steps,
            samples=self.steps * 256,
            metrics={"test_accuracy": 0.8997, "test_loss": math.nan},
            loss=tuple((step + 1, loss(step)) for step in range(self.steps)),
            starts=tuple(self.starts),
            step_ends=tuple(self.step_ends),
            links=tuple(sorted(self.links, key=lambda each: each.time)),
            traffic=tuple(self.traffic),
            faults=tuple(
                replace(span, ended=None) if (span.ended or 0.0) > self.now else span
                for span in self.spans
                if span.began < self.now
            ),
            ends=tuple(self.ends),
        )

    @property
    def ranks(self) -> int:
        return len(self.topology.hosts)

    def _start(self) -> None:
        self.starts.append(self.now)
        self.now += STARTUP

    def _suffer(self, span: FaultSpan, took: float) -> None:
        """Let a fault that has begun hold this step up."""
        fault, ended = span.fault, span.ended or 0.0
        if fault.kind in SLOWER:
            slower = took * SLOWER[fault.kind] * self.rng.uniform(0.7, 1.4)
            self.now += slower if self.now < ended else 0.0
        elif fault.kind != "kill" and span.number not in self.met:
            self.met.add(span.number)
            if fault.kind == "reset":
                self._lose(fault, self.now + 0.003, self.now + 0.003 + REDIAL, "reset by peer")
            elif ended - self.now > SILENCE:
                self._lose(fault, self.now + SILENCE, ended + REDIAL, "nothing moved for 2 s")
            else:
                self.now = max(self.now, ended + self.rng.uniform(0.05, 0.4))

    def _lose(self, fault: Fault, lost: float, back: float, why: str) -> None:
        hosts = self.topology.hosts
        named = [*fault.link, *(fault.nic or ())[:1]]
        first, *rest = [hosts.index(name) for name in named if name in hosts] or [0]
        for peer in rest or [(first - 1) % self.ranks, (first + 1) % self.ranks]:
            for one, other in ((first, peer), (peer, first)):
                late = self.rng.uniform(0, 0.02)
                self.links.append(LinkEvent(lost + late, one, other, True, why))
                self.links.append(LinkEvent(back + late, one, other, False))
        self.now = max(self.now, back + 0.03)

    def _killed(self) -> bool:
        """Start the job again if a worker has been killed, and return whether that was so."""
        for span in self.spans:
            if span.fault.kind != "kill" or span.number in self.met or span.began > self.now:
                continue
            self.met.add(span.number)
            rank, attempt = span.fault.worker or 0, len(self.starts) - 1
            self.ends.append(Ended(span.began + 0.02, rank, -9, attempt))
            for other in set(range(self.ranks)) - {rank}:
                why = "reset by peer"
                self.links.append(LinkEvent(span.began + 0.03, other, rank, True, why))
                self.ends.append(Ended(span.began + 0.2, other, 1, attempt))
            self.now = span.began + 0.5
            self._start()
            return True
        return False

    def _tell(self, sent: int) -> None:
        for rank in range(self.ranks):
            peer = (rank + 1) % self.ranks
            self.traffic.append(Traffic(self.now, rank, peer, sent, 9_000))
            self.traffic.append(Traffic(self.now, peer, rank, 9_000, sent))


def loss(step: int) -> float:
    """Return a loss that falls as one does."""
    return 2.1 * math.exp(-step / 90) + 0.28 + random.Random(step).gauss(0, 0.05)


def drilled(topology: Topology, script: Script, **job) -> tuple[RunRecord, RunRecord]:
    """Return the records of a quiet run and of one under `script`."""
    return Job(topology, Script(), **job).run(), Job(topology, script, **job).run()


NET = star(3)
SCRIPT = draw(NET, seed=4, mtbf=3.0, duration=100.0)


@pytest.fixture(scope="module")
def runs():
    return drilled(NET, SCRIPT)


def report(folder, quiet, faulty, *, topology=NET, title="train.py --epochs 4", script=SCRIPT):
    """Write a report and return its JSON and its page."""
    found = figures(quiet, faulty, quiet.samples, Layout(topology, topology.hosts))
    page = write_report(
        folder,
        quiet,
        faulty,
        found,
        topology,
        script.to_toml(),
        title=title,
        again="holdfast drill --seed 4",
    )
    assert page == folder / "drill.html"
    assert sorted(each.name for each in folder.iterdir()) == ["drill.html", "drill.json"]
    table = json.loads((folder / "drill.json").read_text(), parse_constant=pytest.fail)
    return table, page.read_text(encoding="utf-8")


class Checker(HTMLParser):
    """Checks that elements are closed as they were opened, and gathers what a page is made of."""

    VOID = frozenset({"meta", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.words, self.attributes = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def checked(page: str) -> Checker:
    """Return what is on a page that stands for itself: whole, without anything from elsewhere."""
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert not {"link", "img", "iframe", "object", "use", "image"} & set(checker.seen)
    assert not [each for each in checker.attributes if each[1] in ("src", "href", "xlink:href")]
    assert not [each for each in checker.attributes if each[1].startswith("on")]
    assert set(re.findall(r"https?://[^\"' ]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "url(" not in page
    places = [value for _, name, value in checker.attributes if name in ("d", "style", "viewBox")]
    assert not [value for value in places if re.search(r"nan|inf", value)]
    return checker


def test_a_drill_that_held(tmp_path, runs):
    table, page = report(tmp_path / "runs" / "x", *runs)
    assert table["promise_kept"] is True
    assert table["job"] == "train.py --epochs 4"
    assert table["command"] == "holdfast drill --seed 4"
    assert table["faulty"]["metrics"] == {"test_accuracy": 0.8997, "test_loss": None}
    said = " ".join(checked(page).words)
    assert "Held" in said
    assert "Weights identical, bit for bit" in said
    assert "Identical at all 940 points." in said
    for fault in table["faults"]:
        assert fault["text"] in said
    assert "holdfast drill --seed 4" in said
    assert "[[fault]]" in said
    assert "prefers-color-scheme: dark" in page


def test_both_curves_can_be_seen_where_they_are_the_same(runs, tmp_path):
    _, page = report(tmp_path, *runs)
    quiet = re.search(r'class="line quiet" d="([^"]+)"', page)
    faulty = re.search(r'class="line faulty" d="([^"]+)"', page)
    assert quiet is not None
    assert faulty is not None
    assert quiet[1] == faulty[1]
    widths = [float(re.search(rf"line\.{kind} .*stroke-width: ([\d.]+)", page)[1])
              for kind in ("quiet", "faulty")]  # fmt: skip
    assert widths[0] > 3 * widths[1]


def test_a_drill_that_broke_a_promise_says_which(tmp_path, runs):
    quiet, faulty = runs
    broken = replace(
        faulty,
        exit_status=1,
        weights_sha256="ab" * 32,
        samples=quiet.samples - 256,
        loss=tuple((step, value + (step > 500)) for step, value in faulty.loss),
        error="rank 1 failed\nTraceback (most recent call last): <b>",
    )
    table, page = report(tmp_path, quiet, broken)
    assert table["promise_kept"] is False
    assert len(table["broken_promises"]) == 3
    said = " ".join(checked(page).words)
    assert "Broken" in said
    assert all(sentence in said for sentence in table["broken_promises"])
    assert "From step 501 on the curves differ, by up to 1" in said
    assert "Traceback (most recent call last): <b>" in said


def test_a_killed_worker_is_reported_as_a_restart(tmp_path):
    net = leaf_spine(2, 2, 1, rate="1gbit", control=True)
    script = kill(worker=1, at="5.2s")
    table, page = report(tmp_path, *drilled(net, script), topology=net, script=script)
    assert table["promise_kept"] is True
    assert table["restarts"] == 1
    assert table["steps_repeated"] > 0
    assert table["steps_lost"] == 0
    said = checked(page)
    words = " ".join(said.words)
    assert "had to be repeated from a checkpoint" in words
    assert "job started again" in words
    marks = [value for tag, name, value in said.attributes if (tag, name) == ("span", "title")]
    assert any("rank 1 ended (signal 9)" in mark for mark in marks)


def test_a_drill_in_which_nothing_happened_does_not_say_that_it_held(tmp_path, runs):
    quiet, _ = runs
    table, page = report(tmp_path, quiet, quiet, script=Script())
    assert table["promise_kept"] is False
    words = checked(page).words
    assert "Nothing happened" in words
    assert "Held" not in words


def test_a_drill_of_which_nothing_is_known_is_still_a_page(tmp_path):
    empty = RunRecord(seconds=0.0, exit_status=1)
    table, page = report(tmp_path, empty, empty, script=Script())
    assert table["goodput"] == 0.0
    assert "The runs have told no loss." in checked(page).words


def test_what_a_job_or_a_file_says_is_only_ever_text(tmp_path, runs):
    evil = '</script><script>alert("1")</script>'
    hosts = tuple(f"{evil}{number}" for number in range(3))
    net = Topology(evil, hosts, ("s0",), tuple(replace(c, a=h) for c, h in
                   zip(NET.cables, hosts, strict=True)))  # fmt: skip
    quiet, faulty = runs
    faulty = replace(
        faulty,
        metrics={evil: 1.0},
        error=evil,
        exit_status=1,
        links=tuple(replace(each, why=evil) for each in faulty.links),
        faults=(FaultSpan(0, Fault("down", link=(hosts[0],)), 1.0, 2.0),),
    )
    _, page = report(tmp_path, quiet, faulty, topology=net, title=evil)
    assert checked(page).seen.count("script") == 1
    assert "alert(" in page
    assert evil not in page


def test_the_same_drill_gives_the_same_page(tmp_path, runs):
    assert report(tmp_path / "a", *runs) == report(tmp_path / "b", *runs)


def test_a_page_of_a_long_run_stays_small(tmp_path):
    """8,000 steps of 8 ranks under some 2,500 faults and with 2,500 lost links."""
    net = star(8)
    script = draw(net, seed=1, mtbf=4.0, duration=160.0)
    quiet, faulty = drilled(net, script, steps=8_000)
    spans = tuple(
        FaultSpan(place, faulty.faults[place % 30].fault, 1 + place / 15, 1.1 + place / 15)
        for place in range(2_500)
    )
    many = tuple(
        LinkEvent(1 + place / 20, place % 8, (place + 1) % 8, place % 16 < 8, "why")
        for place in range(5_000)
    )
    faulty = replace(faulty, links=many, faults=spans)
    table, page = report(tmp_path, quiet, faulty, topology=net, script=script)
    assert len(table["faults"]) == 2_500
    assert table["links_lost"] > 2_400
    assert len(page) < 1_000_000
    checked(page)


# Parts


def test_ranks_are_on_the_hosts_as_the_drill_places_them(runs):
    assert ranks_on(NET, *runs) == ["h0", "h1", "h2"]
    ends = tuple(StepEnd(1.0, rank, 0, 0) for rank in range(6))
    six = RunRecord(1.0, 0, step_ends=ends)
    assert ranks_on(NET, six) == ["h0", "h0", "h1", "h1", "h2", "h2"]
    assert ranks_on(NET, RunRecord(1.0, 1)) == ["h0", "h1", "h2"]


def test_throughput_is_what_was_sent_between_samples_of_one_attempt():
    samples = ((1.0, 100), (2.0, 300), (4.0, 300), (6.0, 50), (6.5, 150))
    record = RunRecord(
        seconds=8.0,
        exit_status=0,
        starts=(0.5, 5.0),
        traffic=tuple(Traffic(time, 0, 1, sent, 7) for time, sent in samples),
    )
    assert throughput(record) == {(0, 1): [(1.0, 2.0, 200.0), (2.0, 4.0, 0.0), (6.0, 6.5, 200.0)]}


@pytest.mark.parametrize(
    ("quiet", "faulty", "said"),
    [
        (((1, 2.0), (2, 1.0)), ((1, 2.0), (2, 1.0)), "Identical at all 2 points."),
        (((1, math.nan),), ((1, math.nan),), "Identical at all 1 point."),
        (
            ((1, 2.0), (2, 1.0)),
            ((1, 2.0), (2, 1.5)),
            "From step 2 on the curves differ, by up to 0.5 (2 points compared).",
        ),
        (((1, 2.0),), ((2, 2.0),), "The curves have no step in common."),
        (
            ((1, 2.0), (2, 1.0)),
            ((1, 2.0),),
            "Identical at all 1 point. 1 point is of one curve alone.",
        ),
    ],
)
def test_curves_are_compared_point_by_point(quiet, faulty, said):
    assert compare(quiet, faulty) == said


def test_every_kind_of_fault_has_a_colour():
    assert FAMILIES.keys() == KINDS.keys()
    assert set(LINK_KINDS) <= FAMILIES.keys()


SPANS = st.lists(st.tuples(st.integers(0, 990), st.integers(1, 60), st.floats(0, 9)), max_size=60)


@settings(deadline=None)
@given(drawn=SPANS, columns=st.integers(1, 50))
def test_thinning_keeps_the_extremes_and_the_area(drawn, columns):
    spans, free = [], 0.0
    for start, length, value in sorted(drawn):
        if start >= free:
            free = min(1000.0, start + length)
            spans.append((float(start), free, value))
    if not spans:
        return
    both = extremes(spans, columns)
    assert min(low[2] for low, _ in both) == min(value for *_, value in spans)
    assert max(high[2] for _, high in both) == max(value for *_, value in spans)
    thin = averages(spans, columns)
    assert len(thin) <= max(columns, 1)
    if len(spans) <= columns:
        assert thin == spans
    values = [value for *_, value in spans]
    assert all(min(values) - 1e-6 <= value <= max(values) + 1e-6 for *_, value in thin)


@settings(deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=200), columns=st.integers(1, 30))
def test_means_stay_within_their_columns(values, columns):
    points = [(float(place), value) for place, value in enumerate(values)]
    thin = means(points, 0.0, max(1.0, float(len(points) - 1)), columns)
    assert len(thin) == min(len(points), columns) or len(thin) < columns
    assert all(x <= later for (x, _), (later, _) in pairwise(thin))
    assert all(min(values) - 1e-9 <= y <= max(values) + 1e-9 for _, y in thin)


@settings(deadline=None)
@given(low=st.floats(-1e6, 1e6), wide=st.floats(1e-3, 1e6), most=st.integers(2, 12))
def test_ticks_are_within_the_axis_and_not_too_many(low, wide, most):
    axis = Axis(low, low + wide)
    ticks = axis.ticks(most)
    assert len(ticks) <= most + 1
    assert all(-1e-3 <= axis(tick) <= axis.size + 1e-3 for tick in ticks)


def test_ticks_of_a_log_axis_are_decades_or_finer_where_there_are_few():
    assert Axis(0.004, 2.0, log=True).ticks() == pytest.approx([0.01, 0.1, 1.0])
    assert Axis(0.012, 0.08, log=True).ticks() == pytest.approx([0.02, 0.05])


def test_a_stair_goes_along_its_spans_and_is_broken_by_a_gap():
    spans = [(0.0, 10.0, 5.0), (10.0, 20.0, 3.0), (40.0, 50.0, 1.0)]
    assert stairs(spans) == "M0 5V5H10V3H20M40 1V1H50"
    assert stairs(spans, floor=9.0) == "M0 9V5H10V3H20V9ZM40 9V1H50V9Z"


# The terminal


def test_the_lines_for_a_terminal(runs):
    quiet, faulty = runs
    found = figures(quiet, faulty, quiet.samples)
    lines = describe(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split()[:2] == ["no.", "fault"]
    text = " ".join(" ".join(lines).split())
    assert "weights identical" in text
    assert "samples committed 240,640 of 240,640 expected" in text
    assert text.endswith(" ".join(verdict(found)))
    assert "Held." in text


def test_the_terminal_shows_the_first_of_many_faults_and_reads_no_markup_in_them(runs):
    quiet, faulty = runs
    spans = tuple(
        FaultSpan(place, Fault("down", link=("[bold]x",)), 2 + place / 10, None)
        for place in range(30)
    )
    text = describe(figures(quiet, replace(faulty, faults=spans), quiet.samples))
    assert "and 10 faults more, in drill.json" in text
    assert text.count("down [bold]x") == 20


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0.0, "0 µs"),
        (0.000_25, "250 µs"),
        (0.0456, "45.6 ms"),
        (0.9999, "1.00 s"),
        (3.14159, "3.14 s"),
        (31.4159, "31.4 s"),
        (3141.59, "3,142 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(seconds, said):
    assert seconds_text(seconds) == said
