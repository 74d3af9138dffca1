"""A node's workers, with real processes and without Ray."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.errors import LaunchError
from holdfast.launch import workers
from holdfast.launch.workers import Exited, Output, WorkerCommand, WorkerGroup

pytestmark = pytest.mark.local

Events = list[Output | Exited]

FOREVER = "while True: time.sleep(100)"
TELLS = "import os, signal, sys, time\nprint('ready', flush=True)\n"


def command(code: str, rank: int = 0, **environment: str) -> WorkerCommand:
    return WorkerCommand(
        rank, (sys.executable, "-S", "-c", code), {**os.environ, **environment}, os.getcwd()
    )


def gather(group: WorkerGroup, until=lambda events: False) -> Events:
    """Poll until all workers have ended, or `until` says that it is enough."""
    events: Events = []
    running = {each.rank for each in group._commands}
    while running and not until(events):
        batch = group.poll(30.0)
        assert batch, f"nothing within 30 s; so far {events}"
        events += batch
        running -= {each.rank for each in batch if isinstance(each, Exited)}
    return events


def text(events, rank: int, stream: str) -> str:
    found = [
        e.data for e in events if isinstance(e, Output) and (e.rank, e.stream) == (rank, stream)
    ]
    return b"".join(found).decode()


def has_printed(rank: int, what: str):
    return lambda events: what in text(events, rank, "stdout")


def ends(events) -> dict[int, tuple[int, bool]]:
    return {e.rank: (e.returncode, e.stopped) for e in events if isinstance(e, Exited)}


def gone(pid: int) -> bool:
    """Whether the process has ended; one that only waits to be reaped has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_output_comes_by_stream_and_before_the_end():
    code = (
        "import os, sys\n"
        "print('out'); print('err', file=sys.stderr)\n"
        "os.write(int(os.environ['HOLDFAST_EVENTS_FD']), b'{}\\n')\n"
        "sys.exit(int(os.environ['STATUS']))"
    )
    commands = [command(code, rank, STATUS=str(rank * 7)) for rank in range(2)]
    with WorkerGroup(commands) as group:
        events = gather(group)
    for rank in range(2):
        assert text(events, rank, "stdout") == "out\n"
        assert text(events, rank, "stderr") == "err\n"
        assert text(events, rank, "events") == "{}\n"
        of_rank = [event for event in events if event.rank == rank]
        assert of_rank[-1] == Exited(rank, rank * 7, stopped=False)
    assert group.poll(10.0) == []


def test_a_signal_is_told_as_such():
    with WorkerGroup([command("import os; os.kill(os.getpid(), 11)")]) as group:
        assert ends(gather(group)) == {0: (-11, False)}


def test_stop_ends_all_and_can_be_repeated():
    group = WorkerGroup([command(TELLS + FOREVER, rank) for rank in range(3)])
    first = gather(group, lambda events: all(has_printed(r, "ready")(events) for r in range(3)))
    assert not ends(first)
    group.stop()
    group.stop()
    assert ends(group.poll(0)) == dict.fromkeys(range(3), (-signal.SIGTERM, True))


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace():
    stubborn = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + TELLS + FOREVER
    group = WorkerGroup([command(stubborn)])
    gather(group, has_printed(0, "ready"))
    group.stop(grace=0.2)
    assert ends(group.poll(0)) == {0: (-signal.SIGKILL, True)}


def test_less_grace_may_follow_more():
    stubborn = "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + TELLS + FOREVER
    group = WorkerGroup([command(stubborn)])
    gather(group, has_printed(0, "ready"))
    group.begin_stop(grace=1000.0)
    group.stop(grace=0)
    assert ends(group.poll(0)) == {0: (-signal.SIGKILL, True)}


def test_a_stopped_process_gets_its_sigterm_too():
    with WorkerGroup(
        [command(TELLS + "os.kill(os.getpid(), signal.SIGSTOP)\n" + FOREVER)]
    ) as group:
        gather(group, has_printed(0, "ready"))
        group.stop(grace=60.0)
        assert ends(group.poll(0)) == {0: (-signal.SIGTERM, True)}


def test_a_worker_may_clean_up_and_choose_its_status():
    code = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(75))\n" + TELLS + FOREVER
    with WorkerGroup([command(code)]) as group:
        gather(group, has_printed(0, "ready"))
        group.stop(grace=60.0)
        assert ends(group.poll(0)) == {0: (75, True)}


