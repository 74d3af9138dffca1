"""Runs ip, tc and ss: many commands in one process, many namespaces at a time, errors in words."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from holdfast.errors import FabricError

DEADLINE = 60.0
"""Seconds after which a command is given up; it takes milliseconds."""

_AT_ONCE = 8
_PACKAGES = {"ip": "iproute2", "tc": "iproute2", "ss": "iproute2", "nsenter": "util-linux"}
_INSTEAD = "or use the relay network, which needs nothing"
_LINE = re.compile(r"Command failed -:(\d+)")


def require() -> None:
    """Raise FabricError, saying what to do, where no kernel network can be built."""
    if os.geteuid() != 0:
        raise FabricError(
            f"a kernel network needs root (found user {os.geteuid()}): run as root, {_INSTEAD}"
        )
    for name in _PACKAGES:
        tool(name)
    if not os.path.exists("/dev/net/tun"):
        raise FabricError(
            f"a kernel network needs /dev/net/tun, which is not there: run `modprobe tun` (in a "
            f"container: give it that device), {_INSTEAD}"
        )


def tool(name: str) -> str:
    """Return a tool's path; raise FabricError saying how to get it."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise FabricError(
            f"a kernel network needs the command {name}, which was not found: install "
            f"{_PACKAGES[name]}, {_INSTEAD}"
        )
    return path


def ip(lines: Sequence[str]) -> None:
    """Run commands of ip in the namespace that we are in; raise FabricError for one that fails."""
    _run({"": [tool("ip"), "-batch", "-"]}, {"": lines})


def ip_in(lines: Mapping[str, Sequence[str]]) -> None:
    """Run commands of ip in namespaces, given by namespace."""
    _run({name: [tool("ip"), "-n", name, "-batch", "-"] for name in lines}, lines)


def tc_in(lines: Mapping[str, Sequence[str]]) -> None:
    """Run commands of tc in namespaces, given by namespace."""
    _run({name: [tool("tc"), "-n", name, "-batch", "-"] for name in lines}, lines)


def ss_in(arguments: Mapping[str, Sequence[str]]) -> dict[str, list[list[str]]]:
    """Run ss once in each namespace; return by namespace the fields of each line that it prints."""
    commands = {name: [tool("ss"), "-N", name, *rest] for name, rest in arguments.items()}
    printed = _run(commands, {})
    return {name: [line.split() for line in text.splitlines()] for name, text in printed.items()}


def _run(
    commands: Mapping[str, Sequence[str]], lines: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Run commands side by side, feed each its lines; return what they print."""
    printed: dict[str, str] = {}
    names = list(commands)
    for start in range(0, len(names), _AT_ONCE):
        with ExitStack() as stack:
            running = {}
            for name in names[start : start + _AT_ONCE]:
                process = subprocess.Popen(
                    commands[name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                stack.callback(_end, process)
                running[name] = process
            for name, process in running.items():
                printed[name] = _finish(process, commands[name], lines.get(name, ()))
    return printed


def _finish(process: "subprocess.Popen[str]", command: Sequence[str], lines: Sequence[str]) -> str:
    try:
        output, errors = process.communicate("".join(f"{line}\n" for line in lines), DEADLINE)
    except subprocess.TimeoutExpired:
        raise FabricError(f"`{' '.join(command)}` did not end in {DEADLINE:.0f} s") from None
    if process.returncode != 0:
        failed = _LINE.search(errors)
        at = f", at `{lines[int(failed[1]) - 1]}`" if failed else ""
        raise FabricError(
            f"`{' '.join(command)}` failed with status {process.returncode}{at}: {errors.strip()}"
        )
    return output


def _end(process: "subprocess.Popen[str]") -> None:
    """End it if it still runs, and free its pipes."""
    process.kill()
    process.communicate()
