"""The cost model: what it says, how it is fitted, and that it chooses well."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.collectives.cost import ALGORITHMS, EXCHANGE_BYTES, CostModel, pieces, terms
from holdfast.errors import UsageError

SIZES = (4, 4096, 1 << 16, 1 << 20, 25 << 20)
seconds = st.floats(1e-12, 1e-3)


def samples(model, noise=lambda place: 1.0):
    made = [
        (name, size, nbytes, model.seconds(name, size, nbytes))
        for name in ALGORITHMS
        for size in (2, 3, 8)
        for nbytes in SIZES
    ]
    return [(*sample[:3], sample[3] * noise(place)) for place, sample in enumerate(made)]


def test_the_terms_of_a_ring_are_those_of_the_textbook():
    assert terms("ring", 4, 4000) == (6, 6000.0, 3000.0)
    assert terms("direct", 4, 4000) == (3.0, 6000.0, 3000.0)
    assert terms("halving-doubling", 8, 8000) == (6, 14000.0, 7000.0)
    assert terms("exchange", 2, 4) == (1, 4.0, 4.0)
    assert terms("two-level:4", 4, 4000) == terms("ring", 4, 4000)
    assert terms("ring", 1, 4000) == (0, 0, 0)


@given(alpha=seconds, beta=seconds, gamma=seconds)
def test_a_fit_finds_the_model_that_made_the_samples(alpha, beta, gamma):
    model = CostModel(alpha, beta, gamma)
    found = CostModel.fit(samples(model))
    for name, size, nbytes, expected in samples(model):
        assert found.seconds(name, size, nbytes) == pytest.approx(expected, rel=1e-4)


def test_a_fit_bears_noise_and_never_goes_below_0():
    model = CostModel(30e-6, 1e-9, 0.0)
    found = CostModel.fit(samples(model, lambda place: 1.0 + 0.1 * math.sin(place)))
    assert found.alpha == pytest.approx(model.alpha, rel=0.1)
    assert found.beta == pytest.approx(model.beta, rel=0.1)
    assert found.gamma >= 0.0
    falling = [("ring", 2, nbytes, 1.0 / nbytes) for nbytes in SIZES]
    assert min(vars(CostModel.fit(falling)).values()) >= 0.0


def test_rings_alone_do_not_make_a_wire_that_costs_nothing():
    """They add what they send, so nothing tells the one's cost from the other's."""
    model = CostModel()
    rings = [("ring", 4, nbytes, model.seconds("ring", 4, nbytes)) for nbytes in SIZES]
    found = CostModel.fit(rings)
    assert found.beta > 0
    for name, size, nbytes, expected in rings:
        assert found.seconds(name, size, nbytes) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("made", "match"),
    [
        ([("ring", 2, 4, 1.0)] * 2, "at least 3 samples"),
        ([("ring", 2, 4, 0.0)] * 3, "more than 0 seconds"),
        ([("ring", 1, 4, 1.0)] * 3, "at least 2 ranks"),
        ([("ring", 2, 4, math.nan)] * 3, "more than 0 seconds"),
        ([("rang", 2, 4, 1.0)] * 3, "an algorithm of ring"),
    ],
)
def test_samples_that_cannot_be_are_refused(made, match):
    with pytest.raises(UsageError, match=match):
        CostModel.fit(made)


def test_what_is_small_takes_few_rounds_and_what_is_large_a_ring():
    model = CostModel()
    for size in range(2, 65):
        assert model.choose(size, 1 << 30) == "ring"
        assert model.choose(size, 4) in ("exchange", "halving-doubling")
    assert model.choose(2, 4) == "exchange"
    assert model.choose(4, 64 << 10) == "direct"
    assert model.choose(64, 64 << 10) == "halving-doubling"
    assert model.choose(2, EXCHANGE_BYTES + 1) == "exchange"  # added as it comes
    assert model.choose(2, 16 << 20) == "ring"
    assert model.choose(3, EXCHANGE_BYTES) != "exchange"
    assert model.choose(8, 4, ("ring",)) == "ring"
    with pytest.raises(UsageError, match="no algorithm"):
        model.choose(3, EXCHANGE_BYTES, ("exchange",))
    assert model.choose_broadcast(8, 4) == "binomial"
    assert model.choose_broadcast(8, 100 << 20) == "chain"


@given(alpha=seconds, beta=seconds, size=st.integers(2, 64), nbytes=st.integers(0, 1 << 28))
def test_no_other_is_faster_by_more_than_the_rings_preference(alpha, beta, size, nbytes):
    model = CostModel(alpha, beta, 0.0)
    chosen = model.seconds(model.choose(size, nbytes), size, nbytes)
    for name in set(ALGORITHMS) - {"exchange"}:
        assert 0.899 * chosen <= model.seconds(name, size, nbytes)


@given(nbytes=st.integers(0, 1 << 30))
def test_pieces_are_neither_small_nor_many(nbytes):
    assert 1 <= pieces(nbytes) <= 32
    assert pieces(nbytes) == 1 or nbytes / pieces(nbytes) >= 128 << 10


def test_a_model_is_written_and_read():
    model = CostModel(1.5e-5, 2e-10, 0.0)
    assert CostModel.from_json(model.to_json()) == model
    assert json.loads(model.to_json())["alpha"] == 1.5e-5


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "in JSON was expected"),
        ("[1, 2, 3]", "found list"),
        ('{"alpha": 1, "beta": 2}', "found .'alpha', 'beta'"),
        ('{"alpha": 1, "beta": 2, "gamma": "3"}', "gamma is seconds"),
        ('{"alpha": 1, "beta": -2, "gamma": 3}', "beta is 0 or more"),
        ('{"alpha": NaN, "beta": 2, "gamma": 3}', "alpha is 0 or more"),
        ('{"alpha": true, "beta": 2, "gamma": 3}', "alpha is seconds"),
    ],
)
def test_what_is_no_model_is_refused(text, match):
    with pytest.raises(UsageError, match=match):
        CostModel.from_json(text)
