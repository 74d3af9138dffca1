"""Taps: devices whose packets pass through this process, which drops them or holds them up.

The kernel hands a tap what arrives at a device; what is written back goes on as if it had been
received there. One thread serves all taps. Packets stay as large as the sender's kernel left them
to its card (up to 64 KiB) unless each wire packet is to meet its own fate.

Sources: Linux, Documentation/networking/tuntap.rst; the header of 10 bytes before each packet is
virtio's (virtio_net.h).
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count

from holdfast.errors import FabricError
from holdfast.fabric.condition import Condition
from holdfast.fabric.kernel.namespaces import inside
from holdfast.fabric.kernel.pipe import Pipe

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOFFLOAD = 0x400454CA, 0x400454CB, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_SIOCSIFFLAGS, _SIOCSIFMTU, _SIOCSIFHWADDR = 0x8914, 0x8922, 0x8924
_IFF_UP, _IFF_NOARP, _ARPHRD_ETHER = 0x01, 0x80, 1

_NEEDS_CSUM = 0x01  # of virtio's flags, its header's first byte
_VIRTIO, _ETHERNET = 10, 14  # bytes before the IP header
_IP = _VIRTIO + _ETHERNET
_ENDS = slice(_IP + 12, _IP + 20)  # the IP header's source and target address
_LARGEST = _IP + (64 << 10)
_AT_ONCE = 64  # packets read from a tap before the others have their turn
_QUEUE = 1000  # packets that the kernel keeps for a tap
_PATIENCE = 5.0  # seconds without a packet after which the thread looks around
_HELD_LIMIT = 256 << 20  # bytes held up in all taps; more are dropped, as a full switch does

Way = bytes
"""Where a packet comes from and goes to: two IPv4 addresses, four bytes each."""


def way(source: str, target: str) -> Way:
    """Return the way from one address to another."""
    return socket.inet_aton(source) + socket.inet_aton(target)


@dataclass
class Tap:
    """One open tap: its packets pass `lane` and, those that go such a way, one of `pairs`."""

    fd: int
    lane: Pipe | None = None
    pairs: Mapping[Way, Pipe] = field(default_factory=dict)
    whole: bool = True
    """Whether the kernel may leave packets together."""


class Taps:
    """All taps of a network, and the thread that serves them. Close it. Thread-safe."""

    def __init__(self) -> None:
        self._rng = random.Random(0)
        self._lock = threading.Lock()
        self._taps: dict[int, Tap] = {}
        self._held: list[tuple[float, int, Tap, bytes]] = []
        self._held_bytes = 0
        self._numbers = count()
        self._timer = _Timer()
        self._poll = select.epoll()
        self._poll.register(self._timer.fd, select.EPOLLIN)
        self._error: Exception | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="holdfast-taps", daemon=True)
        self._thread.start()

    def pipe(self, condition: Condition) -> Pipe:
        """Return a pipe for one of the taps."""
        return Pipe(condition, self._rng)

    def open(self, namespace: str, device: str, mac: bytes, mtu: int) -> Tap:
        """Make a tap that lets everything pass; raise FabricError where that cannot be done."""
        try:
            (fd,) = inside([namespace], lambda _: _open(device, mac, mtu))
        except OSError as error:
            raise FabricError(
                f"the tap {device} in {namespace} cannot be made: {error.strerror}"
            ) from None
        tap = Tap(fd)
        with self._lock:
            self._taps[fd] = tap
            self._poll.register(fd, select.EPOLLIN)
        return tap

    def set(self, tap: Tap, lane: Pipe | None, pairs: Mapping[Way, Pipe]) -> None:
        """Let a tap's packets pass these pipes from now on; those that are held up stay so."""
        pipes = [*pairs.values(), *([lane] if lane else [])]
        whole = not any(pipe.counts_packets for pipe in pipes)
        with self._lock:
            self._check(tap)
            if tap.whole != whole:
                _set_offload(tap.fd, whole)
                tap.whole = whole
            self._receive(tap, _QUEUE)  # what has come by now came under the old conditions
            tap.lane, tap.pairs = lane, pairs
            self._await_next()

    def relieve(self, tap: Tap) -> None:
        """Let go at once what is held up, and everything that comes from now on."""
        self.set(tap, None, {})
        with self._lock:
            mine = sorted(entry for entry in self._held if entry[2] is tap)
            self._held = [entry for entry in self._held if entry[2] is not tap]
            heapq.heapify(self._held)
            for entry in mine:
                self._release(entry)

    def close(self) -> None:
        """Close all taps and end the thread; the devices go with their namespaces.

        May be called again.
        """
        if self._closed:
            return
        with self._lock:
            self._closed = True
            self._timer.set(time.monotonic())
        self._thread.join()
        for tap in list(self._taps.values()):
            # Removing devices one by one takes long; their namespaces are about to be deleted.
            with contextlib.suppress(OSError):  # deleted behind our back
                fcntl.ioctl(tap.fd, _TUNSETPERSIST, 1)
            self._drop(tap)
        self._held.clear()
        self._poll.close()
        self._timer.close()

    def _check(self, tap: Tap) -> None:
        if self._error is not None:
            raise FabricError(f"packets are no longer served: {self._error!r}") from self._error
        if self._taps.get(tap.fd) is not tap:
            raise FabricError("a tap has gone: its namespace was deleted by somebody else")

    def _drop(self, tap: Tap) -> None:
        if self._taps.get(tap.fd) is tap:
            del self._taps[tap.fd]
            self._poll.unregister(tap.fd)
            os.close(tap.fd)

    def _serve(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:  # noqa: BLE001 - raised in whoever changes something next
            self._error = error

    def _turn(self) -> bool:
        ready = self._poll.poll(_PATIENCE)
        with self._lock:
            if self._closed:
                return False
            for fd, _ in ready:
                if fd in self._taps:
                    self._receive(self._taps[fd], _AT_ONCE)
            now = time.monotonic()
            while self._held and self._held[0][0] <= now:
                self._release(heapq.heappop(self._held))
            self._await_next()
        return True

    def _await_next(self) -> None:
        # Setting it also makes the timer unreadable until it is due again.
        self._timer.set(self._held[0][0] if self._held else None)

    def _receive(self, tap: Tap, limit: int) -> None:
        """Read the packets that have come to a tap, and decide when they go on."""
        for _ in range(limit):
            try:
                packet = os.read(tap.fd, _LARGEST)
            except BlockingIOError:
                return
            except OSError:  # its namespace has been deleted behind our back
                self._drop(tap)
                return
            self._admit(tap, packet)

    def _admit(self, tap: Tap, packet: bytes) -> None:
        size = len(packet) - _VIRTIO
        out = time.monotonic()
        for pipe in (tap.lane, tap.pairs.get(packet[_ENDS])):
            if pipe is None:
                continue
            admitted = pipe.admit(out, size)
            spoils = pipe.spoils()
            # One whose checksum is yet to be made would get one that fits what was made of it.
            if admitted is None or (spoils and packet[0] & _NEEDS_CSUM):
                return
            out = admitted
            if spoils:
                packet = self._spoil(packet)
        if self._held_bytes + size <= _HELD_LIMIT:
            self._held_bytes += size
            heapq.heappush(self._held, (out, next(self._numbers), tap, packet))

    def _spoil(self, packet: bytes) -> bytes:
        """Change a byte behind the IP header, so that it arrives and its checksum is wrong."""
        changed = bytearray(packet)
        first = _IP + 4 * (changed[_IP] & 15) if len(changed) > _IP else len(changed)
        if first < len(changed):
            changed[self._rng.randrange(first, len(changed))] ^= self._rng.randrange(1, 256)
        return bytes(changed)

    def _release(self, entry: tuple[float, int, Tap, bytes]) -> None:
        _, _, tap, packet = entry
        self._held_bytes -= len(packet) - _VIRTIO
        if self._taps.get(tap.fd) is tap:
            with contextlib.suppress(OSError):  # no memory for it: a network may lose a packet
                os.write(tap.fd, packet)


def _open(device: str, mac: bytes, mtu: int) -> int:
    """Make a tap in the namespace that this thread is in, and take it up."""
    name = device.encode()
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name, flags))
        _set_offload(fd, True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for request, value in (
                (_SIOCSIFHWADDR, struct.pack("16sH6s16x", name, _ARPHRD_ETHER, mac)),
                (_SIOCSIFMTU, struct.pack("16si20x", name, mtu)),
                (_SIOCSIFFLAGS, struct.pack("16sH22x", name, _IFF_UP | _IFF_NOARP)),
            ):
                fcntl.ioctl(any_socket, request, value)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _set_offload(fd: int, whole: bool) -> None:
    fcntl.ioctl(fd, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 if whole else 0)


class _Timer:
    """A timer of the kernel's that can be polled, exact to microseconds (timerfd)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd_create: {os.strerror(code)}")

    def set(self, at: float | None) -> None:
        """Become readable at a time of the monotonic clock, or never; forget what was set."""
        whole, part = (0, 0) if at is None else divmod(int(at * 1e9), 1_000_000_000)
        value = struct.pack("4q", 0, 0, whole, part)
        if self._libc.timerfd_settime(self.fd, 1, value, None) != 0:  # 1: absolute
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd_settime: {os.strerror(code)}")

    def close(self) -> None:
        """Free it."""
        os.close(self.fd)
