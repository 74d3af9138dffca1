"""Lines out of pieces, and the files that keep them."""

import json

from hypothesis import given
from hypothesis import strategies as st

from holdfast.launch.logs import (
    LINE_LIMIT,
    TAIL_SIZE,
    AttemptLogs,
    EventLog,
    LineSplitter,
    next_attempt,
    parse_event,
)


@given(st.lists(st.binary(max_size=8)))
def test_however_the_bytes_are_cut_the_lines_are_the_same(pieces):
    whole = LineSplitter()
    expected = whole.feed(b"".join(pieces)) + whole.rest()
    splitter = LineSplitter()
    found = [line for piece in pieces for line in splitter.feed(piece)]
    assert found + splitter.rest() == expected


def test_a_line_shows_what_stands_on_the_screen_in_the_end():
    assert LineSplitter().feed(b"10%\r50%\r100%\r\nnext\n") == ["100%", "next"]


def test_a_line_without_end_is_told_when_it_is_long():
    splitter = LineSplitter()
    assert splitter.feed(b"x" * LINE_LIMIT) == []
    assert splitter.feed(b"y") == ["x" * LINE_LIMIT + "y"]


def test_files_hold_the_output_byte_for_byte_and_the_end_of_stderr_is_kept(tmp_path):
    with AttemptLogs(tmp_path / "attempt_0", 2) as logs:
        logs.write(0, "stdout", b"half a ")
        logs.write(0, "stdout", b"line \xff\n")
        logs.write(1, "stderr", b"a" * TAIL_SIZE + b"the end")
        assert logs.path(0, "stdout").read_bytes() == b"half a line \xff\n"
        assert logs.stderr_tail(1).endswith("aathe end")
        assert len(logs.stderr_tail(1)) == TAIL_SIZE
        assert logs.stderr_tail(0) == ""
    assert sorted(each.name for each in (tmp_path / "attempt_0" / "rank_1").iterdir()) == [
        "stderr.log",
        "stdout.log",
    ]


def test_events_are_json_lines_with_their_time(tmp_path):
    log = EventLog(tmp_path, clock=lambda: 12.5)
    log.write("restart", restart=1)
    log.append({"event": "checkpoint", "step": 3})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert lines == [
        {"time": 12.5, "event": "restart", "restart": 1},
        {"time": 12.5, "event": "checkpoint", "step": 3},
    ]


def test_attempts_of_an_earlier_launch_keep_their_numbers(tmp_path):
    assert next_attempt(tmp_path) == 0
    for name in ("attempt_0", "attempt_10", "attempt_x"):
        (tmp_path / name).mkdir()
    assert next_attempt(tmp_path) == 11


def test_what_is_no_event_is_none():
    assert parse_event('{"event": "finished"}') == {"event": "finished"}
    for line in ("", "nonsense", "[1]", '{"event": 3}', "{}"):
        assert parse_event(line) is None
