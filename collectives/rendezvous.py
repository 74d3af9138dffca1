"""How the ranks of a job find each other: everybody tells rank 0, rank 0 tells everybody.

Rank 0 listens at MASTER_ADDR:MASTER_PORT. Each rank proves that it holds the job's token
(`handshake.py`), gives a small JSON table of what others must know of it, and gets all tables.
"""

import contextlib
import errno
import json
import os
import socket
import struct
import time
from types import TracebackType
from typing import Any

from holdfast.collectives import handshake
from holdfast.errors import AuthenticationError, HoldfastError, ProtocolError, RendezvousError

PURPOSE = b"rendezvous"
LARGEST_TABLE = 1 << 20
_LENGTH = struct.Struct("<I")

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
        timeout: float,
    ) -> None:
        """Meet the others; RendezvousError after `timeout` seconds, or AuthenticationError."""
        self.rank = rank
        self.world_size = world_size
        self._token = token
        self._where = f"{address} port {port}"
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._peers: dict[int, socket.socket] = {}
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
            tables = [table] + [
                _receive(self._peers[rank], self._left()) for rank in range(1, self.world_size)
            ]
            for sock in self._peers.values():
                _send(sock, tables, self._left())
            return tables
        _send(self._peers[0], table, self._left())
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

    def _left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def _gather_ranks(self) -> None:
        assert self._listener is not None
        refused = ""
        while len(self._peers) < self.world_size - 1:
            self._listener.settimeout(self._left())
            try:
                sock, _ = self._listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, self.world_size)) - set(self._peers))
                raise RendezvousError(
                    f"rank(s) {', '.join(map(str, missing))} of {self.world_size} did not come to "
                    f"{self._where} within {self._timeout:.0f} s{refused}; see whether they "
                    "started, and whether a firewall stands between the hosts"
                ) from None
            try:
                rank = self._admit(sock)
            except (OSError, HoldfastError) as error:
                sock.close()
                refused = f" (a stranger was refused: {error})"
                continue
            self._peers[rank] = sock

    def _admit(self, sock: socket.socket) -> int:
        sock.settimeout(min(5.0, self._left()))  # a stranger that says nothing holds nobody up long
        acceptor = handshake.Acceptor(self._token, PURPOSE)
        sock.sendall(acceptor.challenge())
        hello = acceptor.check(_exactly(sock, handshake.HELLO_SIZE))
        if not 0 < hello.rank < self.world_size or hello.peer != self.world_size:
            raise ProtocolError(
                f"rank {hello.rank} of {hello.peer} came to a job of {self.world_size}"
            )
        if hello.rank in self._peers:
            raise ProtocolError(f"a second rank {hello.rank} came")
        sock.sendall(acceptor.welcome(0))
        return hello.rank

    def _join(self, address: str, port: int) -> socket.socket:
        pause, reason = 0.01, "nobody answered"
        while time.monotonic() < self._deadline:
            sock = None
            try:
                sock = socket.create_connection((address, port), timeout=self._left())
                hello = handshake.Hello(self.rank, self.world_size, 0, 0)
                dialer = handshake.Dialer(self._token, PURPOSE, hello)
                challenge = _exactly(sock, handshake.CHALLENGE_SIZE)
                sock.sendall(dialer.answer(challenge))
                dialer.admitted(self._welcome(sock))
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

    def _welcome(self, sock: socket.socket) -> bytes:
        try:
            return _exactly(sock, handshake.WELCOME_SIZE)
        except ConnectionError:
            raise AuthenticationError(
                f"rank 0 at {self._where} refused rank {self.rank} of {self.world_size}: the "
                "HOLDFAST_TOKEN of the two differ (a worker of another job?), or the rank is "
                "taken, or the world size is another"
            ) from None


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection")
        data += part
    return bytes(data)


def _send(sock: socket.socket, table: object, timeout: float) -> None:
    data = json.dumps(table).encode()
    sock.settimeout(timeout)
    with _named("sending its table"):
        sock.sendall(_LENGTH.pack(len(data)) + data)


def _receive(sock: socket.socket, timeout: float) -> Any:
    sock.settimeout(timeout)
    with _named("waiting for a table"):
        (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size))
        if length > LARGEST_TABLE:
            raise ProtocolError(f"a table of {length} bytes was announced; at most {LARGEST_TABLE}")
        return json.loads(_exactly(sock, length))


@contextlib.contextmanager
def _named(doing: str) -> Any:
    try:
        yield
    except TimeoutError:
        raise RendezvousError(f"a rank fell silent while this one was {doing}") from None
    except OSError as error:
        raise RendezvousError(f"a rank left while this one was {doing}: {error}") from None
