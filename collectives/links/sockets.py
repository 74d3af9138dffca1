"""What a rail's socket is told, and what the kernel tells of it. Linux."""

import contextlib
import fcntl
import socket
import struct
import sys
import termios

from holdfast.collectives.links.link import LinkConfig
from holdfast.collectives.links.passage import Flight
from holdfast.collectives.links.tls import TlsSocket
from holdfast.errors import UsageError

_NOTSENT_LOWAT = 25
_RTO_MAX_MS = 44  # Linux 6.15
# In struct tcp_info; the last is Linux 5.4's.
_SEGMENT, _UNACKED, _ROUND_TRIP, _BYTES_ACKED = 16, 24, 68, 120
_NOT_SENT, _LEAST_ROUND_TRIP, _WINDOW, _INFO_BYTES = 144, 148, 228, 232
_UNKNOWN = 0xFFFFFFFF
UNSENT = 128 << 10
"""Bytes that wait in the kernel of one of several rails: what is there no other rail can take."""


Connection = socket.socket | TlsSocket
"""What carries a rail."""


def tune(sock: socket.socket, config: LinkConfig, *, several: bool) -> None:
    """Set the options of a rail's socket; `several` rails share a link.

    Raises UsageError for a congestion control that this kernel does not have or allow.
    """
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (
        (socket.TCP_USER_TIMEOUT, int(2000 * config.silence)),
        (_RTO_MAX_MS, max(1000, int(500 * config.silence))),  # retry soon after an outage
    ):
        with contextlib.suppress(OSError):  # an older kernel only heals more slowly
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if several:
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT)
    if config.congestion:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, config.congestion.encode())
        except OSError as error:
            raise UsageError(
                f"the congestion control {config.congestion!r} cannot be used: {error.strerror}; "
                "/proc/sys/net/ipv4/tcp_allowed_congestion_control lists those that can"
            ) from None


def flight(sock: Connection) -> Flight:
    """Return what the kernel knows of what was sent on a connection.

    What the peer would take and the kernel cannot send, since an interface or a route is gone, is
    in flight, too: it gets no further.
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)

    def word(offset: int) -> int:
        return int.from_bytes(info[offset : offset + 4], sys.byteorder)

    least, waiting = word(_LEAST_ROUND_TRIP), word(_NOT_SENT)
    unsendable = waiting > 0 and word(_WINDOW) >= min(waiting, word(_SEGMENT))
    return Flight(
        word(_UNACKED) > 0 or unsendable,
        int.from_bytes(info[_BYTES_ACKED : _BYTES_ACKED + 8], sys.byteorder),
        word(_ROUND_TRIP) / 1e6,
        0.0 if least == _UNKNOWN else least / 1e6,
    )


def queued(sock: Connection) -> int:
    """Return how many bytes of ours the peer's host has not acknowledged."""
    raw = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    return int(struct.unpack("i", raw)[0])
