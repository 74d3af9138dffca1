"""Network namespaces: entering them, and clearing them away, also those of a killed process.

Rule: a namespace is called `hf-NAME-NODE` after its network. Before the first one is made, a record
called NAME is put beside them: a symbolic link that leads nowhere, but names the process to which
the network belongs. It goes after the last one. So a namespace whose record is missing, or names a
process that is gone, is nobody's.
"""

import contextlib
import ctypes
import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from holdfast.errors import FabricError
from holdfast.fabric.kernel.commands import tool
from holdfast.fabric.leftovers import identity, lives

T = TypeVar("T")

NAMESPACES = Path("/run/netns")
"""Where iproute2 keeps the names of namespaces."""
RECORDS = Path("/run/holdfast-fabric")
"""Beside it, not in a temporary folder: what is known of namespaces must be known to everybody."""

_OURS = re.compile(r"hf-([0-9a-f]{8})-.+")
_CLONE_NEWNET = 0x40000000
_MNT_DETACH = 2
_PATIENCE = 10.0  # for what takes milliseconds: processes to end that were sent SIGKILL, say

_libc = ctypes.CDLL(None, use_errno=True)


def inside(names: Collection[str], call: Callable[[str], T]) -> list[T]:
    """Return what `call(name)` returns in each namespace; what it opens there stays there.

    It is called in one thread made for that: don't start processes in it.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            for name in names:
                _enter(name)
                results.append(call(name))
        except BaseException as error:  # noqa: BLE001 - raised again by the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="holdfast-netns", daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if thread.is_alive():
        raise FabricError(f"a namespace of {', '.join(names)} is not entered in {_PATIENCE:.0f} s")
    if errors:
        raise errors[0]
    return results


def apply(settings: Mapping[str, str]) -> None:
    """Write settings, by their path below /proc/sys/net, in the namespace that this thread is in.

    A name that ends in `?` is left out where this kernel has no such setting. Raises FabricError
    for another one.
    """
    for name, value in settings.items():
        path = Path("/proc/sys/net", name.removesuffix("?"))
        if name.endswith("?") and not path.exists():
            continue
        try:
            path.write_text(value, encoding="ascii")
        except OSError as error:
            raise FabricError(
                f"{path} cannot be set to {value} ({error.strerror}): a kernel network needs "
                "Linux 5.13 or newer"
            ) from None


def _enter(name: str) -> None:
    try:
        with open(NAMESPACES / name, "rb") as file:
            _check(_libc.setns(file.fileno(), _CLONE_NEWNET))
    except OSError as error:
        raise FabricError(f"the namespace {name} cannot be entered: {error.strerror}") from None


def _check(status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def claim(network: str) -> None:
    """Put down that the namespaces of a network belong to this process."""
    RECORDS.mkdir(mode=0o755, exist_ok=True)
    os.symlink(identity(os.getpid()), RECORDS / network)  # made and written in one go


def clear(network: str) -> None:
    """End what runs in a network's namespaces, delete them and the record; may be called again."""
    names = [name for name, of in _ours() if of == network]
    _end_processes(names)
    for name in names:
        _delete(NAMESPACES / name)
    (RECORDS / network).unlink(missing_ok=True)


def sweep() -> None:
    """Clear away the namespaces of networks whose process is gone."""
    for network in abandoned():
        clear(network)


def abandoned() -> Iterator[str]:
    """Yield the networks that have namespaces, but whose process is gone."""
    # Namespaces first: whose record is looked for afterwards, and not found, has none.
    networks = {of for _, of in _ours()}
    with contextlib.suppress(FileNotFoundError):
        networks |= set(os.listdir(RECORDS))
    for network in sorted(networks):
        try:
            owner = os.readlink(RECORDS / network)
        except FileNotFoundError:
            owner = ""
        if not owner or not lives(owner):
            yield network


def _ours() -> list[tuple[str, str]]:
    """Return the namespaces of all networks, each with its network's name."""
    try:
        found = sorted(os.listdir(NAMESPACES))
    except FileNotFoundError:
        return []
    return [(name, match[1]) for name in found if (match := _OURS.fullmatch(name))]


def _delete(path: Path) -> None:
    # As `ip netns delete` does it, but somebody else may do it at the same time. One that is half
    # made is no mount yet: then it is only a file.
    with contextlib.suppress(OSError):
        _check(_libc.umount2(os.fsencode(path), _MNT_DETACH))
    path.unlink(missing_ok=True)


def _end_processes(names: list[str]) -> None:
    """End every process in these namespaces; raise FabricError if one does not end."""
    namespaces = set()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            stat = os.stat(NAMESPACES / name)
            namespaces.add((stat.st_dev, stat.st_ino))
    deadline = time.monotonic() + _PATIENCE
    while left := _processes(namespaces):
        if time.monotonic() > deadline:
            raise FabricError(f"processes {left} do not end in {_PATIENCE:.0f} s, though killed")
        for pid in left:
            _kill(pid, namespaces, deadline)


def _processes(namespaces: set[tuple[int, int]]) -> list[int]:
    own = os.getpid()
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal()) if namespaces else ()
    return [pid for pid in pids if pid != own and _is_in(pid, namespaces)]


def _is_in(pid: int, namespaces: set[tuple[int, int]]) -> bool:
    try:
        stat = os.stat(f"/proc/{pid}/ns/net")
    except OSError:  # it has ended
        return False
    return (stat.st_dev, stat.st_ino) in namespaces


def _kill(pid: int, namespaces: set[tuple[int, int]], deadline: float) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_in(pid, namespaces):  # still that one, and not another of the same number
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            poll = select.poll()
            poll.register(process, select.POLLIN)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    finally:
        os.close(process)


def entering(name: str) -> list[str]:
    """Return what stands before a command that is to run in a namespace."""
    return [tool("nsenter"), f"--net={NAMESPACES / name}", "--"]
