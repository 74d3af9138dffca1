"""NCCL on real GPUs: what no stand-in can show. One GPU gives a group of one; more, of two."""

import contextlib
import json
import math
from pathlib import Path

import numpy as np
import pytest

from holdfast.collectives.nccl.binding import load_binding
from holdfast.collectives.nccl.communicator import NcclCommunicator
from holdfast.collectives.nccl.gpu import CupyGpu
from holdfast.errors import MissingDependency, UsageError

pytestmark = pytest.mark.gpu
cupy = pytest.importorskip(
    "cupy", reason="runs on an NVIDIA GPU through CuPy: pip install 'holdfast[cuda13]'"
)
DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "complex64"]


@pytest.fixture
def alone():
    """A communicator of one rank on the current GPU."""
    try:
        binding = load_binding()
    except MissingDependency as error:
        pytest.skip(str(error))
    gpu, unique = CupyGpu(), binding.unique_id()
    communicator = NcclCommunicator(
        binding, gpu, lambda: binding.init(1, 0, unique), rank=0, world_size=1, timeout=60.0
    )
    with contextlib.closing(communicator):
        yield communicator


@pytest.fixture
def two_gpus():
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs: NCCL refuses two ranks on one")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_collective_of_one_rank(alone, dtype):
    host = np.arange(1, 101).astype(dtype)
    for x in (cupy.asarray(host), cupy.asarray(host).reshape(10, 10).T):
        before = cupy.asnumpy(x)
        assert alone.all_reduce(x) is x
        assert np.array_equal(cupy.asnumpy(x), before)
        assert np.array_equal(cupy.asnumpy(alone.all_reduce(x, out=x.copy())), before)
        assert np.array_equal(cupy.asnumpy(alone.all_gather(x)), before[None])
        assert np.array_equal(cupy.asnumpy(alone.reduce_scatter(x)), before.reshape(-1))
        assert np.array_equal(cupy.asnumpy(alone.broadcast(x)), before)
        assert np.array_equal(cupy.asnumpy(alone.all_to_all(x[None])), before[None])
        assert np.array_equal(cupy.asnumpy(alone.gather(x)), before[None])
        assert np.array_equal(cupy.asnumpy(alone.scatter(x[None], x.copy())), before)
        assert np.array_equal(cupy.asnumpy(alone.reduce(x)), before)
    assert alone.all_reduce(cupy.empty(0, dtype)).size == 0
    alone.barrier()


def test_bfloat16(alone):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    try:
        x = cupy.asarray(np.arange(8).astype(ml_dtypes.bfloat16))
    except (TypeError, ValueError):
        pytest.skip("this CuPy has no bfloat16; CuPy 14 has")
    if not alone._binding.abilities.bfloat16:
        pytest.skip("this binding has no bfloat16")
    assert np.array_equal(cupy.asnumpy(alone.all_reduce(x, "max")), cupy.asnumpy(x))


def test_the_callers_stream_is_waited_for_and_waits(alone):
    with cupy.cuda.Stream(non_blocking=True):
        x = cupy.zeros(1 << 24, "float32")
        for _ in range(50):  # long enough that the host is ahead
            x += 1
        work = alone.all_reduce(x, async_op=True)
        y = work.wait() * 2
        assert float(y[0]) == 100.0
        assert float(y[-1]) == 100.0
    assert work.wait(math.inf) is x


def test_arrays_of_the_host_are_refused(alone):
    with pytest.raises(UsageError, match="CuPy arrays"):
        alone.all_reduce(np.zeros(3))


def test_a_large_array(alone):
    x = cupy.ones(1 << 28, "float32")  # 1 GiB
    assert float(alone.all_reduce(x).sum()) == 1 << 28


def run(workers, tmp_path, what):
    """Run nccl_rank.py on two GPUs; return each rank's (exit status, standard error)."""
    script = Path(__file__).with_name("nccl_rank.py")
    return workers(2, script, what, tmp_path / "found", run_dir=tmp_path, timeout=150)


def found(tmp_path, rank):
    return json.loads((tmp_path / f"found.{rank}").read_text())


def test_two_ranks_add_up(two_gpus, workers, tmp_path):
    for rank, (status, errors) in enumerate(run(workers, tmp_path, "sums")):
        assert status == 0, errors
        assert found(tmp_path, rank) == [3.0, True] * 4 + [0]


def test_a_rank_that_dies_is_noticed_in_bounded_time(two_gpus, workers, tmp_path):
    run(workers, tmp_path, "death")
    seconds, message = found(tmp_path, 0)
    assert seconds < 30, message  # the group's timeout is 10 s, an abort's as much
