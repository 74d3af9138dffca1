"""The sum of gradients: in one order everywhere, right, whole or not at all, compressed or not."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.collectives.room import Member, Room, together

import holdfast as hf
import holdfast.nn.functional as F
from holdfast import nn, optim
from holdfast.collectives.local import LocalCommunicator
from holdfast.core.arena import Arena
from holdfast.errors import CommunicationError, UsageError
from holdfast.runtime.data_parallel import GradientSum
from holdfast.runtime.metrics import read_metrics

SCRIPT = Path(__file__).with_name("digits_worker.py")
SUMS_SCRIPT = Path(__file__).with_name("sums_worker.py")
COMPRESSIONS = [None, "bfloat16", "float16", "int8", "top-k:0.1", "powersgd:2"]


class Shuffled(nn.Module):
    """Its layers are registered in another order than they are used in."""

    def __init__(self):
        super().__init__()
        self.third = nn.Linear(64, 8)
        self.first = nn.Linear(48, 64)
        self.second = nn.Linear(64, 64)

    def forward(self, x):
        return self.third(F.relu(self.second(F.relu(self.first(x)))))


seeding = threading.Lock()  # ranks are threads, and the generator is one for all


def made():
    with seeding:
        hf.manual_seed(0)
        return Shuffled()


def data(rank, step=0):
    rng = np.random.default_rng([rank, step])
    return (
        hf.tensor(rng.normal(size=(16, 48)).astype(np.float32)),
        hf.tensor(rng.integers(0, 8, 16)),
    )


def loss_of(model, rank, step=0):
    x, y = data(rank, step)
    return F.cross_entropy(model(x), y)


def expected_sums(size, step=0):
    """Return what the sum is to be near: each rank's gradient, weighed, in float64."""
    model = made()
    arena = Arena.of(model.parameters())
    total = np.zeros(arena.weights.size)
    for rank in range(size):
        loss_of(model, rank, step).backward(1 / size)
        total += arena.gradients
        arena.zero_grad()
    return total


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("bucket_bytes", [1, 17_000, 1 << 20])
def test_sums_are_right_and_the_same_on_every_rank(compression, bucket_bytes):
    def body(member):
        model = made()
        arena = Arena.of(model.parameters())
        exchange = GradientSum(
            arena, member, bucket_bytes=bucket_bytes, compression=lambda bucket: compression
        )
        found = []
        for step in range(3):
            exchange.backward(loss_of(model, member.rank, step), 1 / 3)
            exchange.finish()
            found.append(arena.sums.tobytes())
            arena.zero_grad()
        sent = exchange.sent
        exchange.close()
        assert 0 < sent <= 1.1 * exchange.plain_bytes
        return found

    found = together(3, body)
    assert found[0] == found[1] == found[2]
    if compression in (None, "bfloat16", "float16", "int8"):
        for step in range(3):
            exact = expected_sums(3, step)
            atol = {None: 1e-6, "int8": 0.02}.get(compression, 0.01) * np.abs(exact).max()
            np.testing.assert_allclose(np.frombuffer(found[0][step], np.float32), exact, atol=atol)


def test_the_order_is_that_in_which_rank_0_s_backward_fills_the_buckets():
    """The third layer is used last and registered first; the arena has it last."""

    def body(member):
        model = made()
        if member.rank == 1:  # another order here: rank 0's counts
            model.forward = lambda x: (
                model.third(model.second(model.first(x))) * 0.5 + model.third(model.first(x)) * 0.5
            )
        arena = Arena.of(model.parameters())
        exchange = GradientSum(arena, member, bucket_bytes=1)
        sizes = [bucket.slice.stop - bucket.slice.start for bucket in exchange._buckets]
        steps = []
        for step in range(3):
            member.calls.clear()
            exchange.backward(loss_of(model, member.rank, step), 0.5)
            exchange.finish()
            arena.zero_grad()
            steps.append([count for name, _, count in member.calls if name == "all_reduce"])
        assert steps[0] == sizes
        assert sorted(steps[1]) == sorted(sizes)
        names = {id(p): name for name, p in model.named_parameters()}
        layers = [names[id(exchange._buckets[n].parameters[0])][:5] for n in exchange._order]
        return steps, layers

    (first, layers), (second, _) = together(2, body)
    assert first == second
    assert first[1] == first[2] != first[0]
    assert layers == ["third", "third", "secon", "secon", "first", "first"]


