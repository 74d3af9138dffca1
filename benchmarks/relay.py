"""What the relay costs and how well it keeps to what is asked of it, between two other processes.

    python benchmarks/relay.py [--rounds 7] [--json FILE]

- *Throughput* with no condition in force, in GB/s over one connection, alternately beside a direct
  connection of the same two processes; medians over the rounds, ratios within a round.
- *Latency* asked for in one direction, against the growth of a one-byte message's round trip.
- *Rate* asked for, against the bytes over the time from the first to the last.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, UsageError
from holdfast.fabric import Network, build, star
from holdfast.fabric.hosts import HostsEngine

PORT = 29700
BLOCK = 1 << 20
SECONDS = 1.0
LATENCIES = (0.0005, 0.001, 0.005, 0.02, 0.1)
RATES = (1e6, 10e6, 100e6, 1e9)
DEADLINE = 60.0


# The two processes


def receive(address: str) -> None:
    """Take one connection after the other; send back what it is asked for until nobody asks."""
    with socket.create_server((address, PORT)) as listener:
        print("ready", flush=True)
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(DEADLINE)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if sock.recv(1) == b"e":
                    while message := sock.recv(1):
                        sock.sendall(message)
                else:
                    sock.sendall(json.dumps(drain(sock)).encode())


def drain(sock: socket.socket) -> float:
    """Read to the end; return the rate in byte/s, from the first read on."""
    buffer = bytearray(BLOCK)
    sock.recv_into(buffer)
    began, count = time.monotonic(), 0
    while got := sock.recv_into(buffer):
        count += got
    return count / (time.monotonic() - began)


def send(address: str) -> None:
    """Do what standard input says, a JSON object a line, and print what came of it."""
    block = bytes(BLOCK)
    for line in sys.stdin:
        order = json.loads(line)
        with socket.create_connection(order["to"], DEADLINE, (address, 0)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if order["do"] == "ping":
                sock.sendall(b"e")
                result: Any = [ping(sock) for _ in range(order["times"])]
            else:
                sock.sendall(b"d")
                left, end = order.get("bytes", 1 << 62), time.monotonic() + SECONDS
                while left > 0 and ("bytes" in order or time.monotonic() < end):
                    sock.sendall(block[:left])
                    left -= BLOCK
                sock.shutdown(socket.SHUT_WR)
                result = json.loads(sock.makefile("rb").read())
        print(json.dumps(result), flush=True)


def ping(sock: socket.socket) -> float:
    """Return how many seconds a byte takes there and back."""
    began = time.perf_counter()
    sock.sendall(b"x")
    sock.recv(1)
    return time.perf_counter() - began


class Pair:
    """The two processes, one on each host of a network."""

    def __init__(self, net: Network[HostsEngine]) -> None:
        hosts = net.engine.hosts
        self.direct = (hosts["h1"].address(), PORT)
        self.relayed = hosts["h1"].public(PORT)
        self._receiver, self._sender = (
            hosts[name].popen(
                [sys.executable, str(Path(__file__).resolve()), "--end", end],
                env={**os.environ, "HOLDFAST_ADDRESS": hosts[name].address()},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for name, end in (("h1", "receive"), ("h0", "send"))
        )
        self._answer(self._receiver)

    def do(self, to: tuple[str, int], **order: Any) -> Any:
        """Have the sender do something; return what came of it."""
        assert self._sender.stdin is not None
        self._sender.stdin.write(json.dumps({"to": to, **order}).encode() + b"\n")
        self._sender.stdin.flush()
        return json.loads(self._answer(self._sender))

    @staticmethod
    def _answer(process: "subprocess.Popen[bytes]") -> bytes:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise HoldfastError(f"a process of the benchmark ended: {process.args!r}")
        return line

    def close(self) -> None:
        """End both processes."""
        for process in (self._sender, self._receiver):
            process.kill()
            process.communicate()


# What is measured


def throughput(pair: Pair, rounds: int) -> dict[str, Any]:
    """Send for a second, directly and through the relay in turns."""
    each = [
        tuple(pair.do(to, do="send") / 1e9 for to in (pair.direct, pair.relayed))
        for _ in range(rounds)
    ]
    return {
        "direct": statistics.median(direct for direct, _ in each),
        "relay": statistics.median(relay for _, relay in each),
        "ratio": statistics.median(relay / direct for direct, relay in each),
        "rounds": each,
    }


def latencies(net: Network[HostsEngine], pair: Pair) -> list[dict[str, float]]:
    """Compare the latency that is asked for with what a round trip takes longer."""
    found = []
    for asked in LATENCIES:
        times = 400 if asked < 0.01 else 40
        without = statistics.median(pair.do(pair.relayed, do="ping", times=400))
        with net.link("h0", to="h1").latency(asked, direction="to"):
            trips = sorted(pair.do(pair.relayed, do="ping", times=times))
        added = [trip - without for trip in trips]
        found.append(
            {
                "asked": asked,
                "median": statistics.median(added),
                "p90": added[len(added) * 9 // 10],
                "round_trip_without": without,
            }
        )
    return found


def rates(net: Network[HostsEngine], pair: Pair) -> list[dict[str, float]]:
    """Compare the rate that is asked for with the one at which a second's bytes come."""
    found = []
    for asked in RATES:
        with net.link("h0", to="h1").rate(asked, direction="to"):
            measured = pair.do(pair.relayed, do="send", bytes=int(asked / 8 * SECONDS))
        found.append({"asked": asked, "measured": 8 * measured})
    return found


def measure(rounds: int) -> dict[str, Any]:
    """Measure everything; the network is gone when this returns."""
    with build("relay", star(2)) as net:
        pair = Pair(net)
        try:
            print(f"holdfast: sending in {rounds} rounds", file=sys.stderr)
            return {
                "throughput": throughput(pair, rounds),
                "latency": latencies(net, pair),
                "rate": rates(net, pair),
            }
        finally:
            pair.close()


def table(results: Mapping[str, Any]) -> str:
    """Return the results as text."""
    sent = results["throughput"]
    lines = [
        "# nothing in force, one connection, GB/s; medians, the ratio paired within a round",
        f"direct {sent['direct']:.2f}   relay {sent['relay']:.2f}   ratio {sent['ratio']:.2f}",
        "# added latency, ms",
        f"{'asked':>8}{'median':>10}{'p90':>10}",
    ]
    lines += [
        "".join(
            f"{1e3 * each[name]:{width}.{digits}f}"
            for name, width, digits in (("asked", 8, 1), ("median", 10, 3), ("p90", 10, 3))
        )
        for each in results["latency"]
    ]
    lines += ["# rate, Mbit/s", f"{'asked':>8}{'measured':>10}{'ratio':>8}"]
    lines += [
        f"{each['asked'] / 1e6:8.0f}{each['measured'] / 1e6:10.2f}"
        f"{each['measured'] / each['asked']:8.3f}"
        for each in results["rate"]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--end", choices=("send", "receive"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.end:
        {"send": send, "receive": receive}[options.end](os.environ["HOLDFAST_ADDRESS"])
        return 0
    try:
        if options.rounds < 1:
            raise UsageError(f"--rounds: at least 1 was expected, {options.rounds} was given")
        results = measure(options.rounds)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(table(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
