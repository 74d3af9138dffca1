"""TLS for the rails of a link: each end shows a certificate of the job's own authority.

The token proves who belongs to the job; TLS keeps others from reading or changing what passes.
Both ends are checked against one certificate authority (mutual TLS); names are not, since ranks
are reached by address.
"""

import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from holdfast.errors import UsageError


@dataclass(frozen=True)
class Tls:
    """Where a rank finds its certificate, its key and the authority's certificate (PEM files)."""

    certificate: Path
    key: Path
    authority: Path

    def context(self, *, listening: bool) -> ssl.SSLContext:
        """Return what connections are wrapped with; UsageError for a file that is of no use."""
        return _context(self, listening)


@cache
def _context(files: Tls, listening: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if listening else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_verify_locations(files.authority)
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"three PEM files were expected, the authority's certificate {files.authority}, this "
            f"rank's {files.certificate} and its key {files.key}: {error}"
        ) from None
    return context


class TlsSocket:
    """A connected socket behind TLS, with the few calls of a non-blocking socket that rails use.

    Owns `sock`. Where a plain socket raises BlockingIOError, so does this.
    """

    def __init__(self, sock: socket.socket, files: Tls, *, listening: bool) -> None:
        context = files.context(listening=listening)
        self._sock = context.wrap_socket(
            sock, server_side=listening, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )

    def shake(self) -> None:
        """Go on with the handshake; BlockingIOError while it waits for the peer.

        Raises OSError (ssl.SSLError is one) if the peer is not let in, or does not let us in.
        """
        try:
            self._sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
            raise BlockingIOError from wait

    def recv_into(self, into: memoryview) -> int:
        """Read at most `len(into)` bytes; 0 at the end."""
        try:
            return self._sock.recv_into(into)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
            raise BlockingIOError from wait

    def recv(self, count: int) -> bytes:
        """Return at most `count` bytes; none at the end."""
        try:
            return self._sock.recv(count)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
            raise BlockingIOError from wait

    def send(self, data: bytes | memoryview) -> int:
        """Write some of `data`; return how many bytes."""
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wait:
            raise BlockingIOError from wait

    def sendmsg(self, buffers: Sequence[memoryview]) -> int:
        """Write some of the first buffer: a record that was refused is offered again as it was."""
        return self.send(buffers[0])

    def pending(self) -> int:
        """Return how many bytes are decrypted and not read: the kernel does not tell of them."""
        return self._sock.pending()

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        """Return an option of the socket below."""
        return self._sock.getsockopt(level, option, size)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
