"""All-reduce over TCP between two hosts, which are network namespaces of this machine.

    python benchmarks/network.py MODE [--rounds 5] [--json FILE]

    free         a free veth pair: ours, plain sockets, Gloo, Open MPI and MPICH, 4 B to 100 MiB
    shaped       the same at 1 Gbit/s (tbf)
    rails        two interfaces as two rails: 1 + 1 Gbit/s and 1 + 0.2 Gbit/s, beside one alone
    loss         2 % and 5 % random loss at the receiver, 20 ms of latency each way, beside Gloo
    rail-faults  one of two rails taken down in mid-collective: how long does nothing get further?
    memory       what an all-reduce of 100 MiB takes beyond its input and result

It needs root. Everybody measures alternately in one run, in a rotating order; figures are medians
over the rounds of the slowest rank's time. All sockets have the system's congestion control, which
is printed. What is asked of us stands beside what was measured.
"""

import argparse
import json
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from holdfast.errors import HoldfastError, MissingDependency, UsageError
from holdfast.fabric import Handle, Topology
from holdfast.fabric.faults import Direction
from holdfast.launch.bandwidth.comparison import compare
from holdfast.launch.bandwidth.controller import Controller, RankGroup
from holdfast.launch.bandwidth.figures import Result
from holdfast.launch.bandwidth.libraries import LIMIT, Library, ours, peer, raw
from holdfast.launch.bandwidth.link import congestion_control
from holdfast.launch.bandwidth.recovery import (
    LAST,
    Trial,
    judged,
    percentile,
    reaches,
    throughput,
)
from holdfast.launch.bandwidth.report import progress_line, ratio_table, setting, table
from holdfast.launch.bandwidth.spec import CollectiveSpec, format_size, parse_sizes
from holdfast.launch.bandwidth.two_hosts import HOSTS, Cut, TwoHosts, pair, two_rails_of
from holdfast.launch.commands.bench import peer_folders

K, M = 1 << 10, 1 << 20
OURS = "holdfast-tcp"
MPI = ("openmpi", "mpich")
DOWN = 1.0
"""Seconds for which a rail is down."""
FAULTS = ("link down", "drop both ways", "drop one way")


@dataclass(frozen=True)
class Figure:
    """One figure beside what is asked: at least that, or with `at_most` at most."""

    what: str
    measured: float
    asked: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it is as asked."""
        return self.measured <= self.asked if self.at_most else self.measured >= self.asked

    def line(self) -> str:
        """Return it as text."""
        sign = "<=" if self.at_most else ">="
        return (
            f" {self.what:<56}{self.measured:>10.3f}   {sign} {self.asked:<8g}"
            f"{'yes' if self.met else 'NO'}"
        )


@dataclass(frozen=True)
class Outcome:
    """What a mode has measured: text, figures beside what is asked, and all of it for the file."""

    text: str
    figures: tuple[Figure, ...]
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Options:
    """The command's options."""

    rounds: int
    trials: int
    sizes: tuple[int, ...]
    scratch: Path


def compared(
    topology: Topology, libraries: Sequence[Library], sizes: Sequence[int], options: Options
) -> list[Result]:
    """Measure libraries alternately between the two hosts of `topology`."""
    spec = CollectiveSpec("all-reduce", tuple(sizes), rounds=options.rounds)
    with ExitStack() as stack:
        hosts = stack.enter_context(TwoHosts(topology, options.scratch))
        controller = stack.enter_context(Controller())
        groups = []
        for library in map(hosts.placed, libraries):
            say(f"starting {library.name}")
            group = controller.start(library.program, 2, hosts.hosts)
            if library.checkable:
                hosts.require_network(group, library, max(sizes))
            groups.append((group, library))
        results = compare(groups, spec, lambda of_size: say(progress_line(of_size)))
    wrong = {result.library: result.wrong for result in results if result.wrong}
    if wrong:
        raise HoldfastError(f"wrong sums: no wrong element was expected, found {wrong}")
    return results


def tables(results: Sequence[Result], ours_: str = OURS) -> str:
    """Return the results of all libraries, and ours over theirs."""
    what = CollectiveSpec("all-reduce", (4,)).what
    names = list(dict.fromkeys(result.library for result in results))
    blocks = [table(results, what, name, checked=True) for name in names]
    others = [name for name in names if name != ours_]
    return "\n\n".join([*blocks, ratio_table(results, ours_, others)])


