"""From what was seen of two runs to the figures and the verdict, on records made by hand."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.fabric.faults import Fault
from holdfast.fabric.topology import leaf_spine, star, two_rails
from holdfast.launch.drill.causes import AFTERMATH, Layout, causes
from holdfast.launch.drill.figures import NO_FAULT, Percentiles, figures, step_times, steps_repeated
from holdfast.launch.drill.record import Ended, FaultSpan, LinkEvent, RunRecord, StepEnd

DOWN = Fault("down", link=("h0", "h1"), for_=3.0)
SLOW = Fault("rate", link=("h0", "h1"), rate=1e6, for_=3.0)
RESET = Fault("reset", link=("h0", "h1"))
KILL = Fault("kill", worker=1)
PAUSE = Fault("pause", host="h1", for_=3.0)
LAYOUT = Layout(star(3), ("h0", "h1", "h2"))


def ends(*times, ranks=2, first=0, attempt=0):
    """Return the ends of steps at these times, of all ranks."""
    return tuple(
        StepEnd(time, rank, first + place, attempt)
        for place, time in enumerate(times)
        for rank in range(ranks)
    )


def run(*times, **more):
    """Return a run that finished steps at these times."""
    given = {
        "seconds": (times or (0.0,))[-1] + 1.0,
        "exit_status": 0,
        "weights_sha256": "aa",
        "steps": len(times),
        "samples": 32 * len(times),
        "starts": (0.5,),
        "step_ends": ends(*times),
    }
    return RunRecord(**(given | more))


QUIET = run(*range(1, 11))


def compared(quiet, faulty, **more):
    return figures(quiet, faulty, quiet.samples, **more)


def lost(time, rank=0, peer=1, back=None, why="Connection reset by peer"):
    """Return a link's loss and, with `back`, when it was restored."""
    gone = LinkEvent(time, rank, peer, True, why)
    return (gone,) if back is None else (gone, LinkEvent(back, rank, peer, False))


def span(fault, began, ended=None, number=0):
    return FaultSpan(number, fault, began, ended)


# Promises


def test_two_runs_alike_break_no_promise_but_show_nothing():
    found = compared(QUIET, QUIET)
    assert found.broken_promises == (NO_FAULT,)
    assert found.weights_identical
    assert (found.steps_lost, found.steps_repeated, found.restarts) == (0, 0, 0)
    assert found.samples_committed == found.samples_expected == 320
    assert found.goodput == 1.0
    assert found.faults == ()
    assert found.detection_seconds == found.recovery_seconds == Percentiles(None, None)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"weights_sha256": "bb"}, "The weights differ: aa without faults, bb under them."),
        ({"weights_sha256": None}, "The run under faults left no weights to compare."),
        ({"steps": 9}, "The result has 9 of 10 steps."),
        ({"samples": 319}, "320 samples were expected, 319 were committed."),
        ({"exit_status": 3}, "Under faults the job did not finish: exit status 3."),
        (
            {"exit_status": 3, "error": "rank 1 failed:\nTraceback"},
            "Under faults the job did not finish: exit status 3, rank 1 failed.",
        ),
        (
            {"starts": (0.5, 4.0)},
            "1 restart and 0 repeated steps, although no process was killed or paused.",
        ),
        (
            {"step_ends": (*ends(*range(1, 11)), StepEnd(10.5, 0, 9, 0))},
            "0 restarts and 1 repeated step, although no process was killed or paused.",
        ),
    ],
)
def test_each_promise_that_is_broken_is_said(changed, sentence):
    found = compared(QUIET, replace(QUIET, **changed))
    assert found.broken_promises == (sentence,)
    assert not found.promise_kept


def test_a_job_that_failed_has_lost_its_steps_and_is_not_blamed_for_its_weights_too():
    failed = run(1, 2, 3, exit_status=1, weights_sha256=None, steps=0, samples=0)
    found = compared(QUIET, failed)
    assert not found.weights_identical
    assert found.steps_lost == 10
    assert len(found.broken_promises) == 3  # not finished, steps, samples


def test_nothing_is_promised_without_a_quiet_run_that_finished():
    failed = replace(QUIET, exit_status=1, weights_sha256=None)
    assert "nothing to compare" in compared(failed, QUIET).broken_promises[0]