def test_where_there_is_no_wire_nothing_is_summed_before_backward_s_end():
    def body(member):
        member.overlaps = False
        model = made()
        arena = Arena.of(model.parameters())
        exchange = GradientSum(arena, member, bucket_bytes=1)
        for step in range(2):
            member.calls.clear()
            exchange.backward(loss_of(model, member.rank, step), 0.5)
            assert member.calls == []
            exchange.finish()
            assert len(member.calls) == 6
            exact = expected_sums(2, step)
            np.testing.assert_allclose(arena.sums, exact, atol=1e-6 * np.abs(exact).max())
            arena.zero_grad()
        assert exchange._order == [0, 1, 2, 3, 4, 5]

    together(2, body)


@pytest.mark.parametrize("step", [0, 1])
def test_the_order_is_found_in_a_step_that_is_repeated_too(step):
    rooms = {name: Room(2) for name in ("first", "second")}

    def body(member):
        model = made()
        arena = Arena.of(model.parameters())
        one = BreaksOff(rooms["first"], member.rank, 6 * step)  # there are 6 buckets
        other = Member(rooms["second"], member.rank)
        exchange = GradientSum(arena, one, bucket_bytes=1)
        for number in range(step + 1):
            exchange.backward(loss_of(model, member.rank, number), 0.5)
            if number == step:
                with pytest.raises(CommunicationError):
                    exchange.finish()
                one.close()
                exchange.rejoin(other)
            exchange.finish()
            arena.zero_grad()
        other.close()
        names = {id(p): name for name, p in model.named_parameters()}
        return [names[id(exchange._buckets[n].parameters[0])][:5] for n in exchange._order]

    assert together(2, body) == [["third", "third", "secon", "secon", "first", "first"]] * 2


@pytest.mark.parametrize("compression", [None, "bfloat16", "top-k:0.1", "powersgd:2"])
@pytest.mark.parametrize("step", [0, 1])
def test_settled_the_script_may_use_the_communicator_whatever_backward_reached(compression, step):
    """Rank 1's backward doesn't reach the second layer: its buckets wait for `finish` there."""

    def body(member):
        model = made()
        if member.rank == 1:
            model.forward = lambda x: model.third(F.relu(model.first(x)))
        arena = Arena.of(model.parameters())
        exchange = GradientSum(arena, member, bucket_bytes=1, compression=lambda _: compression)
        found = []
        for number in range(step + 1):
            exchange.backward(loss_of(model, member.rank, number), 0.5)
            if number == step:
                exchange.settle()
                assert member.all_reduce(np.array([member.rank + 1.0]))[0] == 3
                exchange.settle()  # does nothing more
            exchange.finish()
            found.append(arena.sums.tobytes())
            arena.zero_grad()
        exchange.close()
        return found, member.calls

    assert_same(together(2, body))


def assert_same(results):
    assert all(result == results[0] for result in results)


class Broken(Member):
    """Takes no sum any more, as a communicator whose link was lost for good."""

    def all_reduce(self, x, op="sum", out=None, *, async_op=False):
        raise CommunicationError("as asked")


def test_backward_goes_to_its_end_though_a_sum_cannot_begin():
    """What is kept for the repetition is the whole gradient."""
    room = Room(2)

    def body(member):
        model = made()
        arena = Arena.of(model.parameters())  # the first layer's gradients come last
        one, other = Broken(Room(2), member.rank), Member(room, member.rank)
        exchange = GradientSum(arena, one, bucket_bytes=1)
        exchange.backward(loss_of(model, member.rank), 0.5)
        for _ in range(2):
            with pytest.raises(CommunicationError, match="as asked"):
                exchange.settle()
            with pytest.raises(CommunicationError, match="as asked"):
                exchange.finish()
        one.close()
        exchange.rejoin(other)
        exchange.finish()
        other.close()
        return arena.sums.copy()

    first, second = together(2, body)
    assert first.tobytes() == second.tobytes()
    np.testing.assert_allclose(first, expected_sums(2), atol=1e-6)