def seconds(results: Sequence[Result], library: str, size: int) -> float:
    """Return the median time of a library at a size."""
    return next(
        each.main.median for each in results if (each.library, each.size) == (library, size)
    )


def over(results: Sequence[Result], size: int, name: str, ours_: str = OURS) -> float:
    """Return ours over another library at a size: how many times as fast it is."""
    return seconds(results, name, size) / seconds(results, ours_, size)


def installed(names: Sequence[str], size: int) -> list[Library]:
    """Return the peers that are there; say which are not."""
    found = []
    for name in names:
        try:
            found.append(peer(name, "all-reduce", size, peer_folders()))
        except MissingDependency as error:
            say(f"{error}\nGoing on without {name}.")
    return found


def free(options: Options) -> Outcome:
    """A free veth pair."""
    sizes = options.sizes or (4, 64 * K, M, 25 * M, 100 * M)
    largest = max(sizes)
    libraries = [
        ours("tcp", "all-reduce", largest),
        raw(),
        *installed(("gloo", *MPI), largest),
    ]
    results = compared(pair(), libraries, sizes, options)
    names = {result.library for result in results}
    figures = []
    for size, asked in ((4, 5.0), (64 * K, 5.0), (M, 2.0), (25 * M, 1.3), (100 * M, 1.15)):
        if "gloo" in names and size in sizes:
            figures.append(
                Figure(f"times Gloo, {format_size(size)}", over(results, size, "gloo"), asked)
            )
    for size in {25 * M, 100 * M} & set(sizes):
        mpis = [over(results, size, name) for name in MPI if name in names]
        if mpis:
            figures.append(Figure(f"times the best MPI, {format_size(size)}", min(mpis), 1.0))
        limit = over(results, size, LIMIT)
        figures.append(Figure(f"of the raw limit, {format_size(size)}", limit, 0.9))
    return Outcome(tables(results), tuple(figures), as_content(results))


def shaped(options: Options) -> Outcome:
    """A cable of 1 Gbit/s."""
    sizes = options.sizes or (25 * M, 100 * M)
    largest = max(sizes)
    libraries = [ours("tcp", "all-reduce", largest), raw(), *installed(("gloo",), largest)]
    results = compared(pair("1gbit"), libraries, sizes, options)
    figures = [
        Figure(f"of the raw limit, {format_size(size)}", over(results, size, LIMIT), 0.99)
        for size in sizes
    ]
    return Outcome(tables(results), tuple(figures), as_content(results))


def rails(options: Options) -> Outcome:
    """Two interfaces, beside the first alone."""
    sizes = options.sizes or (25 * M, 100 * M)
    blocks, figures, content = [], [], {}
    for rates, asked in ((("1gbit", "1gbit"), 1.9), (("1gbit", "200mbit"), 1.15)):
        results = compared(
            two_rails_of(*rates),
            [on_rails(max(sizes), "eth0", "eth1"), on_rails(max(sizes), "eth0")],
            sizes,
            options,
        )
        named = " and ".join(rates)
        blocks.append(f"## {named}\n\n" + tables(results, "2-rails"))
        figures += [
            Figure(
                f"{named}: times the first alone, {format_size(size)}",
                over(results, size, "1-rails", "2-rails"),
                asked,
            )
            for size in sizes
        ]
        content[named] = as_content(results)
    return Outcome("\n\n".join(blocks), tuple(figures), content)


def on_rails(largest: int, *interfaces: str) -> Library:
    """Return ours over these interfaces, called after their number."""
    library = ours("tcp", "all-reduce", largest, {"interfaces": interfaces})
    name = f"{len(interfaces)}-rails"
    return replace(library, name=name, program=replace(library.program, name=name))


def loss(options: Options) -> Outcome:
    """Packets lost at the receiver, and 20 ms each way."""
    sizes = options.sizes or (M, 4 * M)
    libraries = [ours("tcp", "all-reduce", max(sizes)), *installed(("gloo",), max(sizes))]
    blocks, figures, content = [], [], {}
    for part in (0.02, 0.05):
        results = lossy(part, libraries, sizes, options)
        blocks.append(f"## {part:.0%} lost, 20 ms each way\n\n" + tables(results))
        content[f"{part:.0%}"] = as_content(results)
        figures += [
            Figure(f"{part:.0%}: wrong elements, {format_size(each.size)}", each.wrong, 0, True)
            for each in results
            if each.library == OURS
        ]
    return Outcome("\n\n".join(blocks), tuple(figures), content)


