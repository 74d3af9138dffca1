"""A relayed connection: the dialler's socket, the one to the listener, and a flow each way.

It begins with the dialler's alone: the listener is connected to when the path is open both ways and
the handshake's packets would have been there and back. It ends when both streams have ended, when
one end resets it, or on demand. A *silent* connection carries nothing any more, and whoever still
holds an end of it is not told; each end goes when its holder closes it or ends its stream.
"""

import errno
import fcntl
import logging
import math
import os
import random
import select
import socket
import struct
import termios
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from holdfast.fabric.condition import CLEAR, Condition, Place
from holdfast.fabric.relay.flow import End, Flow, Pipes, Socket
from holdfast.fabric.relay.gate import Gate
from holdfast.fabric.relay.line import Line
from holdfast.fabric.relay.loop import Task
from holdfast.fabric.relay.peer import has_closed

log = logging.getLogger("holdfast.relay")

Address = tuple[str, int]
How = Literal["reset", "stall"]

RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time to linger: close sends a reset
_BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT: the port is chosen when the peer is known
_BEGUN = frozenset({0, errno.EINPROGRESS})
_LOOK_AFTER = 0.25  # seconds until a silent connection's holders are looked at; doubles every time
_LOOK_AT_LEAST_EVERY = 16.0


@dataclass(frozen=True)
class Way:
    """One direction of a connection: the places that it passes, at which conditions hold.

    When `limit` bytes are through, `then` happens to the whole connection: both ends are told at
    once (`reset`), or it goes silent (`stall`).
    """

    places: tuple[Place, ...] = ()
    limit: int | None = None
    then: How = "reset"

    def met(self, total: Mapping[Place, Condition]) -> Condition:
        """Return what its bytes meet, all in all."""
        condition = CLEAR
        for place in self.places:
            condition |= total.get(place, CLEAR)
        return condition


@dataclass(frozen=True)
class Route:
    """Where a connection goes: from host `dialler` to host `listener`, which listens at `target`.

    `up` is from the dialler to the listener, who sees it come from the address `source`, if given.
    """

    target: Address
    up: Way = Way()
    down: Way = Way()
    source: str | None = None
    dialler: str = ""
    listener: str = ""


class House(Protocol):
    """The relay, as its connections know it."""

    pipes: Pipes
    cuts_made: int

    def gate(self, place: Place) -> Gate:
        """Return the gate of a place."""

    def watch(self, sock: socket.socket, task: Task) -> None:
        """Tell `task` what happens to `sock`."""

    def forget(self, fd: int) -> None:
        """Watch a socket no more."""

    def ended(self, connection: "Connection") -> None:
        """Take note that a connection has closed its sockets."""


