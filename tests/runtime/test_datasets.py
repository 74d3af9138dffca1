"""Data sets give float32 batches of what they hold."""

import gzip
import hashlib
import sys

import numpy as np
import pytest

from holdfast.errors import DataError, MissingDependency, UsageError
from holdfast.runtime import fetch
from holdfast.runtime.datasets import (
    FASHION_MNIST_CLASSES,
    ArrayDataset,
    Normalize,
    digits,
    fashion_mnist,
)

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, size=(20, 1, 4, 4), dtype=np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)
BYTES = ArrayDataset(PIXELS, LABELS, transform=Normalize(0.25, 0.5), classes=("a",))


def test_a_batch_is_float32_and_int64():
    indices = np.array([3, 0, 3], dtype=np.int64)
    inputs, targets = BYTES[indices]
    assert inputs.dtype == np.float32
    assert targets.dtype == np.int64
    assert targets.tolist() == [3, 0, 3]
    expected = (PIXELS[indices].astype(np.float64) / 255 - 0.25) / 0.5
    assert np.allclose(inputs, expected, atol=1e-6)


def test_a_batch_is_a_copy():
    floats = ArrayDataset(np.zeros((3, 2), np.float32), np.zeros(3, np.int64))
    inputs, targets = floats[np.arange(3)]
    inputs += 1
    targets += 1
    assert floats.inputs.sum() == floats.targets.sum() == 0


def test_a_sample_s_values_do_not_depend_on_its_batch():
    whole, _ = BYTES[np.arange(20)]
    for sample in range(20):
        assert np.array_equal(BYTES[np.array([sample])][0][0], whole[sample])


def test_subsets():
    by_mask = BYTES.subset(np.isin(LABELS, [1, 7]))
    by_index = BYTES.subset([1, 7, 11, 17])
    for subset in (by_mask, by_index):
        assert len(subset) == 4
        assert subset.targets.tolist() == [1, 7, 1, 7]
        assert np.array_equal(subset.inputs, PIXELS[[1, 7, 11, 17]])
        assert subset.transform is BYTES.transform
        assert subset.classes == BYTES.classes
    assert len(BYTES.subset([])) == 0


def test_wrong_subsets_are_refused():
    with pytest.raises(UsageError, match=r"\(20,\), got \(3,\)"):
        BYTES.subset([True, False, True])
    with pytest.raises(UsageError, match="float64"):
        BYTES.subset([0.5])


def test_inputs_and_targets_must_fit():
    with pytest.raises(DataError, match="one target for each input"):
        ArrayDataset(PIXELS, LABELS[:-1])
    with pytest.raises(DataError, match="integer targets"):
        ArrayDataset(PIXELS, LABELS.astype(np.float32))


def test_digits_are_split_once_and_for_all():
    train, test = digits()
    assert (len(train), len(test)) == (1437, 360)
    assert train.classes == tuple("0123456789")
    inputs, targets = test[np.arange(10)]
    assert inputs.shape == (10, 1, 8, 8)
    assert inputs.min() == 0.0
    assert inputs.max() == 1.0
    assert targets.tolist() == test.targets[:10].tolist()
    digest = hashlib.sha256(test.inputs.tobytes() + test.targets.astype("<i8").tobytes())
    assert digest.hexdigest() == "31b81304b56c8243bcae7a7cae2c2c6873b35caf09ef9ba727d4edf9ab0cdfaa"


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependency, match=r"pip install 'holdfast\[digits\]'"):
        digits()


@pytest.fixture
def small_fashion_mnist(tmp_path, monkeypatch):
    """Put a data set of 12 and 6 samples in a folder in Fashion-MNIST's place."""
    files = []
    for part, count in (("train", 12), ("t10k", 6)):
        images = RNG.integers(0, 256, size=(count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            sizes = np.array(array.shape, ">u4").tobytes()
            data = bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()
            if name.startswith("images"):
                (tmp_path / f"{part}-{name}.gz").write_bytes(gzip.compress(data))
            else:
                (tmp_path / f"{part}-{name}").write_bytes(data)
            sha256 = hashlib.sha256(data).hexdigest()
            files.append(fetch.DataFile(f"{part}-{name}", array.shape, sha256, "", 0))
    monkeypatch.setattr(fetch, "FASHION_MNIST_FILES", tuple(files))
    return tmp_path


def test_fashion_mnist_is_read_gzipped_or_not(small_fashion_mnist):
    train, test = fashion_mnist(small_fashion_mnist)
    assert (len(train), len(test)) == (12, 6)
    assert train.inputs.dtype == np.uint8
    assert train.inputs.shape == (12, 1, 28, 28)
    assert test.classes == FASHION_MNIST_CLASSES
    inputs, _ = test[np.arange(6)]
    assert np.allclose(inputs, (test.inputs / 255.0 - 0.2860) / 0.3530, atol=1e-5)


def test_a_missing_file_is_named(small_fashion_mnist):
    (small_fashion_mnist / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is missing; .*data fetch"):
        fashion_mnist(small_fashion_mnist)


def test_a_corrupt_file_is_named(small_fashion_mnist):
    path = small_fashion_mnist / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=f"{path}: .*SHA-256.*remove it"):
        fashion_mnist(small_fashion_mnist)


def test_the_real_fashion_mnist_if_it_is_on_this_machine():
    folder = fetch.find_fashion_mnist()
    if folder is None:
        pytest.skip("Fashion-MNIST is not on this machine: `holdfast data fetch fashion-mnist`")
    train, test = fashion_mnist(folder)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount(train.targets).tolist() == [6000] * 10
    parts = np.array_split(train.inputs, 20)  # a histogram of each, for its memory's sake
    counts = sum(np.bincount(part.ravel(), minlength=256) for part in parts)
    levels = np.arange(256) / 255
    mean = np.average(levels, weights=counts)
    std = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    assert mean == pytest.approx(0.2860, abs=5e-5)
    assert std == pytest.approx(0.3530, abs=5e-5)