def lossy(
    part: float, libraries: Sequence[Library], sizes: Sequence[int], options: Options
) -> list[Result]:
    """Measure with a part of all packets lost; the ranks meet before that begins."""
    spec = CollectiveSpec("all-reduce", tuple(sizes), rounds=options.rounds, iters=3, warmup=1)
    with ExitStack() as stack:
        hosts = stack.enter_context(TwoHosts(pair(latency=0.02), options.scratch))
        controller = stack.enter_context(Controller(deadline=600.0))
        groups = []
        for library in map(hosts.placed, libraries):
            groups.append((controller.start(library.program, 2, hosts.hosts), library))
        stack.enter_context(hosts.network.link("h0", to="h1").loss(part))
        stack.enter_context(hosts.network.link("h1", to="h0").loss(part))
        return compare(groups, spec, lambda of_size: say(progress_line(of_size)))


def rail_faults(options: Options) -> Outcome:
    """One of two rails goes and comes back, again and again."""
    size = options.sizes[0] if options.sizes else M
    rng = random.Random(0)
    trials = []
    with ExitStack() as stack:
        hosts = stack.enter_context(TwoHosts(two_rails_of("1gbit", "1gbit"), options.scratch))
        controller = stack.enter_context(Controller())
        library = hosts.placed(on_rails(size, "eth0", "eth1"))
        group = controller.start(library.program, 2, hosts.hosts)
        whole = group.run(watching(size, 100))[0]["ended"]
        rate = throughput(whole, whole[10], whole[-1])
        for number in range(options.trials):
            for fault in FAULTS:
                trials.append(one_trial(hosts, group, fault, size, rate, rng))
            say(f"trial {number + 1} of {options.trials}: {progress(trials[-len(FAULTS) :])}")
    figures = []
    for fault in FAULTS:
        own = [each for each in trials if each.fault == fault]
        stalls = sorted(1e3 * each.stall for each in own)
        figures += [
            Figure(f"{fault}: stall in ms, p50", percentile(stalls, 50), 200, True),
            Figure(f"{fault}: stall in ms, p99", percentile(stalls, 99), 200, True),
            Figure(
                f"{fault}: throughput afterwards, p50",
                percentile(sorted(each.returned for each in own), 50),
                0.99,
            ),
            Figure(f"{fault}: wrong elements", sum(e.wrong for e in own), 0, True),
        ]
    backs = sorted(each.back for each in trials if each.back is not None)
    whole_again = f"{len(backs)} of {len(trials)} times throughput was whole again"
    text = (
        f"# {len(trials)} faults of {DOWN} s, all-reduces of {format_size(size)}; {whole_again}, "
        f"p50 {percentile(backs, 50):.2f} s, p99 {percentile(backs, 99):.2f} s after the rail; "
        f"longest stall then {1e3 * max(each.after for each in trials):.0f} ms\n"
        f"# {rate:.0f} all-reduces/s at first, at least {min(each.before for each in trials):.0f} "
        f"before each fault; afterwards at least "
        f"{min(each.returned for each in trials):.2f} of what it was before"
    )
    return Outcome(text, tuple(figures), {"trials": [asdict(each) for each in trials]})


def watching(size: int, iters: int) -> dict[str, object]:
    """Return the command to do so many all-reduces, and to tell when each had ended."""
    command = {"measure": "watch", "collective": "all-reduce", "size": size, "in_place": False}
    return {**command, "iters": iters}


def one_trial(
    hosts: TwoHosts, group: RankGroup, fault: str, size: int, rate: float, rng: random.Random
) -> Trial:
    """Take a rail down while all-reduces go on, and up again; judge what that did to them."""
    for attempt in range(5):
        after = 0.5 + 0.1 * rng.random()
        # Whole before, half the rate while one rail is down, and time to come back.
        iters = int(rate * (after + DOWN / 2 + 3.0) * 1.5**attempt)
        incident = Incident(hosts, fault, after, rng)
        answers = group.run(watching(size, iters))
        incident.over.wait(DOWN + 10.0)
        ended = answers[0]["ended"]
        if incident.over.is_set() and reaches(ended, incident.healed):
            wrong = sum(answer["wrong"] for answer in answers)
            return judged(fault, ended, incident.began, incident.healed, wrong)
    raise HoldfastError(
        f"all-reduces do not go on for {LAST} s after a fault, not even {iters} of them"
    )


