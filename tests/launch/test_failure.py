"""Which failure is the cause, whether to try again, and what is told about it."""

import pytest

from holdfast.launch.failure import (
    TAIL_LINES,
    TRACEBACK_LINES,
    Failure,
    choose_cause,
    decide,
    describe_failures,
    last_traceback,
)

NOTICED = Failure(0, "a", 1, consequence=True)
KILLED = Failure(1, "a", -9)
RAISED = Failure(2, "b", 7)
STOPPED = Failure(3, "b", -15, stopped=True)
LOST = Failure(4, "c", None, reason="its node is dead")

TRACE = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: {}\n'


def test_the_cause_is_the_first_that_is_no_consequence():
    assert choose_cause([NOTICED, KILLED, RAISED]) is KILLED
    assert choose_cause([NOTICED, STOPPED, RAISED]) is RAISED
    assert choose_cause([NOTICED, STOPPED]) is NOTICED


def test_exit_statuses_are_those_of_a_shell():
    assert [each.exit_status for each in (RAISED, KILLED, LOST)] == [7, 137, 1]


@pytest.mark.parametrize(
    ("failures", "stepped", "restarts", "decision"),
    [
        ([KILLED], False, 0, "restart"),
        ([LOST], False, 2, "restart"),
        ([KILLED], False, 3, "no restarts left"),
        ([RAISED, STOPPED], False, 0, "no step completed"),
        ([RAISED], True, 0, "restart"),
        ([RAISED, KILLED], False, 0, "restart"),
        ([NOTICED], False, 0, "restart"),
        ([Failure(0, "a", 2)], True, 0, "usage"),
    ],
)
def test_an_attempt_is_repeated_if_the_machine_is_to_blame_or_the_script_works(
    failures, stepped, restarts, decision
):
    assert decide(failures, stepped=stepped, restarts=restarts, max_restarts=3) == decision


def test_only_the_last_traceback_is_shown():
    text = TRACE.format("first") + "some warning\n" + TRACE.format("last")
    assert last_traceback(text) == TRACE.format("last").splitlines()


def test_a_chained_traceback_is_shown_whole():
    chained = (
        TRACE.format("inner")
        + "\nThe above exception was the direct cause of the following exception:\n\n"
        + TRACE.format("outer")
    )
    assert last_traceback(TRACE.format("old") + chained) == chained.splitlines()


def test_a_deep_traceback_is_shown_without_its_middle():
    deep = TRACE.format("deep").replace("  File", "\n".join(["  File"] * 500))
    shown = last_traceback(deep)
    assert len(shown) == TRACEBACK_LINES + 1
    assert shown[0].startswith("Traceback")
    assert shown[-1] == "ValueError: deep"


def test_without_a_traceback_the_last_lines_are_shown():
    assert last_traceback("".join(f"{n}\n" for n in range(50))) == [
        str(n) for n in range(50 - TAIL_LINES, 50)
    ]
    assert last_traceback("") == []


def test_the_block_has_the_cause_first_and_the_rest_as_a_number():
    block = describe_failures(
        [NOTICED, RAISED, STOPPED, KILLED],
        attempt=1,
        stderr=TRACE.format("boom"),
        log="runs/x/attempt_1/rank_2/stderr.log",
        world_size=4,
    )
    assert block.splitlines() == [
        "rank 2 on b ended with exit status 7 (attempt 1)",
        *TRACE.format("boom").splitlines(),
        "2 other ranks ended as a consequence",
        "rank 1 on a was ended by SIGKILL too",
        "its output: runs/x/attempt_1/rank_2/stderr.log",
    ]


def test_a_kill_without_a_killer_points_to_the_memory():
    block = describe_failures([KILLED], attempt=0, stderr="", log="log", world_size=2)
    assert "rank 1 on a was ended by SIGKILL (attempt 0)" in block
    assert "ran out of memory" in block


def test_a_lost_node_is_called_so():
    block = describe_failures([LOST], attempt=0, stderr="", log="log", world_size=5)
    assert block.splitlines()[:2] == [
        "rank 4 on c was lost with its node (attempt 0)",
        "its node is dead",
    ]
