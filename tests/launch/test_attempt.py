"""An attempt's phases, with the time as an argument."""

from holdfast.launch.attempt import SETTLE, Attempt, Phase
from holdfast.launch.spec import Node, rank_table


def attempt(ranks: int = 2, nodes: int = 1) -> Attempt:
    return Attempt(rank_table([Node(f"n{n}", "127.0.0.1") for n in range(nodes)], ranks // nodes))


def test_it_is_over_when_all_have_ended_well():
    it = attempt()
    it.exited(0, 0, stopped=False, now=1.0)
    assert it.phase(500.0) is Phase.RUNNING
    it.exited(1, 0, stopped=False, now=500.0)
    assert it.phase(500.0) is Phase.OVER
    assert it.failures == []


def test_after_the_first_failure_the_others_have_a_while_to_end_by_themselves():
    it = attempt()
    it.exited(1, 7, stopped=False, now=10.0)
    assert it.phase(10.0 + SETTLE - 0.1) is Phase.SETTLING
    assert it.phase(10.0 + SETTLE) is Phase.STOPPING
    it.exited(0, -15, stopped=True, now=13.0)
    assert it.phase(13.0) is Phase.OVER
    assert [(f.rank, f.exit_status, f.stopped) for f in it.failures] == [
        (1, 7, False),
        (0, 143, True),
    ]


def test_a_worker_marks_its_own_end_as_a_consequence():
    it = attempt()
    lost = {"event": "failed", "error": "PeerLost", "message": "rank 1", "consequence": True}
    it.worker_event(0, lost)
    assert it.quiet(0)
    assert not it.quiet(1)
    it.exited(0, 1, stopped=False, now=1.0)
    it.exited(1, -9, stopped=False, now=1.1)
    assert [f.consequence for f in it.failures] == [True, False]


def test_a_step_and_a_checkpoint_are_remembered():
    it = attempt()
    assert not it.stepped
    it.worker_event(0, {"event": "progress", "step": 12})
    it.worker_event(0, {"event": "checkpoint", "step": 10, "path": "p"})
    assert (it.stepped, it.last_step, it.checkpointed) == (True, 12, True)


def test_a_lost_node_takes_those_that_still_ran_on_it():
    it = attempt(ranks=4, nodes=2)
    it.exited(2, 0, stopped=False, now=1.0)
    it.node_lost(1, "gone", 2.0)
    assert [(f.rank, f.host, f.returncode) for f in it.failures] == [(3, "n1", None)]
    assert it.running == {0, 1}
    it.exited(3, 0, stopped=False, now=3.0)  # too late to count
    assert len(it.failures) == 1


def test_an_interrupt_stops_a_quiet_attempt():
    it = attempt()
    it.stop_asked()
    assert it.phase(0.0) is Phase.STOPPING


def test_an_attempt_that_could_not_start_everywhere_is_over_and_names_the_lost_node():
    it = attempt(ranks=4, nodes=2)
    it.node_lost(1, "gone", 1.0)
    it.abandon("not started", 1.0)
    assert it.phase(1.0) is Phase.OVER
    assert [(f.rank, f.stopped) for f in it.failures] == [
        (2, False),
        (3, False),
        (0, True),
        (1, True),
    ]
