"""A NaN is traced to the primitive that made it, forward and backward."""

import numpy as np
import pytest

import holdfast
from holdfast import core
from holdfast.core.anomaly import detect_anomaly
from holdfast.core.watch import watching
from holdfast.errors import AnomalyError


def test_a_nan_in_the_forward_pass_names_its_primitive():
    x = core.tensor([1.0, -1.0], requires_grad=True)
    with np.errstate(invalid="ignore"):
        assert np.isnan((x.log() * 2).array).any()
        with (
            detect_anomaly(),
            pytest.raises(
                AnomalyError, match=r"'log' made a NaN out of an array of shape \(2,\) from -1 to 1"
            ),
        ):
            (x.log() * 2).sum()


def test_a_nan_in_backward_names_the_primitive_and_the_argument():
    x = core.tensor([0.0, 1.0], requires_grad=True)
    with np.errstate(invalid="ignore", divide="ignore"), detect_anomaly():
        y = (x.sqrt() * core.tensor([0.0, 1.0])).sum()
        with pytest.raises(AnomalyError, match="gradient of 'sqrt' by its argument 0"):
            y.backward()


def test_a_nan_that_came_in_is_nobodys_and_infinities_pass():
    x = core.tensor([float("nan"), 1.0])
    with detect_anomaly():
        assert np.isnan((x * 2).array[0])
        assert (core.tensor([1.0]) * float("inf")).item() == float("inf")


def test_watchers_nest_and_are_watched_by_those_within():
    seen = []

    def watcher(name):
        def watch(primitive, arguments, options, run):
            seen.append(f"{name} {primitive.name}")
            core.ones(1) + 1  # of the watcher's own
            return run(*arguments, **options)

        return watch

    with watching(watcher("inner")), watching(watcher("outer")):
        core.ones(2) * 2
        with core.no_grad():
            core.ones(2).exp()
    core.ones(2) * 3
    own = "inner add"  # what the outer one computes itself
    assert seen == ["outer mul", own, "inner mul", "outer exp", own, "inner exp"]


def test_it_is_part_of_the_public_face():
    assert holdfast.detect_anomaly is detect_anomaly