def test_the_children_of_a_worker_end_with_it(until):
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(1000)'])\n"
        "print(p.pid, flush=True)"
    )
    with WorkerGroup([command(code)]) as group:
        events = gather(group)
    until(lambda: gone(int(text(events, 0, "stdout"))))


def test_rank_0_gets_the_listening_socket_and_nobody_keeps_it():
    code = (
        "import os, socket\n"
        "listening = socket.socket(fileno=int(os.environ['HOLDFAST_RENDEZVOUS_FD']))\n"
        "print('ready', flush=True)\n"
        "listening.accept()[0].sendall(b'hello')"
    )
    rendezvous = socket.create_server(("127.0.0.1", 0))
    address = rendezvous.getsockname()
    other = "import os; print('HOLDFAST_RENDEZVOUS_FD' in os.environ)"
    with WorkerGroup([command(code), command(other, 1)], rendezvous) as group:
        with socket.create_connection(address) as caller:
            assert caller.recv(5) == b"hello"
        events = gather(group)
    assert ends(events) == {0: (0, False), 1: (0, False)}
    assert text(events, 1, "stdout") == "False\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_listener_that_is_slow_fills_no_memory(monkeypatch) -> None:
    monkeypatch.setattr(workers, "BUFFER_LIMIT", 256 * 1024)
    size = 4 * 2**20
    code = f"import sys; sys.stdout.write('x' * {size}); sys.stdout.flush()"
    most = 0
    with WorkerGroup([command(code)]) as group:
        events: Events = []
        while not ends(events):
            batch = group.poll(30.0, gather=0.05)
            assert batch
            most = max(most, sum(len(e.data) for e in batch if isinstance(e, Output)))
            events += batch
    assert len(text(events, 0, "stdout")) == size
    assert most < 1024 * 1024


def test_a_worker_that_cannot_be_started_leaves_none_running_and_no_socket(until, tmp_path):
    pid_file = tmp_path / "pid"
    good = command(f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid()))")
    bad = WorkerCommand(1, (sys.executable,), dict(os.environ), str(tmp_path / "absent"))
    rendezvous = socket.create_server(("127.0.0.1", 0))
    with pytest.raises(LaunchError, match=r"could not be started.*absent"):
        WorkerGroup([good, bad], rendezvous)
    assert rendezvous.fileno() == -1
    if pid_file.exists() and pid_file.read_text():
        until(lambda: gone(int(pid_file.read_text())))


def test_a_killed_agent_takes_its_workers_and_their_children_along(until, tmp_path):
    worker = (
        "import os, subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(1000)'])\n"
        f"open({str(tmp_path / 'part')!r}, 'w').write(f'{{os.getpid()}} {{p.pid}}')\n"
        f"os.rename({str(tmp_path / 'part')!r}, {str(tmp_path / 'pids')!r})\n"
        "time.sleep(1000)"
    )
    agent = (
        "import os, sys, time\n"
        "from holdfast.launch.workers import WorkerCommand, WorkerGroup\n"
        f"argv = (sys.executable, '-S', '-c', {worker!r})\n"
        "group = WorkerGroup([WorkerCommand(0, argv, dict(os.environ), os.getcwd())])\n"
        "time.sleep(1000)"
    )
    process = subprocess.Popen([sys.executable, "-c", agent])
    until((tmp_path / "pids").exists)
    process.kill()
    process.wait()
    for pid in (tmp_path / "pids").read_text().split():
        until(lambda pid=pid: gone(int(pid)))


def test_no_descriptor_and_no_thread_is_left():
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    with WorkerGroup([command("print(1)")]) as group:
        gather(group)
    before, threads = descriptors(), threading.active_count()
    for _ in range(5):
        with WorkerGroup([command("print(1)"), command(FOREVER, 1)]) as group:
            gather(group, has_printed(0, "1"))
    assert descriptors() == before
    assert threading.active_count() == threads


def test_signals_that_ray_blocks_reach_the_worker():
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with WorkerGroup([command(code)]) as group:
            events = gather(group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert text(events, 0, "stdout") == "set()\n"


def test_an_end_is_told_at_once_and_output_is_gathered() -> None:
    with WorkerGroup([command("print(1)")]) as group:
        events: Events = []
        while not ends(events):
            events += group.poll(30.0, gather=1000.0)
    assert ends(events) == {0: (0, False)}
