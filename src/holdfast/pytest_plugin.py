"""Pytest's fixtures for networks that can be broken: installed with Holdfast, found by pytest.

    def test_training_survives_a_flap(drill):
        result = drill("train.py", workers=3, faults=flap("h0", "h1", down=2.0, at_step=5))
        assert result.weights_identical and result.steps_lost == 0

`fabric` builds networks, `drill` drills a training script. `@pytest.mark.faults(seed=…)` draws the
faults from a seed. A test that fails shows the script that repeats what happened to it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast.errors import UsageError

if TYPE_CHECKING:  # a plugin is imported by every run of pytest, so it must be light
    from holdfast.fabric.hosts import HostsEngine
    from holdfast.fabric.network import Network
    from holdfast.fabric.script import Script
    from holdfast.fabric.topology import Topology
    from holdfast.launch.drill.figures import Figures

_PLAYED = pytest.StashKey[list[Callable[[], str]]]()
"""What gives the scripts of a test's networks and drills, once they are wanted."""

DRAWN_SECONDS = 600.0
"""How long the faults are drawn for that a network of `fabric` is to play."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the kind of network be chosen."""
    parser.addoption(
        "--holdfast-fabric",
        default="relay",
        choices=["relay", "kernel"],
        help="the network that the fixtures fabric and drill build (kernel: needs root)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers",
        "faults(seed, mtbf='5s', kinds=…): draw the faults of this test's networks from a seed",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what a failed test's networks went through, as a script that repeats it."""
    report = yield
    if report.when == "call" and report.failed:
        for text in filter(None, (played() for played in item.stash.get(_PLAYED, []))):
            report.sections.append(("fault script, to be repeated with holdfast drill", text))
    return report


@pytest.fixture
def fabric(request: pytest.FixtureRequest) -> "Iterator[Callable[..., Network[HostsEngine]]]":
    """Return a function that builds a network: `fabric(3)`, `fabric(leaf_spine(2, 2, 2))`.

    A number stands for that many hosts on one switch; `kind` overrides --holdfast-fabric. The
    networks are healed and removed after the test. With `@pytest.mark.faults(seed=7)` faults are
    drawn, and play from the start.
    """
    from holdfast.fabric.build import build
    from holdfast.fabric.script import draw
    from holdfast.fabric.topology import star

    drawn = _drawn(request)
    played = request.node.stash.setdefault(_PLAYED, [])
    with ExitStack() as stack:

        def make(topology: "int | Topology" = 3, kind: str | None = None) -> "Network[HostsEngine]":
            wired = star(topology) if isinstance(topology, int) else topology
            network = build(kind or request.config.getoption("--holdfast-fabric"), wired)
            stack.enter_context(network)
            played.append(partial(_script_of, network, (drawn or {}).get("seed")))
            if drawn is not None:
                network.play(draw(wired, duration=DRAWN_SECONDS, **drawn))
            return network

        yield make


def _script_of(network: "Network[HostsEngine]", seed: int | None) -> str:
    """Return what has happened to a network, as a script's text; nothing if nothing has."""
    from holdfast.fabric.script import Entry, Script, When

    entries = tuple(
        Entry(When(time=max(0.0, round(each.time, 3))), each.fault)
        for each in network.happened
        if each.what == "began"
    )
    return Script(entries, seed).to_toml() if entries else ""


@pytest.fixture
def drill(request: pytest.FixtureRequest, tmp_path: Path) -> "Callable[..., Figures]":
    """Return a function that drills a training script and returns the figures of `drill.json`.

        result = drill("train.py", workers=3, faults=flap("h0", "h1", down=2.0, at_step=5))

    `faults` is a script, a TOML file, or None: they are drawn as `@pytest.mark.faults` says.
    `args` are the training script's own. `topology` says how the hosts are wired up, and
    `nproc_per_node` how many workers each has; `workers` alone means one on each of so many hosts
    on a switch. `timeout` (in seconds) is how long nothing may move before the job gives up. The
    report stays in the folder that is printed.
    """

    def run(
        script: str | Path,
        *,
        workers: int = 3,
        faults: "Script | str | Path | None" = None,
        args: Sequence[str] = (),
        topology: "Topology | None" = None,
        nproc_per_node: int = 1,
        fabric: str | None = None,
        timeout: float = 60.0,
        max_restarts: int = 3,
    ) -> "Figures":
        from holdfast.fabric.script import LINK_KINDS, load_script
        from holdfast.fabric.topology import star
        from holdfast.launch.console import Console
        from holdfast.launch.drill.drill import run_drill
        from holdfast.launch.drill.spec import DrillSpec
        from holdfast.launch.signals import Interrupted, Signals
        from holdfast.runtime.progress import ProgressView

        drawn = _drawn(request)
        if faults is None and drawn is None:
            raise UsageError(
                "a drill needs faults: give faults=flap(…), a file, or @pytest.mark.faults(seed=…)"
            )
        chosen = load_script(Path(faults)) if isinstance(faults, str | Path) else faults
        played = request.node.stash.setdefault(_PLAYED, [])
        folder = tmp_path / f"drill-{len(played)}"
        spec = DrillSpec(
            script=_find(script, request.path.parent),
            run_dir=folder,
            args=tuple(args),
            topology=topology or star(workers),
            fabric=fabric or request.config.getoption("--holdfast-fabric"),
            nproc_per_node=nproc_per_node,
            faults=chosen,
            mtbf=(drawn or {}).get("mtbf", 5.0),
            seed=(drawn or {}).get("seed", 0),
            kinds=tuple((drawn or {}).get("kinds", LINK_KINDS)),
            timeout=timeout,
            max_restarts=max_restarts,
        )
        written = folder / "faults.toml"
        played.append(lambda: written.read_text(encoding="utf-8") if written.exists() else "")
        console = Console(ProgressView())
        with Signals() as signals:
            try:
                done = run_drill(spec, console, signals)
            except Interrupted as interrupted:
                raise KeyboardInterrupt from interrupted  # which stops pytest
            finally:
                console.close()
        print(f"the drill's report: {folder / 'drill.html'}")
        return done.figures

    return run


def _drawn(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    """Return the marker's arguments for `draw`."""
    from holdfast.fabric.units import seconds

    marker = request.node.get_closest_marker("faults")
    if marker is None:
        return None
    unknown = sorted(marker.kwargs.keys() - {"seed", "mtbf", "kinds"})
    if marker.args or unknown or "seed" not in marker.kwargs:
        raise UsageError(
            "the marker is faults(seed=…, mtbf='5s', kinds=(…)); found "
            f"{marker.args or ''} {marker.kwargs}"
        )
    drawn: dict[str, Any] = dict(marker.kwargs)
    return drawn | {"mtbf": seconds(marker.kwargs.get("mtbf", 5.0))}


def _find(script: str | Path, folder: Path) -> Path:
    """Return the script: as it is named, or beside the test."""
    beside = folder / script
    return beside if beside.is_file() else Path(script)