class Connection(Task):
    """One connection; its methods are called in the loop's thread.

    It owns `near`, the dialler's socket, and `far`, which is not connected yet.
    """

    def __init__(
        self, near: socket.socket, far: socket.socket, route: Route, seed: str, house: House
    ) -> None:
        self.route = route
        self._seed = seed
        self._house = house
        self._near = _prepared(near)
        self._far = _prepared(far)
        self._state: Literal["waiting", "connecting", "open", "silent", "over"] = "waiting"
        self._began = time.monotonic()
        self._look_at = math.inf  # when a silent connection's holders are looked at
        self._look_every = _LOOK_AFTER
        self._up = self._flow(self._near, self._far, route.up, "up")
        self._down = self._flow(self._far, self._near, route.down, "down")
        self._told: dict[Flow, End | None] = {self._up: None, self._down: None}
        house.watch(near, self)

    def __str__(self) -> str:
        ends = f"{self.route.dialler or 'a process'} to {self.route.listener or self.route.target}"
        return f"connection {self._seed} from {ends}"

    def change(self, total: Mapping[Place, Condition], now: float) -> None:
        """Let these conditions hold from `now` on; a turn follows."""
        up, down = self.route.up.met(total), self.route.down.met(total)
        round_trip = up.latency + down.latency
        self._up.change(up, round_trip, now)
        self._down.change(down, round_trip, now)

    def reset(self, one_end: str | None = None) -> None:
        """Break it: tell both ends, or only host `one_end`, and be silent to the other.

        A turn follows.
        """
        if one_end is None:
            self.close(reset=True)
        elif one_end in (self.route.dialler, self.route.listener):
            self._fall_silent()
            self._drop(self._near if one_end == self.route.dialler else self._far, reset=True)

    def close(self, *, reset: bool = False) -> None:
        """Close both sockets, by a reset or by ending both streams; may be called again."""
        if self._state == "over":
            return
        self._state = "over"
        for flow in (self._up, self._down):
            flow.clear()
        for end in (self._near, self._far):
            self._drop(end, reset=reset)
        self._house.ended(self)

    def abort(self) -> None:
        """Reset both ends."""
        self.close(reset=True)

    def told(self, fd: int, event: int) -> None:
        """Take note of what epoll says of one socket."""
        end = self._near if fd == self._near.fd else self._far
        over = event & (select.EPOLLHUP | select.EPOLLERR)
        end.readable |= bool(over or event & (select.EPOLLIN | select.EPOLLRDHUP))
        end.writable |= bool(over or event & select.EPOLLOUT)
        end.hung_up |= bool(over or event & select.EPOLLRDHUP)

    def turn(self) -> float:
        """Do what can be done; return when to go on."""
        match self._state:
            case "waiting":
                return self._wait()
            case "connecting":
                return self._go_on()
            case "open":
                return self._carry()
            case "silent":
                return self._hear()
            case _:
                return math.inf

    def _flow(self, source: Socket, target: Socket, way: Way, direction: str) -> Flow:
        gates = [self._house.gate(place) for place in way.places]
        line = Line(random.Random(f"{self._seed} {direction}"))
        return Flow(source, target, gates, way.limit, line, self._house.pipes)

    # Its beginning

    def _wait(self) -> float:
        """Connect to the listener when a handshake would have come through."""
        if self._up.blocked or self._down.blocked:
            if self._near.hung_up:
                # Whoever dialled has given up. Nobody knows of it: no packet of it came through.
                self.close()
            return math.inf
        due = self._began + self._up.latency + self._down.latency
        if due > time.monotonic():
            return due
        try:
            code = self._dial(self._far.sock)
        except OSError as error:
            code = error.errno or errno.EIO
        if code not in _BEGUN:
            self._refuse(code)
        else:
            self._state = "connecting"
            self._far.writable = False
            self._house.watch(self._far.sock, self)
        return math.inf

    def _dial(self, sock: socket.socket) -> int:
        if self.route.source is not None:
            sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            sock.bind((self.route.source, 0))
        return sock.connect_ex(self.route.target)

    def _go_on(self) -> float:
        """Carry bytes once the listener's host has answered."""
        if not self._far.writable:
            return math.inf
        code = self._far.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._refuse(code)
            return math.inf
        self._state = "open"
        return self._carry()

    def _refuse(self, code: int) -> None:
        """Tell the dialler, whose connection to the relay stands already, the only way there is."""
        log.info("%s: %s at %s:%d", self, os.strerror(code), *self.route.target)
        self.close(reset=True)

    # Its life

    def _carry(self) -> float:
        wake = math.inf
        for flow, way in ((self._up, self.route.up), (self._down, self.route.down)):
            wake = min(wake, flow.move())
            if flow.at_limit():
                self._cut(way.then)
                return -math.inf
        return wake if self._pass_ends() else -math.inf

    def _pass_ends(self) -> bool:
        """Let each end know what became of the other; return whether there is no more to it."""
        complete = True
        for flow, back in ((self._up, self._down), (self._down, self._up)):
            if flow.target.broken and back.ended == "finished":
                back.end("reset", time.monotonic())
                complete = False
            if flow.ended == self._told[flow] or not flow.ended_for_target():
                continue
            self._told[flow] = flow.ended
            if flow.ended == "reset":
                self.close(reset=True)
                return True
            with suppress(OSError):  # reset in the meantime: reading will tell
                flow.target.sock.shutdown(socket.SHUT_WR)
        if all(self._told.values()) or (self._near.broken and self._far.broken):
            self.close()
        return complete

    def _cut(self, how: How) -> None:
        self._house.cuts_made += 1
        if how == "reset":
            self.close(reset=True)
        else:
            self._fall_silent()

    # Its end

    def _fall_silent(self) -> None:
        for flow in (self._up, self._down):
            flow.clear()
        if self._state == "waiting":
            self._drop(self._far, reset=False)  # nobody holds its other end
        self._state = "silent"
        self._look_at = time.monotonic() + self._look_every

    def _hear(self) -> float:
        """Let go of the ends whose holders have closed them; return when to look again."""
        now = time.monotonic()
        look = now >= self._look_at
        if look:
            self._look_every = min(2 * self._look_every, _LOOK_AT_LEAST_EVERY)
            self._look_at = now + self._look_every
        left = [end for end in (self._near, self._far) if end.sock.fileno() >= 0]
        for end in left:
            if end.hung_up or (look and _unread(end.sock) and has_closed(end.sock)):
                end.hung_up = True
                self._drop(end, reset=False)
        if all(end.hung_up for end in left):
            self.close()
            return math.inf
        return self._look_at

    def _drop(self, end: Socket, *, reset: bool) -> None:
        if end.sock.fileno() < 0:
            return
        if reset:
            with suppress(OSError):
                end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._house.forget(end.fd)
        end.sock.close()


def _prepared(sock: socket.socket) -> Socket:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Socket(sock)


def _unread(sock: socket.socket) -> bool:
    """Return whether bytes wait there that nobody has read."""
    return any(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)))