@pytest.mark.parametrize("fault", [KILL, PAUSE])
def test_after_a_kill_or_a_pause_a_restart_is_reported_and_breaks_nothing(fault):
    """Killed in step 5, started again from the checkpoint after step 4."""
    before, after = ends(1, 2, 3, 4, 5), ends(*range(8, 14), first=4, attempt=1)
    faulty = run(
        *range(1, 11),
        starts=(0.5, 7.0),
        step_ends=before + after,
        faults=(span(fault, 5.5, 5.5),),
        ends=(Ended(5.6, 1, -9, 0), Ended(6.0, 0, 1, 0), Ended(14.0, 0, 0, 1)),
    )
    found = compared(QUIET, faulty)
    assert found.promise_kept
    assert (found.restarts, found.steps_repeated, found.workers_ended) == (1, 1, 2)
    (seen,) = found.faults
    assert seen.step == 5
    assert seen.detection_seconds == pytest.approx(0.1)
    assert seen.recovery_seconds == pytest.approx(8 - 5.6)
    assert found.goodput == pytest.approx((9 / 12) / (9 / 9))


def test_a_step_that_only_some_ranks_ended_before_the_restart_is_repeated():
    ended = (StepEnd(1, 0, 0, 0), StepEnd(1, 1, 0, 0), StepEnd(2, 1, 1, 0))
    again = (StepEnd(5, 0, 1, 1), StepEnd(5, 1, 1, 1), StepEnd(6, 0, 2, 1), StepEnd(6, 1, 2, 1))
    assert steps_repeated(run(step_ends=ended + again)) == 1


# Detection and recovery


def one(faulty, **more):
    (seen,) = compared(QUIET, faulty, **more).faults
    return seen


def test_a_cut_is_detected_by_the_first_lost_link_and_over_with_the_next_step():
    """Silent from 3.2 s to 6.2 s: given up at 5.2 and 5.3 s, back at 6.4 s, a step at 6.5 s."""
    links = (*lost(5.2, 0, 1, back=6.4), *lost(5.3, 1, 0, back=6.3))
    faulty = run(1, 2, 3, 6.5, 7, links=links, faults=(span(DOWN, 3.2, 6.2),))
    seen = one(faulty)
    assert seen.detection_seconds == pytest.approx(2.0)
    assert seen.recovery_seconds == pytest.approx(0.3)
    assert (seen.outages, seen.step) == (2, 3)


def test_what_is_got_over_while_the_fault_is_in_force_counts_from_its_detection():
    faulty = run(*(1, 2, 3, 5.9, 7), links=lost(5.2, back=5.6), faults=(span(DOWN, 3.2, 20.0),))
    assert one(faulty).recovery_seconds == pytest.approx(0.7)


def test_a_fault_that_is_detected_only_after_its_end_counts_from_its_detection():
    faulty = run(1, 2, 3, 5.9, 7, links=lost(5.2, back=5.6), faults=(span(DOWN, 3.2, 5.1),))
    seen = one(faulty)
    assert seen.detection_seconds == pytest.approx(2.0)
    assert seen.recovery_seconds == pytest.approx(0.7)


def test_a_fault_without_an_end_counts_from_its_detection():
    faulty = run(1, 2, 3, 5.9, 7, links=lost(5.2, back=5.6), faults=(span(DOWN, 3.2),))
    seen = one(faulty)
    assert seen.ended is None
    assert seen.recovery_seconds == pytest.approx(0.7)


@pytest.mark.parametrize("links", [lost(5.2), (*lost(5.2, back=5.6), *lost(5.3, 2, 1))])
def test_there_is_no_recovery_while_a_link_stays_away(links):
    assert one(run(1, 2, 3, 8, links=links, faults=(span(DOWN, 3, 6),))).recovery_seconds is None


def test_there_is_no_recovery_without_a_step_after_it():
    faulty = run(1, 2, 3, links=lost(5.2, back=5.6), faults=(span(DOWN, 3.2, 5.1),))
    assert one(faulty).recovery_seconds is None


def test_a_cut_that_tcp_rides_out_has_no_detection_but_a_recovery():
    """No step for 2.4 s, where the quiet run has one each second."""
    seen = one(run(1, 2, 3, 5.4, 6, faults=(span(DOWN, 3.1, 4.6),)))
    assert seen.detection_seconds is None
    assert seen.recovery_seconds == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("fault", "times"),
    [(DOWN, (1, 2, 3, 4, 5)), (RESET, (1, 2, 3, 4, 5)), (SLOW, (1, 2, 3, 5.4, 6))],
)
def test_what_held_nothing_up_or_only_slowed_has_neither(fault, times):
    seen = one(run(*times, faults=(span(fault, 3.1, 3.3),)))
    assert (seen.detection_seconds, seen.recovery_seconds) == (None, None)


