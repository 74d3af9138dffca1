"""Fixtures that several rooms' tests share."""

import contextlib
import secrets
import socket
import threading

import pytest

from holdfast.collectives import GroupConfig, LinkConfig, connect

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
