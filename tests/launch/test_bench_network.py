"""benchmarks/network.py: what faults did, what is asked, and ours between two namespaces."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

from holdfast.launch.bandwidth.recovery import judged, longest_gap, percentile, reaches, throughput

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "network.py"


@pytest.fixture(scope="module")
def network() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_network", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module


def ticks(begin: float, end: float, pause: float) -> list[float]:
    return [begin + number * pause for number in range(round((end - begin) / pause) + 1)]


# 100 a second; a fault from 1.0 to 2.0: nothing for 0.15 s, then half as many; whole again at 2.5.
ENDED = [*ticks(0, 1, 0.01), *ticks(1.15, 2.5, 0.02), *ticks(2.51, 5, 0.01)]


def test_a_trial_is_judged_by_the_times_at_which_collectives_ended():
    trial = judged("drop", ENDED, 1.0, 2.0, wrong=0)
    assert trial.before == pytest.approx(100)
    assert trial.stall == pytest.approx(0.15)
    assert trial.after == pytest.approx(0.02)
    assert trial.back == pytest.approx(0.75, abs=0.03)  # 2.5 s, and the time to see it
    assert trial.returned == pytest.approx(1.0, abs=0.01)


def test_what_never_comes_back_is_told():
    trial = judged("drop", [*ticks(0, 1, 0.01), *ticks(1.01, 5, 0.02)], 1.0, 2.0, wrong=3)
    assert trial.back is None
    assert trial.returned == pytest.approx(0.5, abs=0.01)
    assert trial.wrong == 3


def test_a_stall_that_outlasts_the_fault_is_its():
    assert longest_gap([0.0, 0.9, 3.5, 3.6], 1.0, 2.0) == pytest.approx(2.6)
    assert longest_gap([0.0, 0.9, 3.5, 3.6], 3.55, 4.0) == pytest.approx(0.1)
    assert longest_gap([0.0], 1.0, 2.0) == 0.0
    assert throughput([0.0, 1.0], 0.5, 2.0) == 0.0
    assert reaches(ENDED, 4.0)
    assert not reaches(ENDED, 4.5)


def test_percentiles_are_values_that_were_seen():
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, part) for part in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))


def test_a_figure_stands_beside_what_is_asked(network):
    assert network.Figure("times Gloo", 5.1, 5.0).line().split()[-3:] == [">=", "5", "yes"]
    assert network.Figure("times Gloo", 4.9, 5.0).line().split()[-1] == "NO"
    assert network.Figure("MiB", 8.0, 8.0, at_most=True).met
    assert not network.Figure("MiB", 8.1, 8.0, at_most=True).met


def test_a_mode_that_there_is_not_is_refused(network, capsys):
    with pytest.raises(SystemExit):
        network.main(["wireless"])
    assert network.main(["free", "--rounds", "0"]) == 2
    assert "at least 1" in capsys.readouterr().err


@pytest.mark.local
@pytest.mark.netns
def test_memory_is_measured_between_two_hosts(network, tmp_path, capsys):
    file = tmp_path / "memory.json"
    arguments = ["memory", "--rounds", "1", "--sizes", "1M", "--json", str(file)]
    assert network.main(arguments) == 0
    assert "MiB beyond the arrays, 1M in place" in capsys.readouterr().out
    content = json.loads(file.read_text())
    assert [each["asked"] for each in content["figures"]] == [8, 8]


@pytest.mark.local
@pytest.mark.netns
def test_two_rails_are_compared_with_one(network, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(network, "peer_folders", list)
    file = tmp_path / "rails.json"
    arguments = ["rails", "--rounds", "1", "--sizes", "1M", "--json", str(file)]
    assert network.main(arguments) == 0
    assert "2-rails over each peer" in capsys.readouterr().out
    content = json.loads(file.read_text())
    for rates in ("1gbit and 1gbit", "1gbit and 200mbit"):
        assert {each["library"] for each in content[rates]["results"]} == {"1-rails", "2-rails"}
        assert all(each["wrong"] == 0 for each in content[rates]["results"])
