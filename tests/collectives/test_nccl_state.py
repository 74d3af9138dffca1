"""The life of an NCCL communicator: which instructions follow which events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collectives.nccl.state import (
    CLOSE_SECONDS,
    LONGEST_PAUSE,
    SHORTEST_PAUSE,
    Abort,
    Answer,
    Ask,
    Destroy,
    Ended,
    Fail,
    Finalize,
    Interrupted,
    Leave,
    LookAgain,
    Mark,
    NcclState,
    Phase,
    Post,
    Result,
    Separate,
    Shrink,
)
from holdfast.errors import CommunicationError, DeadlineExceeded, PeerLost

OK = Answer(Result.SUCCESS)
BUSY = Answer(Result.IN_PROGRESS)
GONE = Answer(Result.REMOTE_ERROR, "socket closed")


def opening(timeout=10.0):
    return NcclState("nccl, rank 0 of 2", timeout=timeout, now=0.0)


def ready(timeout=10.0):
    state = opening(timeout)
    assert state.handle(OK, 0.0) == []
    return state


def posted(*times, timeout=10.0):
    state = ready(timeout)
    for number, now in enumerate(times):
        assert state.handle(Ask(f"call {number}"), now) == [Post()]
        assert state.handle(OK, now) == [Mark()]
    return state


def kinds(instructions):
    return [type(instruction) for instruction in instructions]


def broken(instructions, kind, *words):
    abort, failure = instructions
    assert abort == Abort()
    assert failure.kind is kind
    for word in words:
        assert word in failure.message
    return True


def test_opens_when_the_library_says_so():
    state = opening()
    assert state.handle(BUSY, 0.0) == [LookAgain(SHORTEST_PAUSE)]
    assert state.handle(BUSY, 0.008) == [LookAgain(0.001)]
    assert state.handle(BUSY, 5.0) == [LookAgain(LONGEST_PAUSE)]
    assert state.handle(OK, 5.1) == []
    assert state.phase is Phase.READY


def test_an_opening_that_takes_too_long_is_aborted():
    state = opening(timeout=3.0)
    assert broken(state.handle(BUSY, 3.5), DeadlineExceeded, "3.5 s", "rank 0 of 2")
    assert state.phase is Phase.BROKEN


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (Result.REMOTE_ERROR, PeerLost),
        (Result.TIMEOUT, DeadlineExceeded),
        (Result.SYSTEM_ERROR, CommunicationError),
        (Result.INVALID_USAGE, CommunicationError),
    ],
)
def test_an_error_of_the_library_breaks_it(result, kind):
    for state in (opening(), ready(), posted(0.0)):
        assert broken(
            state.handle(Answer(result, "why"), 1.0), kind, "why", result.name.lower().split("_")[0]
        )


def test_a_call_is_marked_only_when_it_is_on_the_stream():
    state = ready()
    assert state.handle(Ask("all_reduce"), 1.0) == [Post()]
    assert state.handle(BUSY, 1.0) == [LookAgain(SHORTEST_PAUSE)]
    assert kinds(state.handle(BUSY, 1.5)) == [LookAgain]
    assert state.handle(OK, 2.0) == [Mark()]


def test_a_call_that_does_not_get_onto_the_stream_is_aborted():
    state = ready(timeout=2.0)
    state.handle(Ask("all_reduce"), 1.0)
    assert broken(state.handle(BUSY, 3.5), DeadlineExceeded, "all_reduce", "2.5 s")


def test_what_is_in_flight_is_late_when_nothing_has_ended_for_the_timeout():
    state = posted(0.0, 1.0, timeout=10.0)
    assert state.handle(OK, 9.0) == []
    assert state.handle(Ended(1), 9.5) == []
    assert state.handle(OK, 19.0) == []  # the second one's time began when the first had ended
    assert broken(state.handle(OK, 19.6), DeadlineExceeded, "call 1")


def test_an_idle_communicator_is_never_late():
    state = posted(0.0)
    state.handle(Ended(1), 1.0)
    assert state.handle(OK, 1e6) == []


def test_a_failure_in_flight_is_told_again_to_every_later_call():
    state = posted(0.0)
    assert broken(state.handle(GONE, 1.0), PeerLost, "call 0", "socket closed", "NCCL_DEBUG")
    for _ in range(2):
        (failure,) = state.handle(Ask("broadcast"), 2.0)
        assert failure.kind is PeerLost
        assert "broadcast" in failure.message
        assert "broke before this call" in failure.message
    assert state.handle(OK, 3.0) == []  # nothing is asked of a library that was aborted


def test_an_interrupted_call_breaks_it():
    state = ready()
    state.handle(Ask("all_reduce"), 1.0)
    assert broken(state.handle(Interrupted("KeyboardInterrupt"), 1.0), CommunicationError, "Keyb")
    assert state.handle(Interrupted("again"), 1.0) == []


def test_a_close_lets_peers_have_what_was_sent():
    state = posted(0.0)
    assert state.handle(Leave(), 1.0) == [Finalize()]
    assert kinds(state.handle(BUSY, 1.0)) == [LookAgain]
    assert state.handle(Leave(), 1.5) == []
    assert state.handle(OK, 2.0) == [Destroy()]
    assert state.phase is Phase.CLOSED
    assert kinds(state.handle(Ask("all_reduce"), 3.0)) == [Fail]


@pytest.mark.parametrize("answer", [GONE, BUSY])
def test_a_close_that_fails_or_takes_too_long_is_an_abort(answer):
    state = posted(0.0)
    state.handle(Leave(), 1.0)
    assert state.handle(answer, 1.1 + CLOSE_SECONDS) == [Abort()]
    assert state.phase is Phase.CLOSED


def test_a_broken_one_is_closed_without_the_library():
    state = posted(0.0)
    state.handle(GONE, 1.0)
    assert state.handle(Leave(), 2.0) == []
    assert state.phase is Phase.CLOSED


def test_a_close_breaks_off_a_call_that_is_being_posted():
    state = ready()
    state.handle(Ask("all_reduce"), 0.0)
    assert broken(state.handle(Leave(), 0.1), CommunicationError, "all_reduce")
    assert broken(opening().handle(Leave(), 0.1), CommunicationError, "opened")


def test_shrinks_then_leaves_the_parent():
    state = posted(0.0)
    assert state.handle(Separate(), 1.0) == [Shrink()]
    assert kinds(state.handle(BUSY, 1.0)) == [LookAgain]
    assert state.handle(OK, 2.0) == []
    assert kinds(state.handle(Ask("all_reduce"), 2.0)) == [Fail]
    assert state.handle(Leave(), 3.0) == [Abort()]
    assert state.phase is Phase.CLOSED


def test_a_shrink_that_fails_or_is_late_or_comes_too_late_is_an_error():
    state = ready()
    state.handle(Separate(), 1.0)
    assert broken(state.handle(GONE, 2.0), PeerLost, "shrink")
    (failure,) = state.handle(Separate(), 3.0)
    assert failure.kind is PeerLost
    state = ready(timeout=2.0)
    state.handle(Separate(), 1.0)
    assert broken(state.handle(BUSY, 3.1), DeadlineExceeded, "shrink")
    state = ready()
    state.handle(Separate(), 1.0)
    assert broken(state.handle(Leave(), 1.1), CommunicationError, "closed")


def test_an_unknown_code_is_an_error():
    assert Result(99) is Result.INTERNAL_ERROR


EVENTS = st.sampled_from([Ask("x"), OK, BUSY, GONE, Separate(), Leave(), Interrupted("y")])


@given(st.lists(st.tuples(EVENTS, st.floats(0, 4))))
def test_releases_the_handle_once_and_never_uses_it_again(steps):
    state, now, released, asked = opening(), 0.0, 0, False
    for event, passed in steps:
        now += passed
        if isinstance(event, Ask) and asked:
            continue  # the engine's lock sees to that
        instructions = state.handle(event, now)
        asked = (asked or Post() in instructions) and not {Mark, Abort} & set(kinds(instructions))
        assert not (
            released and {Post, Shrink, Finalize, Mark, LookAgain} & set(kinds(instructions))
        )
        released += sum(isinstance(each, Abort | Destroy) for each in instructions)
        assert released <= 1
        if state.phase in (Phase.BROKEN, Phase.CLOSED):
            assert released == 1
        assert state.phase is not Phase.BROKEN or state.failure is not None
