"""What may happen between a sum and its update: clipping, loss scaling, averages of the weights."""

import numpy as np
import pytest
from tests.runtime.test_job import SCRIPT, final_weights, quiet, ran, train

from holdfast.runtime.metrics import read_metrics

pytestmark = pytest.mark.local
__all__ = ["quiet", "ran", "train"]  # fixtures


def steps(run_dir):
    return [line for line in read_metrics(run_dir) if "loss" in line]


@pytest.mark.parametrize(
    "options",
    [("--clip-norm=0.05",), ("--clip-norm=0.5", "--scale=1024", "--accumulate=3")],
    ids=["clipped", "scaled and in pieces"],
)
def test_any_number_of_workers_does_the_same(train, tmp_path, options):
    weights, averages = [], []
    for size in (1, 3):
        means = tmp_path / f"means{size}"
        train(size, f"of{size}", "--float64", f"--averages={means}", *options)
        last = steps(tmp_path / f"of{size}")[-1]
        assert last["gradient_norm"] > 0
        assert ("loss_scale" in last) == ("--scale=1024" in options)
        weights.append(final_weights(tmp_path / f"of{size}"))
        own = [np.load(f"{means}.{rank}.npy") for rank in range(size)]
        assert all(np.array_equal(own[0], other) for other in own)
        averages.append(own[0])
    assert np.abs(averages[0] - averages[1]).max() < 1e-12
    for name, expected in weights[0].items():
        assert np.abs(weights[1][name] - expected).max() < 1e-12


def test_a_sum_of_the_script_s_own_within_a_piece_changes_no_bit(train):
    options = ("--epochs=1", "--accumulate=3")
    plain, asked = train(2, "plain", *options), train(2, "asked", "--sum-within", *options)
    assert plain["weights_sha256"] == asked["weights_sha256"]


def test_an_update_by_sums_that_are_not_finite_is_left_out_by_all(train, tmp_path):
    train(2, "scaled", "--scale=1024", "--overflow-at=5", "--epochs=1")
    scales = [line["loss_scale"] for line in steps(tmp_path / "scaled")]
    assert scales[4:7] == [1024, 1024, 512]
    assert all(np.isfinite(w).all() for w in final_weights(tmp_path / "scaled").values())


def test_a_killed_job_goes_on_with_scale_and_averages(train, workers, tmp_path):
    options = ("--optimizer=Adam", "--scale=1024", "--clip-norm=1")
    expected = train(2, "whole", *options, f"--averages={tmp_path / 'a'}")
    killed = ("--kill-at", 17, f"--averages={tmp_path / 'b'}")
    workers(2, SCRIPT, *killed, *options, run_dir=tmp_path / "killed")
    again = train(2, "killed", *options, f"--averages={tmp_path / 'b'}")
    assert again["weights_sha256"] == expected["weights_sha256"]
    for rank in range(2):
        one, two = (np.load(tmp_path / f"{name}.{rank}.npy") for name in "ab")
        assert np.array_equal(one, two)
    one, two = (steps(tmp_path / name) for name in ("whole", "killed"))
    assert [line["loss_scale"] for line in one] == [line["loss_scale"] for line in two]
