"""Compressed sums: codecs within their bounds, the same bits everywhere, nothing lost for good."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tests.collectives.room import together

from holdfast.collectives.compression import compression, compressions, register
from holdfast.collectives.compression.compressor import Layout
from holdfast.collectives.compression.feedback import PowerSGD, TopK, largest, orthonormalise
from holdfast.collectives.compression.rounding import BLOCK, Float16, dequantise, quantise
from holdfast.errors import UsageError

NAMES = ["bfloat16", "float16", "int8", "top-k:0.1", "powersgd:2"]


def bucket(*shapes, dtype=np.float32):
    starts, end = [], 0
    for shape in shapes:
        starts.append(end)
        end += -(-int(np.prod(shape)) // 16) * 16
    return Layout(end, np.dtype(dtype), tuple(starts), shapes)


def gradient(layout, *seed, size=1.0):
    rng, x = np.random.default_rng(seed), np.zeros(layout.count, layout.dtype)
    for start, shape in zip(layout.starts, layout.shapes, strict=True):
        count = int(np.prod(shape))
        x[start : start + count] = rng.normal(size=count) * size
    return x


LENET = bucket((120, 400), (120,), (84, 120), (84,), (10, 84), (10,))


# What every compression does


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_rank_gets_the_same_bits_near_the_sum(name, size, dtype):
    layout = bucket((120, 400), (120,), (17, 3), (), dtype=dtype)

    def body(member):
        compressor = compression(name)(layout)
        out = np.full(layout.count, 7, layout.dtype)
        out[:] = 0
        seen = []
        for step in range(3):
            x = gradient(layout, step, member.rank)
            before = x.copy()
            compressor.sum(x, out, member)
            compressor.commit()
            assert x.tobytes() == before.tobytes(), "the input was touched"
            assert compressor.sent > 0
            seen.append((out.tobytes(), compressor.sent))
        return seen, out

    results = together(size, body)
    assert all(seen == results[0][0] for seen, _ in results)
    exact = sum(gradient(layout, 2, rank).astype(np.float64) for rank in range(size))
    if name in ("bfloat16", "float16", "int8"):
        np.testing.assert_allclose(results[0][1], exact, rtol=0, atol=0.05 * np.abs(exact).max())


@pytest.mark.parametrize("name", NAMES)
def test_a_sum_that_breaks_off_is_repeated_to_the_same_bits(name):
    def run(breaks):
        def body(member):
            compressor = compression(name)(LENET)
            out = np.zeros(LENET.count, np.float32)
            for step in range(4):
                x = gradient(LENET, step, member.rank)
                if breaks and step in (1, 3):
                    compressor.sum(gradient(LENET, 99, member.rank), np.empty_like(out), member)
                compressor.sum(x, out, member)
                compressor.commit()
            return out.tobytes()

        return together(2, body)

    assert run(breaks=True) == run(breaks=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(name, bad):
    def body(member):
        compressor, out = compression(name)(LENET), np.zeros(LENET.count, np.float32)
        x = gradient(LENET, member.rank)
        x[777] = bad if member.rank else x[777]
        with np.errstate(invalid="ignore", over="ignore"):
            compressor.sum(x, out, member)
        return np.isfinite(out).all()

    assert together(2, body) == [False, False]


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("bfloat16", 0.51),
        ("float16", 0.51),
        ("int8", 0.26),
        ("top-k:0.01", 0.03),
        ("powersgd:2", 0.08),
    ],
)
def test_bytes_that_are_sent(name, most):
    layout = bucket((512, 512), (512,))

    def body(member):
        compressor = compression(name)(layout)
        x = gradient(layout, member.rank)
        compressor.sum(x, np.zeros_like(x), member)
        return compressor.sent / x.nbytes

    assert together(2, body)[0] <= most


def test_names():
    assert {name.partition(":")[0] for name in NAMES} == set(compressions())
    for wrong, told in [
        ("zip", "a compression of bfloat16"),
        ("int8:4", "takes no number"),
        ("top-k:", "top-k:NUMBER"),
        ("top-k:0", "above 0"),
        ("top-k:nan", "above 0"),
        ("powersgd:1.5", "whole number"),
        ("powersgd:inf", "whole number"),
    ]:
        with pytest.raises(UsageError, match=told):
            compression(wrong)
    with pytest.raises(ValueError, match="already"):
        register("int8", lambda number: compression("int8"))


# Rounding

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(arrays.arrays(np.float32, (3, BLOCK), elements=FLOATS, fill=FLOATS))
def test_int8_is_off_by_half_a_scale_at_most(x):
    scales, quantised = quantise(x)
    error = np.abs(dequantise(scales, quantised).astype(np.float64) - x)
    bound = scales.astype(np.float64) * 0.5 * (1 + 1e-5) + 127 * 1.5e-45  # a denormal scale
    assert (error <= bound[:, None]).all()


def test_float16_keeps_gradients_far_below_its_own_range():
    """Once the first sum is known, the scale follows; a step that overflows is repeated in full."""
    layout = bucket((4, 100))

    def body(member):
        compressor, out, seen = Float16(layout), np.zeros(layout.count, np.float32), []
        for size in (1e-9, 1e-9, 1e-9, 1e3, 1e3, 1e-6):
            x = gradient(layout, member.rank, size=size)
            compressor.sum(x, out, member)
            compressor.commit()
            exact = sum(gradient(layout, rank, size=size) for rank in range(2))
            seen.append(float(np.abs(out - exact).max() / np.abs(exact).max()))
        return seen, [dtype for _, dtype, _ in member.calls]

    errors, dtypes = together(2, body)[0]
    assert max(errors[2:5]) < 2e-3
    assert errors[3] == 0.0  # 2**40 times larger than before: in float32
    assert dtypes == ["float16"] * 4 + ["float32"] + ["float16"] * 2


# Error feedback


@given(arrays.arrays(np.float32, st.integers(1, 60), elements=FLOATS), st.integers(1, 60))
def test_the_largest_are_taken(x, count):
    places = largest(x, min(count, x.size))
    assert sorted(set(places)) == list(places)
    rest = np.delete(x, places)
    assert rest.size == x.size - min(count, x.size)
    if rest.size:
        assert np.abs(rest).max() <= np.abs(x[places]).min()


@given(
    arrays.arrays(np.float32, (3, 20), elements=st.floats(-1e3, 1e3, width=32)), st.integers(0, 2)
)
@example(np.full((3, 20), 1e-45, np.float32), 0)
def test_orthonormalised(vectors, same):
    vectors[2] = vectors[same]  # one that depends on another
    orthonormalise(vectors)
    gram = vectors.astype(np.float64) @ vectors.T
    kept = np.diag(gram) > 0.5
    np.testing.assert_allclose(gram, np.diag(kept.astype(float)), atol=2e-3)


@pytest.mark.parametrize("make", [lambda of: TopK(of, 0.05), lambda of: PowerSGD(of, 2)])
def test_nothing_is_lost_only_late(make):
    """What was summed and what the ranks still hold is what they gave."""

    def body(member):
        compressor = make(LENET)
        out, summed = np.zeros(LENET.count, np.float32), np.zeros(LENET.count)
        for step in range(10):
            compressor.sum(gradient(LENET, step, member.rank), out, member)
            compressor.commit()
            summed += out
        return summed, compressor.residual.copy()

    results = together(3, body)
    given = sum(gradient(LENET, s, r).astype(np.float64) for s in range(10) for r in range(3))
    held = sum(residual.astype(np.float64) for _, residual in results)
    np.testing.assert_allclose(results[0][0] + held, given, atol=1e-3)


@pytest.mark.parametrize("name", ["top-k:0.05", "powersgd:2"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("at", [777, 48_050], ids=["matrix", "vector"])
def test_a_sum_that_is_not_finite_leaves_what_is_remembered_as_it_was(name, bad, at):
    """So a step that is skipped for it might as well not have been."""

    def run(spoilt):
        def body(member):
            compressor = compression(name)(LENET)
            out = np.zeros(LENET.count, np.float32)
            for step in range(4):
                if spoilt and step == 2:
                    x = gradient(LENET, 99, member.rank)
                    x[at] = bad if member.rank else x[at]
                    with np.errstate(invalid="ignore", over="ignore"):
                        compressor.sum(x, out, member)
                    compressor.commit()
                    assert not np.isfinite(out).all()
                compressor.sum(gradient(LENET, step, member.rank), out, member)
                compressor.commit()
            return out.tobytes(), compressor.residual.tobytes()

        return together(2, body)

    assert run(spoilt=True) == run(spoilt=False)


@pytest.mark.parametrize("name", ["top-k:0.2", "powersgd:1"])
def test_feedback_converges_on_a_quadratic(name):
    """Gradient descent on the ranks' mean of |w - target|^2 / 2: no rank has its optimum alone."""
    layout = bucket((40, 30))
    targets = [gradient(layout, rank) for rank in range(2)]

    def body(member):
        compressor = compression(name)(layout)
        w, out = np.zeros(layout.count, np.float32), np.zeros(layout.count, np.float32)
        for _ in range(400):
            compressor.sum((w - targets[member.rank]) / 2, out, member)
            compressor.commit()
            w -= np.float32(0.02) * out
        return w

    for w in together(2, body):
        np.testing.assert_allclose(w, (targets[0] + targets[1]) / 2, atol=0.05)


def test_power_sgd_is_exact_for_a_matrix_of_its_rank():
    layout = bucket((60, 64))
    rng = np.random.default_rng(3)
    left, right = rng.normal(size=(60, 2)), rng.normal(size=(2, 64))

    def body(member):
        compressor, out = PowerSGD(layout, 2), np.zeros(layout.count, np.float32)
        compressor.sum((left @ right).astype(np.float32).reshape(-1), out, member)
        compressor.commit()
        assert np.abs(compressor.residual).max() < 1e-4
        return out

    expected = 2 * (left @ right)
    np.testing.assert_allclose(together(2, body)[0].reshape(60, 64), expected, atol=1e-3)


def test_power_sgd_wakes_up_from_a_gradient_of_zero():
    def body(member):
        compressor, out = PowerSGD(LENET, 2), np.ones(LENET.count, np.float32)
        for step in range(3):
            x = gradient(LENET, step) if step else np.zeros(LENET.count, np.float32)
            compressor.sum(x, out, member)
            compressor.commit()
        return np.abs(out[: 120 * 400]).max()

    assert min(together(2, body)) > 0.1
