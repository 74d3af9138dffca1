"""A person sees a bar on a terminal, few plain lines elsewhere, and nothing twice."""

import io
import threading

import pytest
from rich.console import Console

from holdfast.runtime.progress import ProgressView


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def progress(step, **changes):
    return {
        "event": "progress",
        "step": step,
        "total_steps": 1000,
        "data_epoch": step // 200,
        "epochs": 5,
        "loss": 0.51234,
        "samples_per_second": 21_345.6,
    } | changes


@pytest.fixture
def clock():
    return Clock()


def view_of(clock, *, terminal):
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, color_system=None)
    return ProgressView(console, clock=clock), text


def test_plain_lines_come_at_most_every_five_seconds(clock):
    view, text = view_of(clock, terminal=False)
    for step in range(0, 200, 10):
        view.handle(progress(step))
        clock.now += 1.0
    lines = text.getvalue().splitlines()
    assert lines == [
        "step 0/1000, epoch 1/5, loss 0.5123, 21,346 samples/s, -:--:-- left",
        "step 50/1000, epoch 1/5, loss 0.5123, 21,346 samples/s, 0:01:35 left",
        "step 100/1000, epoch 1/5, loss 0.5123, 21,346 samples/s, 0:01:30 left",
        "step 150/1000, epoch 1/5, loss 0.5123, 21,346 samples/s, 0:01:25 left",
    ]


def test_the_last_step_is_always_shown(clock):
    view, text = view_of(clock, terminal=False)
    for step in (998, 999, 1000):
        view.handle(progress(step, data_epoch=4))
        clock.now += 0.1
    assert [line.split(",")[0] for line in text.getvalue().splitlines()] == [
        "step 998/1000",
        "step 1000/1000",
    ]


def test_the_time_left_counts_from_where_the_run_went_on(clock):
    view, text = view_of(clock, terminal=False)
    view.handle(progress(500))
    clock.now += 1000.0  # a restart took long
    view.handle({"event": "resumed", "step": 400, "path": "/run/step_00000400"})
    view.handle(progress(400))
    clock.now += 10.0
    view.handle(progress(500))
    assert "resumed after step 400 from /run/step_00000400" in text.getvalue()
    assert text.getvalue().splitlines()[-1].endswith("0:00:50 left")


def test_other_events_are_plain_lines(clock):
    view, text = view_of(clock, terminal=False)
    metrics = {"test_accuracy": 0.9136, "test_loss": 0.00001234}
    view.handle({"event": "evaluated", "step": 235, "data_epoch": 0, "metrics": metrics})
    view.handle({"event": "checkpoint", "step": 235, "path": "/run/step_00000235"})
    view.handle({"event": "notice", "text": "[bold]as it is[/bold]"})
    view.handle({"event": "from the future"})
    view.handle({})
    assert text.getvalue().splitlines() == [
        "epoch 1, step 235: test accuracy 0.9136, test loss 1.234e-05",
        "step 235: checkpoint in /run/step_00000235",
        "[bold]as it is[/bold]",
    ]


def test_a_worker_s_line_is_neither_wrapped_nor_interpreted(clock):
    view, text = view_of(clock, terminal=False)
    long = "[rank 0] " + "x" * 300 + " [red]1.5[/red] :smile:"
    view.line(long)
    view.line("")
    assert text.getvalue() == long + "\n\n"


def test_a_terminal_has_a_bar_with_lines_above_it(clock):
    view, text = view_of(clock, terminal=True)
    with view:
        view.handle(progress(0))
        clock.now += 2.0
        view.handle(progress(250))
        view.line("[rank 1] hello")
    shown = text.getvalue()
    last = shown.splitlines()[-2]  # the bar as it stood at the end; then the cursor comes back
    for part in ("epoch 2/5", "250/1000", "loss 0.5123", "21,346 samples/s", "0:00:06 left"):
        assert part in last
    assert shown.index("[rank 1] hello") < shown.rindex("250/1000")
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1  # the cursor came back


def test_closing_twice_is_harmless_and_leaves_no_thread(clock):
    before = threading.active_count()
    view, _ = view_of(clock, terminal=True)
    view.handle(progress(1))
    view.close()
    view.close()
    assert threading.active_count() == before


def test_several_threads_may_write(clock):
    view, text = view_of(clock, terminal=False)

    def work(number):
        for line in range(200):
            view.line(f"{number}:{line}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = text.getvalue().splitlines()
    assert sorted(lines) == sorted(f"{number}:{line}" for number in range(4) for line in range(200))
