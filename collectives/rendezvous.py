"""How the ranks of a job find each other: everybody tells rank 0, rank 0 tells everybody.

Rank 0 listens at MASTER_ADDR:MASTER_PORT. Each rank proves that it holds the job's token
(`links/handshake.py`), gives a small JSON table of what others must know of it, and gets all
tables.
"""

import contextlib
import errno
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from holdfast.collectives.links import handshake
from holdfast.errors import (
    AuthenticationError,
    HoldfastError,
    PeerLost,
    ProtocolError,
    RendezvousError,
)

PURPOSE = b"rendezvous"
LARGEST_TABLE = 1 << 20
HANDSHAKE_SECONDS = 5.0
MOST_STRANGERS = 64
_LENGTH = struct.Struct("<I")

log = logging.getLogger("holdfast.rendezvous")

Table = dict[str, Any]


def host_identity() -> str:
    """Return what processes that can share memory have in common: the boot and the namespace."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens there; raise RendezvousError naming what is in the way."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise RendezvousError(
                f"port {port} of {address} is in use by another process; set MASTER_PORT to a "
                "free one on every rank, or end the process that holds it"
            ) from None
        raise RendezvousError(
            f"cannot listen on {address} port {port}: {error.strerror}; MASTER_ADDR must be an "
            "address of rank 0's host"
        ) from None
    return listener


class Rendezvous:
    """One rank's seat at the table; used once or more with `exchange`, then closed."""

    def __init__(
        self,
        rank: int,
        world_size: int,
        address: str,
        port: int,
        token: bytes,
        *,
        listen_fd: int | None = None,
        source: str | None = None,
        timeout: float,
    ) -> None:
        """Meet the others; RendezvousError after `timeout` seconds, or AuthenticationError.

        `source` is the address to come from; None leaves it to the system.
        """
        self.rank = rank
        self.world_size = world_size
        self._token = token
        self._source = source
        self._where = f"{address} port {port}"
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._peers: dict[int, socket.socket] = {}
        self._lock = threading.Lock()
        self._refused = ""
        self._listener: socket.socket | None = None
        try:
            if rank == 0:
                self._listener = (
                    listen(address, port) if listen_fd is None else socket.socket(fileno=listen_fd)
                )
                self._gather_ranks()
            else:
                self._peers[0] = self._join(address, port)
        except BaseException:
            self.close()
            raise

    @property
    def local_address(self) -> str:
        """This host's address as the others reach it: the one that talks to rank 0."""
        if self._peers:
            return str(next(iter(self._peers.values())).getsockname()[0])
        return "127.0.0.1"

    def exchange(self, table: Table) -> list[Table]:
        """Give this rank's table; return all of them, by rank. Every rank must call it."""
        if self.rank == 0:
            tables = [table]
            for rank in range(1, self.world_size):
                with self._named(rank, "waiting for its table"):
                    tables.append(_receive(self._peers[rank], self._left()))
            for rank, sock in self._peers.items():
                with self._named(rank, "sending it the tables"):
                    _send(sock, tables, self._left())
            return tables
        with self._named(0, "sending it its table"):
            _send(self._peers[0], table, self._left())
        with self._named(0, "waiting for the tables"):
            answer = _receive(self._peers[0], self._left())
        if not isinstance(answer, list) or len(answer) != self.world_size:
            raise ProtocolError("rank 0 sent no table for each rank")
        return answer

    def close(self) -> None:
        """Leave the table; may be called again."""
        for sock in self._peers.values():
            sock.close()
        self._peers.clear()
        if self._listener is not None:
            self._listener.close()

    def __enter__(self) -> "Rendezvous":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _named(self, peer: int, doing: str) -> Iterator[None]:
        """Say of which peer an error is."""
        try:
            yield
        except TimeoutError:
            raise RendezvousError(
                f"rank {peer} fell silent while rank {self.rank} was {doing}: the ranks did not "
                f"come together within {self._timeout:.0f} s; see what that rank does, and whether "
                "the network between the two stands"
            ) from None
        except OSError as error:
            raise PeerLost(
                f"rank {peer} left while rank {self.rank} was {doing} ({error.strerror}): its own "
                "output says why"
            ) from None

    def _left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _gather_ranks(self) -> None:
        assert self._listener is not None
        threads: list[threading.Thread] = []
        while len(self._peers) < self.world_size - 1:
            self._listener.settimeout(0.05)  # ranks are admitted beside this loop
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                if time.monotonic() < self._deadline:
                    continue
                missing = sorted(set(range(1, self.world_size)) - set(self._peers))
                raise RendezvousError(
                    f"rank(s) {', '.join(map(str, missing))} of {self.world_size} did not come to "
                    f"{self._where} within {self._timeout:.0f} s{self._refused}; see whether they "
                    "started, and whether a firewall stands between the hosts"
                ) from None
            threads = [thread for thread in threads if thread.is_alive()]
            if len(threads) >= MOST_STRANGERS:
                sock.close()
                continue
            threads.append(threading.Thread(target=self._meet, args=(sock,), daemon=True))
            threads[-1].start()
        for thread in threads:
            thread.join(HANDSHAKE_SECONDS)

    def _meet(self, sock: socket.socket) -> None:
        """Admit whoever connects, or turn it away; nobody else waits for it."""
        try:
            self._admit(sock)
        except (OSError, HoldfastError) as error:
            log.warning("a connection to the rendezvous was refused: %s", error)
            self._refused = f" (somebody was refused: {error})"
            if isinstance(error, HoldfastError):
                with contextlib.suppress(OSError):
                    sock.sendall(handshake.REFUSED)
            sock.close()

    def _admit(self, sock: socket.socket) -> None:
        deadline = min(time.monotonic() + HANDSHAKE_SECONDS, self._deadline)
        sock.settimeout(HANDSHAKE_SECONDS)
        acceptor = handshake.Acceptor(self._token, PURPOSE)
        sock.sendall(acceptor.challenge())
        hello = acceptor.check(_exactly(sock, handshake.HELLO_SIZE, deadline))
        if not 0 < hello.rank < self.world_size or hello.peer != self.world_size:
            raise ProtocolError(
                f"rank {hello.rank} of {hello.peer} came to a job of {self.world_size}"
            )
        with self._lock:
            if hello.rank in self._peers:
                raise ProtocolError(f"a second rank {hello.rank} came")
            sock.sendall(acceptor.welcome(0))
            self._peers[hello.rank] = sock

    def _join(self, address: str, port: int) -> socket.socket:
        pause, reason = 0.01, "nobody answered"
        while time.monotonic() < self._deadline:
            sock = None
            try:
                sock = socket.create_connection(
                    (address, port),
                    timeout=self._left(),
                    source_address=None if self._source is None else (self._source, 0),
                )
                hello = handshake.Hello(self.rank, self.world_size, 0, 0, 0)
                dialer = handshake.Dialer(self._token, PURPOSE, hello)
                challenge = _exactly(sock, handshake.CHALLENGE_SIZE, self._deadline)
                sock.sendall(dialer.answer(challenge))
                welcome = _exactly(sock, handshake.WELCOME_SIZE, self._deadline)
                if welcome == handshake.REFUSED:
                    raise AuthenticationError(
                        f"rank 0 at {self._where} refused rank {self.rank} of {self.world_size}: "
                        "the HOLDFAST_TOKEN of the two differ (a worker of another job?), or the "
                        "rank is taken, or the world size is another"
                    )
                dialer.admitted(welcome)
                return sock
            except (AuthenticationError, ProtocolError):
                if sock is not None:
                    sock.close()
                raise
            except OSError as error:
                if sock is not None:
                    sock.close()
                reason = error.strerror or str(error)
            time.sleep(pause)
            pause = min(2 * pause, 0.5)
        raise RendezvousError(
            f"rank {self.rank} did not reach rank 0 at {self._where} within {self._timeout:.0f} s "
            f"({reason}); see whether rank 0 started and MASTER_ADDR, MASTER_PORT are its own"
        )


def _exactly(sock: socket.socket, count: int, deadline: float) -> bytes:
    """Return `count` bytes; raise TimeoutError if they have not all come by `deadline`."""
    data = bytearray()
    while len(data) < count:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection")
        data += part
    return bytes(data)


def _send(sock: socket.socket, table: object, timeout: float) -> None:
    data = json.dumps(table).encode()
    sock.settimeout(timeout)
    sock.sendall(_LENGTH.pack(len(data)) + data)


def _receive(sock: socket.socket, timeout: float) -> Any:
    deadline = time.monotonic() + timeout
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size, deadline))
    if length > LARGEST_TABLE:
        raise ProtocolError(f"a table of {length} bytes was announced; at most {LARGEST_TABLE}")
    return json.loads(_exactly(sock, length, deadline))