def test_a_frozen_parameter_holds_up_its_bucket_for_one_step_only():
    def body(member):
        model = made()
        for parameter in model.second.parameters():
            parameter.requires_grad = False
        arena = Arena.of(model.parameters())
        exchange = GradientSum(arena, member, bucket_bytes=1)
        begun = []
        for step in range(2):
            exchange.backward(loss_of(model, member.rank, step), 0.5)
            begun.append(exchange._begun)
            exchange.finish()
            assert not arena.sums[arena.place(model.second.weight)].any()
            arena.zero_grad()
        return begun

    assert together(2, body) == [[0, 4], [0, 4]]


class BreaksOff(Member):
    """Fails at its all-reduce number `at`, as every rank's does where a link is lost for good."""

    def __init__(self, room, rank, at):
        super().__init__(room, rank)
        self._left = at

    def _all_reduce(self, x, op, out):
        self._left -= 1
        if self._left < 0:
            if out is not None:
                out[: out.size // 2] = 12345.0
            raise CommunicationError("as asked")
        return super()._all_reduce(x, op, out)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_step_that_breaks_off_is_repeated_without_computing_anything_anew(compression, at):
    rooms = {name: Room(2) for name in ("quiet", "first", "second")}

    def body(member):
        rank = member.rank
        sums = {}
        for kind in ("quiet", "broken"):
            model = made()
            arena = Arena.of(model.parameters())
            quiet = Member(rooms["quiet"], rank)
            one = BreaksOff(rooms["first"], rank, at + 12) if kind == "broken" else quiet
            other = Member(rooms["second"], rank)
            exchange = GradientSum(
                arena, one, bucket_bytes=17_000, compression=lambda bucket: compression
            )
            sums[kind] = []
            broke = 0
            for step in range(8):
                try:
                    exchange.backward(loss_of(model, rank, step), 0.5)
                    exchange.finish()
                except CommunicationError:
                    broke += 1
                    one.close()
                    exchange.rejoin(other)
                    exchange.finish()
                sums[kind].append(arena.sums.tobytes())
                arena.zero_grad()
            exchange.close()
            for each in (quiet, one, other):
                each.close()
            # int8 and top-k make no all-reduces
            assert broke == (kind == "broken" and compression not in ("int8", "top-k:0.1"))
        return sums["quiet"] == sums["broken"]

    assert together(2, body) == [True, True]


@pytest.mark.parametrize("compression", ["float16", "top-k:0.1", "powersgd:2"])
@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 3), (3, 1)])
def test_what_compression_remembers_goes_on(compression, before, after):
    """As many ranks go on to the same bits; of others the unsent sum is the same."""

    def run(size, steps, state=None, save_at=None):
        def body(member):
            model = made()
            arena = Arena.of(model.parameters())
            exchange = GradientSum(arena, member, bucket_bytes=17_000, compression=compression)
            if state is not None:
                exchange.load_state(state)
            saved = None
            for step in steps:
                exchange.backward(loss_of(model, member.rank, step), 1 / size)
                exchange.finish()
                arena.zero_grad()
                if step == save_at:
                    exchange.fold()
                    saved = exchange.state_arrays()
            exchange.close()
            return arena.sums.tobytes(), saved, exchange.state_arrays()

        if size == 1:
            return [body(LocalCommunicator())]
        return together(size, body)

    whole = run(before, range(6), save_at=2)
    saved = whole[0][1]
    for name, array in saved.items():
        assert array.tobytes() == whole[1][1][name].tobytes(), "ranks would save different states"
    resumed = run(after, range(3, 6) if after > 1 else [], saved)
    if before == after:
        assert resumed[0][0] == whole[0][0]
    elif after > 1 and "residual" in saved:
        taken = run(after, [], saved)
        unsent = sum(held["residual"].astype(np.float64) for _, _, held in taken)
        np.testing.assert_allclose(unsent, saved["residual"] * float(before), rtol=1e-5, atol=1e-9)


def test_a_state_of_other_bounds_or_none_begins_at_zero():
    def body(member):
        arena = Arena.of(made().parameters())
        exchange = GradientSum(arena, member, bucket_bytes=17_000, compression="powersgd:2")
        full = {name: np.ones_like(array) for name, array in exchange.state_arrays().items()}
        exchange.load_state(full)
        assert exchange.state_arrays()["residual"].any()
        wrong = {name: np.ones(3, np.float32) for name in full if name != "world_size"}
        for state in ({}, wrong):
            exchange.load_state(state)
            assert not any(
                array.any()
                for name, array in exchange.state_arrays().items()
                if name != "world_size"
            )
        exchange.close()

    together(2, body)


