"""What a profile counts and how it is shown."""

import numpy as np
import pytest

import holdfast.nn.functional as F
from holdfast import core, nn
from holdfast.core.ops.observe import observe
from holdfast.core.profile import Row, profile


def by_name(p):
    return {row.name: row for row in p.rows}


def test_calls_times_and_bytes_of_each_primitive():
    model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    x, y = core.randn(64, 20), core.tensor([1] * 64)
    with profile() as p:
        for _ in range(3):
            F.cross_entropy(model(x), y).backward()
    rows = by_name(p)
    assert rows["linear"].calls == rows["linear"].backward_calls == 6
    assert rows["linear"].bytes == 3 * 64 * (30 + 5) * 4
    assert rows["relu"].calls == 3
    assert rows["relu"].bytes == 3 * 64 * 30 * 4
    assert rows["linear"].forward > 0
    assert rows["linear"].backward > 0
    assert [row.total for row in p.rows] == sorted((r.total for r in p.rows), reverse=True)
    assert sum(row.total for row in p.rows) <= p.wall
    model(x)
    assert by_name(p)["linear"].calls == 6
    with p:
        model(x)
    assert by_name(p)["linear"].calls == 8
    assert by_name(p)["linear"].backward_calls == 6


def test_values_and_gradients_are_the_same_when_measured():
    def step():
        core.manual_seed(0)
        model = nn.Linear(4, 3)
        loss = model(core.ones(2, 4)).tanh().sum()
        loss.backward()
        return loss.item(), model.weight.grad.array

    plain = step()
    with profile():
        measured = step()
    assert plain[0] == measured[0]
    assert np.array_equal(plain[1], measured[1])


def test_a_view_makes_no_bytes():
    x = core.ones(4, 6)
    with profile() as p:
        x.reshape(24)
        x.permute(1, 0)
        x.permute(1, 0).reshape(24)
    rows = by_name(p)
    assert rows["permute"].bytes == 0
    assert rows["reshape"].bytes == 24 * 4


def test_what_runs_inside_is_measured():
    x = core.ones(3, requires_grad=True)
    with profile() as p, core.no_grad():
        x.exp()
    assert by_name(p)["exp"].backward_calls == 0
    y = x.exp()
    with profile() as p:
        y.sum().backward()
    exp = by_name(p)["exp"]
    assert (exp.calls, exp.backward_calls) == (0, 1)
    with profile() as p:
        y = x.exp()
    y.sum().backward()
    assert by_name(p)["exp"].backward_calls == 0


def test_several_outputs_of_one_primitive_count_once():
    x, y = core.ones(2, requires_grad=True), core.ones(3, requires_grad=True)
    with profile() as p:
        first, second = observe(x, y, seen=lambda parts: parts)
        (first.sum() * second.sum()).backward()
    found = by_name(p)["observe"]
    assert (found.calls, found.backward_calls, found.bytes) == (1, 1, 0)


def test_an_error_inside_ends_the_profile():
    def failing():
        core.ones(1).exp()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), profile() as p:
        failing()
    core.ones(1).exp()
    assert by_name(p)["exp"].calls == 1
    assert p.wall > 0


def test_the_table():
    p = profile()
    p.wall = 4.0
    p._rows = {
        "linear": Row("linear", 2, 1.0, 2, 0.5, 3 << 20),
        "relu": Row("relu", 4, 0.002, 0, 0.0, 1536),
        "exp": Row("exp", 1, 0.0000125, 0, 0.0, 12),
    }
    assert str(p) == (
        "primitive       calls  forward   backward    total   share     made\n"
        "-------------------------------------------------------------------\n"
        "linear              2   1.00 s  500.00 ms   1.50 s  37.5 %  3.0 MiB\n"
        "relu                4  2.00 ms             2.00 ms   0.1 %  1.5 KiB\n"
        "exp                 1  12.5 µs             12.5 µs   0.0 %     12 B\n"
        "-------------------------------------------------------------------\n"
        "all primitives      7   1.00 s  500.00 ms   1.50 s  37.6 %  3.0 MiB\n"
        "elsewhere                                   2.50 s  62.4 %"
    )
    assert "2 others            5  2.01 ms" in p.table(limit=1)
    assert "elsewhere" in str(profile())
