"""How two ranks convince each other that they hold the job's token, without showing it. Pure.

    acceptor -> dialer   CHALLENGE  magic, acceptor's nonce
    dialer -> acceptor   HELLO      rank, peer, epoch, rail, received, dialer's nonce, HMAC
    acceptor -> dialer   WELCOME    received, HMAC; all zero: refused

Each HMAC-SHA256 covers the purpose, the side, both nonces and every field, so a recorded handshake
is of no use again and neither side can be made to answer its own challenge. All messages have a
fixed size: a stranger can make nobody take memory.
"""

import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

from holdfast.errors import AuthenticationError, ProtocolError

MAGIC = b"HOLDFAST1"
NONCE = 32
MAC = 32
_HELLO = struct.Struct("<IIIIQ")
_WELCOME = struct.Struct("<Q")

CHALLENGE_SIZE = len(MAGIC) + NONCE
HELLO_SIZE = _HELLO.size + NONCE + MAC
WELCOME_SIZE = _WELCOME.size + MAC
REFUSED = bytes(WELCOME_SIZE)


@dataclass(frozen=True)
class Hello:
    """Who dials whom, in which epoch, for which rail; how many messages the dialer has."""

    rank: int
    peer: int
    epoch: int
    rail: int
    received: int

    def pack(self) -> bytes:
        """Return its bytes on the wire."""
        return _HELLO.pack(self.rank, self.peer, self.epoch, self.rail, self.received)


def _mac(token: bytes, *parts: bytes) -> bytes:
    return hmac.new(token, b"\0".join([b"holdfast", *parts]), hashlib.sha256).digest()


class Acceptor:
    """The side that listens: `challenge`, then `check` a HELLO, then `welcome`."""

    def __init__(self, token: bytes, purpose: bytes) -> None:
        self._token = token
        self._purpose = purpose
        self._nonce = secrets.token_bytes(NONCE)
        self._hello = b""

    def challenge(self) -> bytes:
        """Return the CHALLENGE to send."""
        return MAGIC + self._nonce

    def check(self, message: bytes) -> Hello:
        """Return who is there; raise AuthenticationError if it doesn't hold the token."""
        body, mac = message[:-MAC], message[-MAC:]
        expected = _mac(self._token, self._purpose, b"dial", self._nonce, body)
        if not hmac.compare_digest(mac, expected):
            raise AuthenticationError("a peer that does not hold this job's token was refused")
        self._hello = body
        return Hello(*_HELLO.unpack(body[: _HELLO.size]))

    def welcome(self, received: int) -> bytes:
        """Return the WELCOME to send; `received` is how many messages this side has."""
        body = _WELCOME.pack(received)
        mac = _mac(self._token, self._purpose, b"accept", self._hello, self._nonce, body)
        return body + mac


class Dialer:
    """The side that connects: `answer` a CHALLENGE, then `admitted` reads the WELCOME."""

    def __init__(self, token: bytes, purpose: bytes, hello: Hello) -> None:
        self._token = token
        self._purpose = purpose
        self._body = hello.pack() + secrets.token_bytes(NONCE)
        self._nonce = b""

    def answer(self, challenge: bytes) -> bytes:
        """Return the HELLO to send; raise ProtocolError if no Holdfast rank is there."""
        if not challenge.startswith(MAGIC):
            raise ProtocolError("something that is not a Holdfast rank answers at this address")
        self._nonce = challenge[len(MAGIC) :]
        return self._body + _mac(self._token, self._purpose, b"dial", self._nonce, self._body)

    def admitted(self, welcome: bytes) -> int:
        """Return how many messages the acceptor has; raise if it doesn't hold the token."""
        body, mac = welcome[: _WELCOME.size], welcome[_WELCOME.size :]
        expected = _mac(self._token, self._purpose, b"accept", self._body, self._nonce, body)
        if not hmac.compare_digest(mac, expected):
            raise AuthenticationError("the peer that answers does not hold this job's token")
        (received,) = _WELCOME.unpack(body)
        return int(received)
