"""What this host's kernel knows about the other end of a connection that is on this host, too.

A holder that closes its socket while bytes are left that nobody reads cannot tell: the end of its
stream waits behind them. The kernel's table of sockets shows it all the same.
"""

import socket
import sys

# FIN-WAIT-1, LAST-ACK and CLOSING in include/net/tcp_states.h: it has closed, and nobody has
# acknowledged that.
_CLOSED = frozenset({"04", "09", "0B"})


def has_closed(sock: socket.socket) -> bool:
    """Return whether the peer of a connected IPv4 socket waits for its close to be heard.

    Costs a walk through all of the host's sockets: some milliseconds on a large one.
    """
    try:
        ends = [_shown(sock.getpeername()), _shown(sock.getsockname())]
    except OSError:  # the peer has reset it meanwhile
        return True
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = (line.split() for line in table)
        return any(row[1:3] == ends and row[3] in _CLOSED for row in rows)


def _shown(address: tuple[str, int]) -> str:
    number = int.from_bytes(socket.inet_aton(address[0]), sys.byteorder)
    return f"{number:08X}:{address[1]:04X}"
