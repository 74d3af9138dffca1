"""The examples on images, shortened: each runs, learns something, and writes its picture."""

import pytest
from matplotlib.image import imread

pytestmark = [pytest.mark.local, pytest.mark.usefixtures("fashion_mnist")]


def sheet_of(path, rows, columns):
    """Return the sheet's grey values, having looked at its size and that it is no blank."""
    sheet = imread(path)[..., 0]
    assert sheet.shape == (rows * 84, columns * 84)
    assert sheet.std() > 0.02
    return sheet


def test_xor_is_learnt(run):
    assert run(1, "xor.py")["worst_error"] < 0.1


def test_mlp(run):
    result = run(1, "mlp.py", "--epochs", 1, "--samples", 6400, "--width", 256)
    assert result["samples"] == 6400
    assert result["test_accuracy"] > 0.7


@pytest.mark.parametrize("options", [("float16",), ("bfloat16", "--recompute")], ids=str)
def test_residual_cnn_in_mixed_precision(run, options):
    short = ("--epochs", 1, "--samples", 1280, "--test-samples", 256, "--width", 8)
    result = run(1, "residual_cnn.py", *short, "--batch-size", 64, "--precision", *options)
    assert result["loss"] < 1.8
    assert result["test_accuracy"] > 0.1


def test_gan_on_two_workers(run, tmp_path):
    result = run(2, "gan.py", "--epochs", 1, "--samples", 2560, "--width", 16)
    assert result["distance"] < 0.45
    sheet_of(tmp_path / "run" / "samples.png", 10, 10)


def test_vae(run, tmp_path):
    result = run(1, "vae.py", "--epochs", 1, "--samples", 1600, "--test-samples", 250)
    assert result["test_nats"] < 500
    sheet_of(tmp_path / "run" / "samples.png", 10, 10)
    sheet_of(tmp_path / "run" / "reconstructions.png", 10, 10)


@pytest.mark.parametrize(("damage", "gain"), [("noise", 3.0), ("blur", 0.5)])
def test_image_filter(run, tmp_path, damage, gain):
    short = ("--epochs", 1, "--samples", 1600, "--test-samples", 250, "--damage", damage)
    result = run(1, "image_filter.py", *short)
    assert result["psnr_after"] > result["psnr_before"] + gain
    sheet_of(tmp_path / "run" / "filtered.png", 3, 10)


def test_optimizers_go_on_from_a_checkpoint_as_if_nothing_had_been(run, tmp_path):
    short = ("--samples", 1920, "--log-every", 5, "--width", 16)
    whole = run(1, "optimizers.py", "--epochs", 2, *short, run_dir="whole")
    run(1, "optimizers.py", "--epochs", 1, *short, run_dir="parts")
    parts = run(1, "optimizers.py", "--epochs", 2, *short, run_dir="parts")
    assert parts["weights_sha256"] == whole["weights_sha256"]
    curves = {name: value for name, value in whole.items() if name[0].isupper()}
    assert len(curves) == 16
    assert max(curves.values()) < 2.1
    assert curves == {name: parts[name] for name in curves}
    assert imread(tmp_path / "parts" / "optimizers.png").shape[:2] == (691, 748)