class Incident:
    """A fault that begins `after` seconds, at a random rail of a random host, and ends by itself.

    `began` and `healed` are times of the monotonic clock, known when `over` is set.
    """

    def __init__(self, hosts: TwoHosts, fault: str, after: float, rng: random.Random) -> None:
        self.over = threading.Event()
        self.began = self.healed = 0.0
        self._hosts, self._fault = hosts, fault
        self._host, self._rail = rng.choice(HOSTS), rng.choice((0, 1))
        self._direction: Direction = rng.choice(("to", "from"))
        hosts.engine.call_later(after, self._begin)

    def _begin(self) -> None:
        nic = self._hosts.network.nic(self._host, self._rail)
        made: Cut | Handle
        if self._fault == "link down":
            made = self._hosts.cut(self._host, self._rail)
        elif self._fault == "drop both ways":
            made = nic.drop()
        else:
            made = nic.drop(direction=self._direction)
        self.began = time.monotonic()
        self._hosts.engine.call_later(DOWN, lambda: self._end(made))

    def _end(self, made: "Cut | Handle") -> None:
        made.heal()
        self.healed = time.monotonic()
        self.over.set()


def progress(trials: Sequence[Trial]) -> str:
    """Return one line about some trials."""
    return "  ".join(
        f"{each.fault} {1e3 * each.stall:.0f} ms, back {each.returned:.2f}" for each in trials
    )


def memory(options: Options) -> Outcome:
    """What a first all-reduce takes beyond its arrays."""
    size = options.sizes[0] if options.sizes else 100 * M
    grown: dict[str, list[float]] = {"out of place": [], "in place": []}
    with ExitStack() as stack:
        hosts = stack.enter_context(TwoHosts(pair(), options.scratch))
        for _ in range(options.rounds):
            for name, of in grown.items():
                with Controller() as controller:
                    library = hosts.placed(ours("tcp", "all-reduce", size))
                    group = controller.start(library.program, 2, hosts.hosts)
                    command = {"measure": "memory", "collective": "all-reduce", "size": size}
                    answers = group.run({**command, "in_place": name == "in place"})
                    of.append(max(answer["growth"] for answer in answers) / M)
    figures = tuple(
        Figure(f"MiB beyond the arrays, {format_size(size)} {name}", max(of), 8, True)
        for name, of in grown.items()
    )
    return Outcome(f"# peak over {options.rounds} rounds, of both ranks", figures, grown)


MODES: Mapping[str, Callable[[Options], Outcome]] = {
    "free": free,
    "shaped": shaped,
    "rails": rails,
    "loss": loss,
    "rail-faults": rail_faults,
    "memory": memory,
}


def as_content(results: Sequence[Result]) -> dict[str, Any]:
    """Return results as the JSON file has them."""
    return {"results": [result.as_json() for result in results]}


def say(text: str) -> None:
    """Tell whoever waits; standard output is for the tables."""
    print(f"holdfast: {text}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as a command; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=100, help="of each fault in rail-faults")
    parser.add_argument("--sizes", default="", help="others than those asked for, as 1M,25M")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    options = parser.parse_args(arguments)
    try:
        if options.rounds < 1 or options.trials < 1:
            raise UsageError("--rounds and --trials: at least 1 was expected")
        sizes = parse_sizes(options.sizes) if options.sizes else ()
        with tempfile.TemporaryDirectory(prefix="hf-net-") as folder:
            asked = Options(options.rounds, options.trials, sizes, Path(folder))
            outcome = MODES[options.mode](asked)
    except HoldfastError as error:
        print(f"holdfast: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    print(outcome.text)
    print(f"\n# {options.mode}: measured and asked, over {congestion_control()}")
    print("\n".join(figure.line() for figure in outcome.figures))
    if options.json:
        content = {
            **setting({}),
            "mode": options.mode,
            "congestion": congestion_control(),
            "figures": [{**asdict(each), "met": each.met} for each in outcome.figures],
            **outcome.content,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
