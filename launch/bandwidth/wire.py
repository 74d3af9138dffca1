"""Plain sockets between two ranks, with nothing of ours above them: the limit of a wire.

They block, as they do in any program that only wants to move bytes. With several streams each
takes the next piece when it is free, so that a slow one does not hold up the others.
"""

import contextlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from holdfast.errors import CommunicationError, DeadlineExceeded

PIECE = 256 << 10
"""Bytes that one of several streams takes at a time, and that are received at a time."""
_SMALL = 64 << 10  # bytes that a socket takes without waiting for the peer
_SECRET = 32
_HELLO = 5.0  # seconds that who connects has for saying the secret


class Wire:
    """The streams to one peer; one thread at a time. Close it.

    Both ends call `exchange` with what fits the other's. Raises DeadlineExceeded where nothing
    moves for `timeout` seconds, CommunicationError where the peer is gone.
    """

    def __init__(self, streams: Sequence[socket.socket], timeout: float) -> None:
        self._streams = list(streams)
        for stream in self._streams:
            stream.settimeout(timeout)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._threads = ThreadPoolExecutor(2 * len(self._streams), "holdfast-wire")
        self._source = memoryview(bytes(PIECE))
        self._targets = [memoryview(bytearray(PIECE)) for _ in self._streams]

    def exchange(self, out: int, into: int) -> list[int]:
        """Send `out` bytes and receive `into` at the same time; return the bytes of each stream.

        They are those sent, or received where none are sent.
        """
        try:
            if len(self._streams) == 1:
                return self._exchange_on_one(out, into)
            return self._exchange_on_many(out, into)
        except TimeoutError:
            raise DeadlineExceeded("plain sockets: nothing moved in time") from None
        except OSError as error:
            raise CommunicationError(f"plain sockets: {error}") from error

    def close(self) -> None:
        """Close the streams; may be called again."""
        for stream in self._streams:
            with contextlib.suppress(OSError):  # the peer may have gone
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _exchange_on_one(self, out: int, into: int) -> list[int]:
        (stream,), (target,) = self._streams, self._targets
        if not (out and into) or out <= _SMALL:
            _send(stream, self._source, out)
            _receive(stream, target, into)
        else:
            sending = self._threads.submit(_send, stream, self._source, out)
            _receive(stream, target, into)
            sending.result()
        return [out or into]

    def _exchange_on_many(self, out: int, into: int) -> list[int]:
        pieces = _Pieces(out)
        sending: list[Future[int]] = []
        receiving: list[Future[int]] = []
        for stream, target in zip(self._streams, self._targets, strict=True):
            if out:
                sending.append(
                    self._threads.submit(_send_pieces, stream, self._source, pieces.take)
                )
            if into:
                receiving.append(self._threads.submit(_receive_pieces, stream, target))
        received = [each.result() for each in receiving]
        return [each.result() for each in sending] or received


class _Pieces:
    """What is yet to be sent, for whichever stream is free."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._lock = threading.Lock()

    def take(self) -> int:
        """Return how many bytes come next; 0: that was all."""
        with self._lock:
            size = min(PIECE, self._left)
            self._left -= size
            return size


def _send(stream: socket.socket, source: memoryview, size: int) -> None:
    while size:
        size -= stream.send(source[: min(size, PIECE)])


def _receive(stream: socket.socket, target: memoryview, size: int) -> None:
    while size:
        count = stream.recv_into(target[: min(size, PIECE)])
        if not count:
            raise ConnectionError("the peer closed the connection")
        size -= count


def _send_pieces(stream: socket.socket, source: memoryview, take: Callable[[], int]) -> int:
    """Send pieces, each behind its size, until there are none; return the bytes."""
    total = 0
    while size := take():
        stream.sendall(size.to_bytes(4), socket.MSG_MORE)
        stream.sendall(source[:size])
        total += size
    stream.sendall(bytes(4))
    return total


def _receive_pieces(stream: socket.socket, target: memoryview) -> int:
    total = 0
    while True:
        _receive(stream, target, 4)
        size = int.from_bytes(target[:4])
        if not size:
            return total
        _receive(stream, target, size)
        total += size


class Meeting:
    """Where one end awaits the streams of a peer: `offer` tells the peer where, `accept` waits.

    `addresses` are this host's own, one for each stream. Close it.
    """

    def __init__(self, addresses: Sequence[str], timeout: float) -> None:
        self._timeout = timeout
        self._secret = secrets.token_bytes(_SECRET)
        self._listeners: list[socket.socket] = []
        try:
            for address in addresses:
                self._listeners.append(socket.create_server((address, 0)))
        except OSError:
            self.close()
            raise

    @property
    def offer(self) -> dict[str, Any]:
        """What a peer needs to know; to be told on a channel that no stranger reads."""
        places = [listener.getsockname()[:2] for listener in self._listeners]
        return {"places": places, "secret": self._secret.hex()}

    def accept(self) -> Wire:
        """Return the wire to who knows the secret; others are hung up on."""
        expires = time.monotonic() + self._timeout
        streams: list[socket.socket] = []
        try:
            for listener in self._listeners:
                streams.append(self._accept(listener, expires))
        except OSError as error:
            for stream in streams:
                stream.close()
            raise DeadlineExceeded(
                f"plain sockets: no peer came within {self._timeout:.0f} s ({error})"
            ) from error
        return Wire(streams, self._timeout)

    def _accept(self, listener: socket.socket, expires: float) -> socket.socket:
        while (left := expires - time.monotonic()) > 0:
            listener.settimeout(left)
            stream, _ = listener.accept()
            stream.settimeout(min(left, _HELLO))
            said = bytearray(_SECRET)
            with contextlib.suppress(OSError):
                _receive(stream, memoryview(said), _SECRET)
            if hmac.compare_digest(said, self._secret):
                return stream
            stream.close()
        raise TimeoutError

    def close(self) -> None:
        """Stop listening; may be called again."""
        for listener in self._listeners:
            listener.close()


def dial(offer: dict[str, Any], sources: Sequence[str | None], timeout: float) -> Wire:
    """Return the wire to the peer that made `offer`.

    Stream i leaves from the i-th of `sources`, which are addresses of this host (None: any).
    """
    streams: list[socket.socket] = []
    try:
        for (address, port), source in zip(offer["places"], sources, strict=True):
            own = None if source is None else (source, 0)
            stream = socket.create_connection((address, port), timeout, own)
            streams.append(stream)
            stream.sendall(bytes.fromhex(offer["secret"]))
    except OSError as error:
        for stream in streams:
            stream.close()
        raise CommunicationError(
            f"plain sockets: {address}:{port} is not reached from {source or 'here'}: {error}"
        ) from error
    return Wire(streams, timeout)