def test_workers_that_ended_well_are_no_detection():
    faulty = run(1, 2, faults=(span(DOWN, 0.5, 2.5),), ends=(Ended(2.4, 0, 0, 0),))
    found = compared(QUIET, faulty)
    assert found.faults[0].detection_seconds is None
    assert found.workers_ended == 0


def test_p50_and_p99_are_by_nearest_rank():
    assert Percentiles.of([None, 3.0, 1.0, 2.0]) == Percentiles(2.0, 3.0)
    assert Percentiles.of([4.0, 1.0, 2.0, 3.0]) == Percentiles(2.0, 4.0)
    assert Percentiles.of(map(float, range(1, 201))) == Percentiles(100.0, 198.0)
    assert Percentiles.of([None]) == Percentiles(None, None)


# Causes


def cause_of(time, *spans, rank=0, peer=1, layout=LAYOUT, **more):
    faulty = run(1, links=lost(time, rank, peer, **more), faults=spans)
    return [number for number, found in causes(faulty, layout).items() if found]


def test_an_event_is_put_down_to_the_latest_fault_that_cuts():
    early, late = span(DOWN, 1, 9, number=0), span(RESET, 4, 4, number=1)
    slow = span(SLOW, 4.5, 9, number=2)
    assert cause_of(5, early, late, slow) == [1]
    assert cause_of(3, early, late, slow) == [0]
    assert cause_of(5, slow) == [2]


def test_silence_is_put_down_to_a_fault_that_lasted_as_long():
    early, late = span(DOWN, 1, 4, number=0), span(RESET, 2.9, 2.9, number=1)
    assert cause_of(3, early, late, why="nothing moved for 2 s") == [0]
    assert cause_of(3, late, why="nothing moved for 2 s") == []
    assert cause_of(3, early, late) == [1]


def test_a_link_uses_the_first_rail_alone():
    rails = Layout(two_rails(2), ("h0", "h1"))
    for switch, touched in (("s0", [0]), ("s1", [])):
        dead = span(Fault("down", switch=switch), 1, 9)
        assert cause_of(5, dead, layout=rails) == touched
        assert rails.touches_any(dead.fault) == bool(touched)


def test_a_fault_is_forgotten_some_time_after_its_end():
    assert cause_of(9 + AFTERMATH, span(DOWN, 1, 9)) == [0]
    assert cause_of(9.01 + AFTERMATH, span(DOWN, 1, 9)) == []
    assert cause_of(99, span(DOWN, 1)) == [0]
    assert cause_of(0.9, span(DOWN, 1, 9)) == []


@pytest.mark.parametrize(
    ("fault", "touched"),
    [
        (DOWN, {(0, 1)}),
        (Fault("down", link=("h1",)), {(0, 1), (1, 2)}),
        (Fault("drop", nic=("h1", 0), direction="to"), {(0, 1), (1, 2)}),
        (Fault("down", switch="s0"), {(0, 1), (1, 2), (0, 2)}),
        (Fault("partition", groups=(("h0",), ("h1", "h2"))), {(0, 1), (0, 2)}),
        (Fault("pause", host="h2"), {(0, 2), (1, 2)}),
        (Fault("kill", worker=0), {(0, 1), (0, 2)}),
    ],
)
def test_a_fault_touches_only_what_its_place_lies_between(fault, touched):
    pairs = [(0, 1), (1, 2), (0, 2)]
    here = span(fault, 1, 9)
    assert {pair for pair in pairs if cause_of(2, here, rank=pair[0], peer=pair[1])} == touched
    turned = {pair for pair in pairs if cause_of(2, here, rank=pair[1], peer=pair[0])}
    assert turned == touched
    assert all(cause_of(2, here, rank=a, peer=b, layout=None) for a, b in pairs)


def test_a_cable_between_switches_touches_what_may_take_it_and_nothing_on_one_host():
    layout = Layout(leaf_spine(2, 2, 1), ("h0", "h0", "h1"))
    cable = span(Fault("down", link=("leaf0", "spine1")), 1, 9)
    assert cause_of(2, cable, rank=0, peer=2, layout=layout)
    assert not cause_of(2, cable, rank=0, peer=1, layout=layout)


def test_a_worker_s_end_is_put_down_to_its_own_kill():
    other = span(KILL, 2.0, 2.0)
    for rank, found in ((1, [0]), (2, [])):
        faulty = run(1, ends=(Ended(2.1, rank, -9, 0),), faults=(other,))
        assert [number for number, each in causes(faulty, LAYOUT).items() if each] == found


