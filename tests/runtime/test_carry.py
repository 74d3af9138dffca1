"""A job over a communicator of a GPU's arrays: NCCL's, with a stand-in for library and GPU."""

import contextlib
import math
import types

import numpy as np
import pytest
from tests.collectives import nccl_fake as fake
from tests.collectives.room import together
from tests.runtime.test_data_parallel import expected_sums, loss_of, made

from holdfast import optim
from holdfast.collectives.local import LocalCommunicator
from holdfast.collectives.nccl.communicator import NcclCommunicator
from holdfast.core import backend
from holdfast.errors import CommunicationError
from holdfast.runtime import state
from holdfast.runtime.carry import carried
from holdfast.runtime.data_parallel import GradientSum


@pytest.fixture
def over_nccl(monkeypatch, ranks):
    """Runs a function on every rank of a group over the stand-in, which passes for CuPy."""

    def asarray(x):
        return x if isinstance(x, fake.GpuArray) else np.array(x).view(fake.GpuArray)

    cupy = types.SimpleNamespace(asarray=asarray)
    monkeypatch.setitem(backend._BACKENDS, "cuda", lambda: cupy)
    monkeypatch.setattr(fake.GpuArray, "__module__", "cupy")

    def run(world_size, body, scripts=None):
        library = fake.FakeNccl()
        unique = library.binding().unique_id()

        def member(rank):
            binding = library.binding((scripts or {}).get(rank))
            with contextlib.closing(fake.FakeGpu()) as gpu:
                communicator = NcclCommunicator(
                    binding,
                    gpu,
                    lambda: binding.init(world_size, rank, unique),
                    rank=rank,
                    world_size=world_size,
                    timeout=10.0,
                )
                with contextlib.closing(communicator):
                    return body(communicator)

        return ranks.threads(world_size, member)

    return run


def body(communicator):
    """Return what two ranks get for arrays of the host."""
    rank = communicator.rank
    everyone = carried(communicator, communicator.all_reduce, np.array([rank + 1.5]))
    text = np.frombuffer(b"of rank 0" if rank == 0 else b"_________", np.uint8).copy()
    return everyone.tolist(), carried(communicator, communicator.broadcast, text).tobytes()


def test_arrays_of_the_host_go_over_any_communicator(over_nccl):
    assert over_nccl(2, body) == together(2, body) == [([4.0], b"of rank 0")] * 2


def test_who_reads_the_result_on_the_host_is_told_if_there_is_none(over_nccl):
    def alone(communicator):
        with pytest.raises(CommunicationError, match="the network said so"):
            carried(communicator, communicator.all_reduce, np.ones(3))

    script = fake.Script(hangs=True)

    def failing(communicator):
        work = communicator.all_reduce(communicator.allocate(3, "float32"), async_op=True)
        script.fails["async"] = fake.Result.REMOTE_ERROR
        with pytest.raises(CommunicationError):
            work.wait(math.inf)
        alone(communicator)

    over_nccl(1, failing, {0: script})


def test_a_job_s_weights_and_gradients_go_over_nccl(over_nccl):
    """Model and optimizer on the host, so that every array passes through the GPU's memory."""

    class Recorder:
        def find_checkpoint(self):
            return None

        def begin(self, checkpoint):
            assert checkpoint is None

    def body(communicator):
        model = made()
        if communicator.rank == 1:
            for parameter in model.parameters():
                parameter.array[...] = 7.0
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        training = state.Training(model, optimizer)
        training.exchange = GradientSum(optimizer.arena, communicator, bucket_bytes=17_000)
        assert state.restore(training, communicator, Recorder(), seed=None) is None
        found = []
        for step in range(2):
            training.exchange.backward(loss_of(model, communicator.rank, step), 0.5)
            training.exchange.settle()
            carried(communicator, communicator.all_reduce, np.ones(1))
            training.exchange.finish()
            found.append(optimizer.arena.sums.copy())
            optimizer.zero_grad()
        training.exchange.fold()
        training.exchange.close()
        return found

    first, second = over_nccl(2, body)
    for step in range(2):
        assert first[step].tobytes() == second[step].tobytes()
        np.testing.assert_allclose(first[step], expected_sums(2, step), atol=1e-6)


def test_a_group_of_one_takes_the_memory_that_its_transport_would():
    assert LocalCommunicator().device == "cpu"
    assert type(LocalCommunicator().allocate(3, "float32")) is np.ndarray
    with contextlib.closing(fake.FakeGpu()) as gpu:
        alone = LocalCommunicator(gpu)
        assert alone.device == "cuda"
        memory = alone.allocate(3, "float32")
        assert isinstance(memory, fake.GpuArray)
        assert alone.all_reduce(memory) is memory
        alone.close()
