"""Tensors out of nothing: values, dtypes, and what the one generator draws."""

import numpy as np
import pytest

from holdfast import core
from holdfast.core import creation, sampling
from holdfast.core.backend import BFLOAT16
from holdfast.errors import GradientError, UsageError


def test_values_and_dtypes():
    assert creation.zeros(2, 3).dtype == creation.ones((2,)).dtype == np.float32
    assert creation.empty([2, 3], dtype=np.int64).dtype == np.int64
    assert creation.zeros(np.int64(2)).shape == (2,)
    assert creation.zeros(()).shape == creation.ones([]).shape == ()
    assert creation.full((2,), True).dtype == np.bool_
    assert creation.full(3, core.tensor(2.5)).tolist() == [2.5] * 3
    assert creation.ones(2, dtype=BFLOAT16).dtype == BFLOAT16
    assert creation.eye(2, 3, dtype=np.int64).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert creation.asarray([1, 2]).tolist() == [1, 2]


def test_nested_lists_of_tensors():
    a, b = core.tensor([1.0, 2.0]), core.tensor([3.0, 4.0])
    assert creation.tensor([[a, b], [b, a]]).shape == (2, 2, 2)
    assert creation.tensor([core.tensor(1), core.tensor(2)]).dtype == np.int64
    assert creation.tensor([(1, 2.5)]).dtype == np.float32


def test_like_another():
    x = core.ones(2, 3, dtype=np.float64)
    for made in (
        creation.zeros_like(x),
        creation.ones_like(x),
        creation.full_like(x, 7),
        creation.empty_like(x),
        sampling.rand_like(x),
        sampling.randn_like(x),
        sampling.randint_like(x, 5),
    ):
        assert (made.shape, made.dtype) == ((2, 3), np.float64)
    assert creation.zeros_like(x, dtype=np.int64).dtype == np.int64
    assert creation.ones_like(x, requires_grad=True).requires_grad
    assert x.new_zeros(2).dtype == x.new_full((2,), 3).dtype == x.new_tensor([1]).dtype == x.dtype
    assert x.new_ones((4, 1)).shape == x.new_empty(4, 1).shape == (4, 1)
    assert x.new_zeros(1, dtype=np.int64).dtype == np.int64


def test_rows_of_values():
    assert creation.arange(3).tolist() == creation.arange(end=3).tolist() == [0, 1, 2]
    assert creation.arange(1, 6, 2).tolist() == [1, 3, 5]
    assert creation.arange(3, 0, -1).tolist() == [3, 2, 1]
    assert creation.arange(2.0).dtype == np.float32
    assert creation.arange(2, dtype=np.float64).dtype == np.float64
    assert creation.arange(0, 1, 0.1).shape == (10,)
    assert creation.linspace(0, 1, 3).tolist() == [0.0, 0.5, 1.0]
    assert creation.linspace(3, 3, 1).tolist() == [3.0]
    assert creation.logspace(0, 2, 3).tolist() == [1.0, 10.0, 100.0]
    assert creation.logspace(0, 2, 3, base=2).tolist() == [1.0, 2.0, 4.0]
    with pytest.raises(UsageError, match="no step"):
        creation.arange(0, 3, -1)
    with pytest.raises(GradientError, match="floats"):
        creation.arange(3, requires_grad=True)


DRAWS = {
    "rand": lambda **g: sampling.rand(5, **g),
    "randn": lambda **g: sampling.randn(5, **g),
    "randint": lambda **g: sampling.randint(100, (5,), **g),
    "randperm": lambda **g: sampling.randperm(9, **g),
    "bernoulli": lambda **g: sampling.bernoulli(core.full((50,), 0.5), **g),
    "normal": lambda **g: sampling.normal(2.0, 3.0, (5,), **g),
    "multinomial": lambda **g: sampling.multinomial(core.ones(50), 5, **g),
    "multinomial with replacement": lambda **g: sampling.multinomial(core.ones(50), 5, True, **g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_functions_of_the_seed(name):
    core.manual_seed(3)
    first, second = DRAWS[name](), DRAWS[name]()
    core.manual_seed(3)
    assert DRAWS[name]().tolist() == first.tolist()
    assert first.tolist() != second.tolist()
    own = DRAWS[name](generator=np.random.default_rng(1))
    assert own.tolist() == DRAWS[name](generator=np.random.default_rng(1)).tolist()


def test_draws_are_spread_as_they_should_be():
    core.manual_seed(0)
    x = sampling.randn(20_000)
    assert abs(x.mean().item()) < 0.03
    assert abs(x.std().item() - 1) < 0.03
    assert sampling.rand(1000, dtype=np.float64).dtype == np.float64
    assert set(sampling.randint(2, 5, (1000,)).tolist()) == {2, 3, 4}
    assert sampling.randint(high=3, size=(2, 2)).shape == (2, 2)
    assert sorted(sampling.randperm(20).tolist()) == list(range(20))
    assert abs(sampling.bernoulli(core.full((10_000,), 0.3)).mean().item() - 0.3) < 0.02
    assert sampling.bernoulli(core.zeros(3), 1.0).tolist() == [1.0] * 3
    y = sampling.normal(core.tensor([0.0, 100.0]), core.tensor([[1.0], [0.0]]))
    assert y.shape == (2, 2)
    assert y[1].tolist() == [0.0, 100.0]


def test_multinomial_draws_by_weight():
    core.manual_seed(0)
    weights = core.tensor([1.0, 0.0, 3.0])
    drawn = sampling.multinomial(weights, 8000, replacement=True)
    share = drawn.bincount(minlength=3).array / 8000
    assert share[1] == 0
    assert abs(share[0] - 0.25) < 0.02
    rows = sampling.multinomial(core.tensor([[0.0, 1, 2, 0], [1, 0, 0, 5]]), 2)
    assert [sorted(row) for row in rows.tolist()] == [[1, 2], [0, 3]]
    firsts = [sampling.multinomial(weights, 2)[0].item() for _ in range(800)]
    assert abs(firsts.count(2) / 800 - 0.75) < 0.06
    assert rows.dtype == np.int64
    assert sampling.multinomial(weights, 1).shape == (1,)


def test_wrong_draws_are_refused():
    for wrong in (
        lambda: sampling.randint(3, 3, (2,)),
        lambda: sampling.randint(3),
        lambda: sampling.bernoulli(core.tensor([1.5])),
        lambda: sampling.normal(0.0, -1.0, (2,)),
        lambda: sampling.multinomial(core.tensor([1.0, 0.0]), 2),
        lambda: sampling.multinomial(core.tensor([-1.0, 2.0]), 1),
        lambda: sampling.multinomial(core.tensor([np.inf, 2.0]), 1),
        lambda: sampling.multinomial(core.zeros(3), 1),
        lambda: sampling.multinomial(core.ones(1, 1, 1), 1),
        lambda: sampling.multinomial(core.ones(3), 0),
    ):
        with pytest.raises(UsageError):
            wrong()
