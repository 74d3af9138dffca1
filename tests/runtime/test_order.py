"""The data order is a bijection, the same for every world size, and never changes."""

import hashlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.runtime.order import DataOrder, permuted

# A slow or busy machine is no fault of the order.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

seeds = st.integers(min_value=-(2**64), max_value=2**65)
orders = st.builds(
    DataOrder,
    samples=st.integers(1, 3000),
    batch_size=st.integers(1, 400),
    seed=seeds,
)


@untimed
@given(n=st.integers(1, 3000), seed=seeds, data_epoch=st.integers(0, 10**6))
def test_permuted_is_a_bijection(n, seed, data_epoch):
    image = permuted(np.arange(n), n, seed=seed, data_epoch=data_epoch)
    assert image.dtype == np.int64
    assert np.array_equal(np.sort(image), np.arange(n))


@untimed
@given(st.data())
def test_a_position_s_image_does_not_depend_on_what_else_is_asked(data):
    n = data.draw(st.integers(1, 2**62))
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    together = permuted(positions, n, seed=3, data_epoch=1)
    assert together.min() >= 0
    assert together.max() < n
    alone = [permuted([each], n, seed=3, data_epoch=1)[0] for each in positions]
    assert together.tolist() == alone


def test_the_numbers_are_pinned():
    assert permuted(range(10), 10, seed=0, data_epoch=0).tolist() == [1, 6, 3, 5, 0, 4, 8, 2, 9, 7]
    assert permuted(range(6), 60_000, seed=0, data_epoch=0).tolist() == [
        17838,
        3741,
        33761,
        16769,
        47719,
        57890,
    ]
    epoch = permuted(np.arange(60_000), 60_000, seed=42, data_epoch=7)
    assert (
        hashlib.sha256(epoch.astype("<i8").tobytes()).hexdigest()
        == "656d4f033fc3950f66db490ab37b10a2eba5024ddbbea2b235911b9b5a4615dc"
    )


def test_seeds_and_epochs_give_unrelated_orders():
    n = 10_000
    images = [
        permuted(np.arange(n), n, seed=seed, data_epoch=epoch)
        for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    ]
    for number, first in enumerate(images):
        # A random permutation has one fixed point on average, and so has one after another's
        # inverse; and no correlation with the order of the samples.
        for second in (np.arange(n), *images[:number]):
            assert np.count_nonzero(first == second) < 12
            assert abs(np.corrcoef(first, second)[0, 1]) < 0.05


def test_every_place_of_a_small_epoch_is_equally_likely():
    n, trials = 10, 4000
    counts = np.zeros((n, n))
    for epoch in range(trials):
        counts[np.arange(n), permuted(np.arange(n), n, seed=5, data_epoch=epoch)] += 1
    expected = trials / n
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 140  # 81 degrees of freedom: 81 on average, above 140 once in 20,000


@untimed
@given(orders, st.integers(0, 5000), st.integers(1, 64))
def test_the_shards_in_rank_order_are_the_batch(order, step, world_size):
    batch = order.batch(step)
    shards = [order.shard(step, rank, world_size) for rank in range(world_size)]
    assert sum(shard.weight for shard in shards) == pytest.approx(1.0)
    working = [shard.indices for shard in shards if shard.weight > 0]
    assert np.array_equal(np.concatenate(working), batch)
    sizes = [len(indices) for indices in working]
    assert max(sizes) - min(sizes) <= 1
    for shard in shards:
        if shard.weight == 0.0:
            assert shard.indices.tolist() == [batch[0]]
        else:
            assert shard.weight == len(shard.indices) / len(batch)


@untimed
@given(orders, st.integers(0, 3))
def test_a_data_epoch_s_batches_have_every_sample_once(order, data_epoch):
    first = data_epoch * order.steps_per_epoch
    steps = range(first, first + order.steps_per_epoch)
    assert {order.data_epoch(step) for step in steps} == {data_epoch}
    batches = [order.batch(step) for step in steps]
    assert [len(batch) for batch in batches] == [order.batch_samples(step) for step in steps]
    assert all(len(batch) == order.batch_size for batch in batches[:-1])
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(order.samples))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: permuted([0], 0, seed=0, data_epoch=0), "between 1 and"),
        (lambda: permuted([3], 3, seed=0, data_epoch=0), r"range\(3\)"),
        (lambda: permuted([-1], 3, seed=0, data_epoch=0), r"range\(3\)"),
        (lambda: permuted([[0]], 3, seed=0, data_epoch=0), "shape"),
        (lambda: DataOrder(0, 1, 0), "at least 1 sample, got 0"),
        (lambda: DataOrder(1, 0, 0), "global batch"),
        (lambda: DataOrder(1, 1, 0).batch(-1), "from 0, got -1"),
        (lambda: DataOrder(1, 1, 0).shard(0, 2, 2), r"range\(2\)"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()