def test_small_buckets_stay_whole_and_wrong_names_are_told():
    def body(member):
        arena = Arena.of(made().parameters())
        small = GradientSum(arena, member, bucket_bytes=4096, compression="bfloat16")
        kinds = [compressor is not None for compressor in small._compressors]
        assert kinds == [b.slice.stop - b.slice.start >= 4096 for b in small._buckets]
        assert 0 < sum(kinds) < len(kinds)
        small.close()

    together(2, body)
    arena = Arena.of(nn.Linear(2, 2).parameters())
    with pytest.raises(UsageError, match="a compression of bfloat16"):
        GradientSum(arena, LocalCommunicator(), compression="gzip")


def test_one_rank_needs_no_sum_and_no_compression():
    model = made()
    arena = Arena.of(model.parameters())
    exchange = GradientSum(arena, LocalCommunicator(), compression="top-k")
    exchange.backward(loss_of(model, 0), 1.0)
    exchange.finish()
    exchange.fold()
    assert exchange.sent == 0
    np.testing.assert_allclose(arena.sums, expected_sums(1), atol=1e-6)


# Training


def trained(compression):
    """Return the mean loss on the digits after some steps of two ranks."""
    train, _ = hf.datasets.digits()
    images, labels = train[np.arange(960)]
    images = images.reshape(len(images), -1)[:, :48]

    def body(member):
        model = made()
        optimizer = optim.SGD(model.parameters(), lr=0.2)
        exchange = GradientSum(optimizer.arena, member, compression=compression)
        for step in range(200):
            at = slice(step % 10 * 96 + member.rank * 48, step % 10 * 96 + member.rank * 48 + 48)
            target = hf.tensor(labels[at] % 8)
            loss = F.cross_entropy(model(hf.tensor(images[at])), target)
            exchange.backward(loss, 0.5)
            exchange.finish()
            optimizer.step()
            optimizer.zero_grad()
        exchange.close()
        with hf.no_grad():
            return F.cross_entropy(model(hf.tensor(images)), hf.tensor(labels % 8)).item()

    losses = together(2, body)
    assert losses[0] == losses[1]
    return losses[0]


def test_training_with_any_compression_comes_near_the_quiet_loss():
    quiet = trained(None)
    assert quiet < 0.5
    for compression in COMPRESSIONS[1:]:
        loss = trained(compression)
        print(compression, loss, "without", quiet)
        assert loss < quiet + 0.15


def test_a_job_of_one_leaves_the_switch_interval_alone():
    before = sys.getswitchinterval()
    job = hf.init(hf.WorkerSpec())
    assert sys.getswitchinterval() == before
    job.close()
    assert sys.getswitchinterval() == before


@pytest.mark.local
def test_a_job_killed_with_something_unsent_resumes_to_the_same_weights(workers, tmp_path):
    def train(name, *args, status=0):
        for code, errors in workers(
            2,
            SCRIPT,
            *(
                "--compression=powersgd:1",
                "--bucket-bytes",
                1 << 20,
                "--hidden=128",
                "--epochs=1",
                *args,
            ),
            run_dir=tmp_path / name,
            transport="tcp",
        ):
            assert code == status, errors
        return tmp_path / name

    whole = json.loads((train("whole") / "result.json").read_text())
    lines = [line for line in read_metrics(tmp_path / "whole") if "gradient_bytes" in line]
    assert len(lines) == whole["steps"]
    train("killed", "--kill-at", "8", status=-9)
    resumed = json.loads((train("killed") / "result.json").read_text())
    assert resumed["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.local
@pytest.mark.parametrize("compression", [None, "top-k:0.1"])
def test_a_script_may_sum_and_log_between_backward_and_step(workers, tmp_path, compression):
    args = [] if compression is None else [f"--compression={compression}"]
    for code, errors in workers(2, SUMS_SCRIPT, *args, run_dir=tmp_path, transport="tcp"):
        assert code == 0, errors
    found = json.loads((tmp_path / "result.json").read_text())
    assert found["steps"] == 8
    assert found["steps_before"] == 7
    losses = [line["loss"] for line in read_metrics(tmp_path) if "loss" in line]
    assert len(losses) == 8
