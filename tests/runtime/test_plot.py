"""A run's picture is drawn from its metrics, without touching Matplotlib's global state."""

import sys

import numpy as np
import pytest
from matplotlib.image import imread

from holdfast.errors import UsageError
from holdfast.runtime.metrics import MetricsLog
from holdfast.runtime.plot import plot_run, smoothed


def write(run_dir, lines):
    with MetricsLog(run_dir) as log:
        for step, values in enumerate(lines, start=1):
            log.write(step, values)


@pytest.mark.parametrize(
    "lines",
    [
        [{"loss": 2.0, "data_epoch": 0, "test_accuracy": 0.5}],
        [{"loss": 2.0 / step, "data_epoch": step // 10} for step in range(1, 300)],
        [{"test_accuracy": 0.5}, {"test_accuracy": 0.75, "top_5_accuracy": 0.9}],
        [{"loss": float("nan"), "test_accuracy": float("nan")}, {"loss": 1.0}],
    ],
    ids=["one step", "many epochs", "no loss", "not finite"],
)
def test_a_picture_is_drawn(tmp_path, lines):
    write(tmp_path, lines)
    path = plot_run(tmp_path)
    assert path == tmp_path / "curves.png"
    picture = imread(path)
    assert picture.shape[1] == 1200
    assert picture[..., :3].std() > 0.01  # not blank
    assert "matplotlib.pyplot" not in sys.modules


def test_a_later_picture_replaces_an_earlier_one(tmp_path):
    write(tmp_path, [{"loss": 1.0}])
    plot_run(tmp_path)
    plot_run(tmp_path)
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {"metrics.jsonl", "tensorboard", "curves.png"}


def test_a_run_without_curves_is_refused(tmp_path):
    write(tmp_path, [{"samples_per_second": 3.0}])
    with pytest.raises(UsageError, match="neither a loss nor an accuracy"):
        plot_run(tmp_path)


def test_smoothing_keeps_a_line_and_does_not_lag():
    line = np.linspace(3.0, 1.0, 50)
    smooth = smoothed(line, reach=5)
    assert np.allclose(smooth[6:-6], line[6:-6])
    assert np.allclose(smoothed(np.full(3, 7.0), reach=9), 7.0)  # shorter than the window
    assert smoothed(np.empty(0), reach=3).size == 0


def test_smoothing_leaves_out_what_is_not_finite():
    smooth = smoothed(np.array([1.0, np.nan, 1.0, np.inf, 1.0]), reach=2)
    assert np.array_equal(np.isnan(smooth), [False, True, False, True, False])
    assert np.allclose(smooth[[0, 2, 4]], 1.0)
