"""Fixtures that several rooms' tests share."""

import contextlib
import functools
import gc
import os
import secrets
import socket
import subprocess
import sys
import threading

import pytest

from holdfast.collectives import GroupConfig, LinkConfig, connect
from holdfast.errors import FabricError
from holdfast.fabric import build, star


def pytest_collection_finish():
    """Let no `gc.collect` of a test look again at all that was imported: that takes long."""
    gc.collect()
    gc.freeze()


@functools.cache
def why_no_kernel_network():
    """Return what is missing for a network of namespaces; None if nothing is."""
    try:
        build("kernel", star(1)).close()
    except FabricError as error:
        return str(error)
    return None


@pytest.fixture(autouse=True)
def skip_without_namespaces(request):
    if request.node.get_closest_marker("netns") and why_no_kernel_network():
        pytest.skip(why_no_kernel_network())


QUICK_LINK = LinkConfig(
    segment=16 << 10, copy_limit=1 << 10, heartbeat=0.05, silence=0.25, handshake=0.5
)


class Ranks:
    """Runs a function on every rank of a group, each rank in a thread of its own."""

    def __init__(self):
        self.link = QUICK_LINK
        self.timeout = 20.0

    def __call__(self, world_size, transport, body, **overrides):
        """Return what `body(communicator)` returns on each rank; raise the first rank's error."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        token = secrets.token_bytes(32)
        fd = listener.detach()

        def member(rank):
            config = GroupConfig(
                rank,
                world_size,
                master_port=port,
                token=token,
                transport=transport,
                listen_fd=fd if rank == 0 else None,
                timeout=self.timeout,
                link=self.link,
                **overrides,
            )
            with contextlib.closing(connect(config)) as communicator:
                return body(communicator)

        return self.threads(world_size, member)

    def threads(self, count, body):
        """Run `body(i)` in `count` threads and return the results in order."""
        results = [None] * count
        errors = []

        def run(index):
            try:
                results[index] = body(index)
            except BaseException as error:  # handed to the test
                errors.append(error)

        threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        assert not any(thread.is_alive() for thread in threads), "a rank hangs"
        if errors:
            raise errors[0]
        return results


@pytest.fixture
def ranks():
    return Ranks()


class Workers:
    """Starts a script on every rank of a job, each a process of its own, without a launcher."""

    def __call__(self, world_size, script, *args, run_dir, transport="auto", timeout=60, **environ):
        """Run it to its end; return each rank's (exit status, standard error).

        `environ` is added to every rank's environment, `rank_1={...}` to rank 1's.
        """
        own = {name: environ.pop(name) for name in list(environ) if name.startswith("rank_")}
        listener = socket.create_server(("127.0.0.1", 0))
        base = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HOLDFAST_")},
            "WORLD_SIZE": str(world_size),
            "LOCAL_WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(listener.getsockname()[1]),
            "HOLDFAST_TOKEN": secrets.token_hex(32),
            "HOLDFAST_TRANSPORT": transport,
            "HOLDFAST_RUN_DIR": str(run_dir),
            "OMP_NUM_THREADS": "1",
            **environ,
        }
        processes = []
        for rank in range(world_size):
            env = {**base, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            env |= own.get(f"rank_{rank}", {})
            fds = ()
            if rank == 0:
                fds = (listener.fileno(),)
                env["HOLDFAST_RENDEZVOUS_FD"] = str(listener.fileno())
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(script), *map(str, args)],
                    env=env,
                    pass_fds=fds,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        listener.close()
        try:
            return [(p.communicate(timeout=timeout)[1], p.returncode)[::-1] for p in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()


@pytest.fixture(scope="session")
def workers():
    return Workers()
