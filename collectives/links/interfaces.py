"""The addresses of this host's network interfaces. Linux."""

import fcntl
import ipaddress
import socket
import struct

from holdfast.errors import UsageError

_SIOCGIFADDR = 0x8915
_NAME_BYTES = 16


def address_of(interface: str) -> str:
    """Return the IPv4 address of an interface (`eth0`); an address is returned as it is.

    Raises UsageError for an interface that is not there or has no IPv4 address.
    """
    try:
        return str(ipaddress.ip_address(interface))
    except ValueError:
        pass
    names = [name for _, name in socket.if_nameindex()]
    if interface not in names:
        raise UsageError(
            f"a network interface of {', '.join(names)}, or an address, was expected, found "
            f"{interface!r}"
        )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("256s", interface.encode()[: _NAME_BYTES - 1])
        try:
            answer = fcntl.ioctl(sock.fileno(), _SIOCGIFADDR, request)
        except OSError as error:
            raise UsageError(
                f"the interface {interface} has no IPv4 address ({error.strerror}): give another, "
                "or its IPv6 address instead of its name"
            ) from None
    return socket.inet_ntoa(answer[20:24])