# Steps


def test_step_times_are_the_lowest_rank_s_and_begin_anew_with_an_attempt():
    seen = step_times(run(step_ends=ends(1, 2, 4) + ends(10, 10.5, first=1, attempt=1)))
    assert [(each.seconds, each.step, each.attempt) for each in seen] == [
        (1, 1, 0),
        (2, 2, 0),
        (0.5, 2, 1),
    ]


def test_a_run_of_one_step_has_no_goodput():
    assert compared(QUIET, run(1)).goodput is None


# All of it


def test_the_json_has_the_names_that_are_promised():
    links = lost(5.2, back=6.4)
    found = compared(QUIET, run(1, 2, 3, 6.5, links=links, faults=(span(DOWN, 3.2, 6.2),)))
    table = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert table.keys() >= {
        *("weights_identical", "steps_lost", "steps_repeated", "samples_expected"),
        *("samples_committed", "faults", "goodput", "promise_kept", "broken_promises"),
    }
    for name in ("detection_seconds", "recovery_seconds"):
        assert table[name].keys() == {"p50", "p99"}
    assert table["faults"][0] == {
        "number": 0,
        "kind": "down",
        "text": "down h0-h1 for 3s",
        "step": 3,
        "began": 3.2,
        "ended": 6.2,
        "outages": 1,
        "detection_seconds": pytest.approx(2.0),
        "recovery_seconds": pytest.approx(0.3),
    }


TIMES = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)


@st.composite
def records(draw):
    """Draw any run at all."""
    ranks = st.integers(0, 2)
    kinds = st.sampled_from([DOWN, SLOW, RESET, KILL, PAUSE])
    spans = [
        span(draw(kinds), began, draw(st.one_of(st.none(), st.floats(began, 120))), number)
        for number, began in enumerate(draw(st.lists(TIMES, max_size=5)))
    ]
    links = st.builds(LinkEvent, TIMES, ranks, st.integers(0, 2), st.booleans())
    stepped = st.builds(StepEnd, TIMES, ranks, st.integers(0, 9), st.integers(0, 2))
    ended = st.builds(Ended, TIMES, ranks, st.sampled_from([0, 1, -9]), st.integers(0, 2))
    return run(
        steps=draw(st.integers(0, 10)),
        samples=draw(st.integers(0, 400)),
        exit_status=draw(st.sampled_from([0, 0, 0, 1])),
        weights_sha256=draw(st.sampled_from(["aa", "bb", None])),
        starts=tuple(sorted(draw(st.lists(TIMES, max_size=3)))),
        step_ends=tuple(draw(st.lists(stepped, max_size=30))),
        links=tuple(draw(st.lists(links, max_size=10))),
        ends=tuple(draw(st.lists(ended, max_size=5))),
        faults=tuple(spans),
    )


@settings(deadline=None)
@given(quiet=records(), faulty=records(), layout=st.sampled_from([None, LAYOUT]))
def test_the_figures_of_any_two_runs_agree_with_each_other(quiet, faulty, layout):
    found = figures(quiet, faulty, quiet.samples, layout)
    json.dumps(found.to_json(), allow_nan=False)
    assert found.promise_kept == (not found.broken_promises)
    good = quiet.exit_status == faulty.exit_status == 0 and found.weights_identical
    good &= found.steps_lost == 0 and found.samples_committed == found.samples_expected
    assert good or not found.promise_kept
    assert [fault.number for fault in found.faults] == [each.number for each in faulty.faults]
    assert sum(fault.outages for fault in found.faults) <= found.links_lost + found.workers_ended
    for fault in found.faults:
        assert (fault.detection_seconds is None) == (fault.outages == 0)
        for value in (fault.detection_seconds, fault.recovery_seconds):
            assert value is None or value >= 0
    for each in (found.detection_seconds, found.recovery_seconds):
        assert (each.p50 is None) == (each.p99 is None)
        assert each.p50 is None or each.p99 is None or each.p50 <= each.p99
    assert found.goodput is None or (found.goodput >= 0 and math.isfinite(found.goodput))


@settings(deadline=None)
@given(record=records())
def test_a_run_beside_itself_never_differs(record):
    """A restart or a repeated step is still one, and so is a failure."""
    found = figures(record, record, record.samples)
    assert found.steps_lost == 0
    assert found.weights_identical == (record.weights_sha256 is not None)
    assert not any("differ" in said or "expected" in said for said in found.broken_promises)
