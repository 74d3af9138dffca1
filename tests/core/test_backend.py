"""The array-module seam, and the allocator's setting."""

import copy
import sys

import numpy as np
import pytest

import holdfast as hf
from holdfast import core
from holdfast.core import backend as seam
from holdfast.core.memory import keep_freed_memory
from holdfast.errors import MissingDependency, UsageError


def test_numpy_is_the_cpu():
    array = np.ones(2)
    assert seam.array_module(array, 1.0, None) is np
    assert seam.backend("cpu") is np
    assert seam.device_of(array) == core.ones(1).device == "cpu"
    assert seam.to_host(array) is array
    assert seam.to_device(array, "cpu") is array
    assert isinstance(seam.to_host(np.float32(1)), np.ndarray)


def test_a_missing_cupy_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(MissingDependency, match=r"pip install 'holdfast\[cuda13\]'"):
        core.zeros(2, device="cuda")
    with pytest.raises(MissingDependency):
        core.zeros(2).to("cuda")
    with pytest.raises(UsageError, match=r"device: 'cpu'.* found 'gpu'"):
        seam.to_device(np.ones(1), "gpu")


@pytest.mark.parametrize("size", [1, 17, 1000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_flat_buffers_are_aligned_and_zero(size, dtype):
    flat = seam.aligned_zeros(size, dtype)
    assert flat.ctypes.data % 64 == 0
    assert flat.shape == (size,)
    assert flat.dtype == dtype
    assert not flat.any()


def test_strided_views_share_memory():
    x = np.arange(6.0)
    windows = seam.strided(x, (4, 3), (8, 8))
    assert windows[1].tolist() == [1.0, 2.0, 3.0]
    assert np.shares_memory(windows, x)


def test_the_allocator_can_be_told():
    assert isinstance(keep_freed_memory(), bool)


def test_devices_are_their_names():
    cpu, gpu = core.device("cpu"), core.device("cuda:0")
    assert (cpu, cpu.type, cpu.index) == ("cpu", "cpu", None)
    assert (gpu, gpu.type, gpu.index) == ("cuda", "cuda", 0)
    assert core.device("cuda", 0) == gpu == core.device(gpu)
    assert repr(gpu) == "device(type='cuda', index=0)"
    assert copy.deepcopy(gpu).index == 0
    x = core.zeros(2, device=cpu)
    assert x.device == cpu == "cpu"
    assert x.device.type == "cpu"
    assert not x.is_cuda
    assert x.to(core.device("cpu"), non_blocking=True) is x
    for wrong in ("gpu", "cuda:1", "cuda:x", "cpu:", ""):
        with pytest.raises(UsageError, match=r"'cpu', 'cuda' or 'cuda:0' was expected"):
            core.device(wrong)
    with pytest.raises(UsageError, match="found 'cuda:3'"):
        core.device("cuda", 3)
    assert isinstance(hf.cuda.is_available(), bool)
    assert hf.cuda.is_available() == (hf.cuda.device_count() > 0)
