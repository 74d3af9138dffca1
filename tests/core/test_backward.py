"""The backward pass: what it computes, what it frees, when hooks run, what it refuses."""

import gc
import threading
import weakref

import numpy as np
import pytest

from holdfast import core
from holdfast.core.backward import Node
from holdfast.core.graph import topological_order
from holdfast.core.recording import enable_grad, is_grad_enabled
from holdfast.errors import GradientError, ShapeError


def leaf(*values):
    return core.tensor(list(values), requires_grad=True)


def test_a_tensor_used_twice_gets_both_gradients():
    x = leaf(3.0)
    y = x * x + x
    y.backward()
    assert x.grad.tolist() == [7.0]


def test_a_diamond_is_visited_once_and_in_order():
    x = leaf(2.0)
    a = x * 3
    b, c = a.exp() * 0, a * a
    (b + c + a).sum().backward()
    assert np.isclose(x.grad.item(), 2 * 3 * 3 * 2 + 3)


def test_gradients_add_up_until_they_are_cleared():
    x = leaf(1.0)
    (x * 2).backward()
    (x * 3).backward()
    assert x.grad.tolist() == [5.0]
    x.zero_grad()
    assert x.grad is None
    (x * 3).backward()
    assert x.grad.tolist() == [3.0]
    x.grad = None
    assert x.grad is None
    x.grad = core.tensor([4.0])
    assert x.grad.tolist() == [4.0]
    with pytest.raises(ShapeError, match="own shape"):
        x.grad = core.zeros(2)


def test_two_leaves_never_share_a_gradient():
    x, y = leaf(1.0), leaf(1.0)
    (x + y).backward()
    with core.no_grad():
        x.grad.mul_(5)
    assert y.grad.tolist() == [1.0]


def test_the_seed_may_be_a_number_a_tensor_or_an_array():
    x = leaf(2.0, 3.0)
    (x * x).sum().backward(0.5)
    assert x.grad.tolist() == [2.0, 3.0]
    (x * x).backward(core.tensor([1.0, 0.0]))
    assert x.grad.tolist() == [6.0, 3.0]
    (x * x).backward(np.array([0.0, 1.0]))
    assert x.grad.tolist() == [6.0, 9.0]
    with pytest.raises(GradientError, match=r"shape \(2,\)"):
        (x * x).backward()
    with pytest.raises(ShapeError, match=r"tensor of shape \(2,\), gradient of shape \(3,\)"):
        (x * x).backward(np.ones(3))


def test_scalars_without_axes():
    x = core.tensor(3.0, requires_grad=True)
    (x * x).backward()
    (x * x).backward()
    assert x.grad.item() == 12.0
    assert isinstance(x.grad.array, np.ndarray)
    x.zero_grad()
    x.backward()
    assert x.grad.item() == 1.0


def test_a_freed_graph_says_so_and_changes_nothing():
    x, z = leaf(1.0), leaf(5.0)
    y = x * x
    y.backward()
    with pytest.raises(GradientError, match="'mul', whose graph an earlier backward has freed"):
        y.backward()
    with pytest.raises(GradientError, match="freed"):
        (y * z).backward()
    assert x.grad.tolist() == [2.0]
    assert z.grad is None
    z.register_post_accumulate_grad_hook(lambda p: None)
    (z * 1).backward()
    assert z.grad.tolist() == [1.0]


def test_a_kept_graph_can_be_walked_again():
    x = leaf(3.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [12.0]


def test_no_history_no_backward():
    with pytest.raises(GradientError, match="requires_grad=True"):
        core.ones(1).sum().backward()


def test_backward_frees_what_it_has_used():
    x = leaf(1.0)
    big = np.ones(10, np.float32)
    held = weakref.ref(big)
    y = (x * core.from_numpy(big)).sum()
    del big
    gc.collect()
    assert held() is not None
    y.backward()
    gc.collect()
    assert held() is None
    assert isinstance(y.node, Node)
    assert y.node.parents == ()


def test_the_graph_holds_no_tensors_that_pullbacks_do_not_need():
    x = core.ones(4, requires_grad=True)
    middle = x + 1
    held = weakref.ref(middle.array)
    y = (middle + 1).sum()
    del middle
    assert held() is None
    y.backward()
    assert x.grad.tolist() == [1.0] * 4


def test_a_long_chain_needs_no_recursion():
    x = leaf(1.0)
    y = x
    for _ in range(20_000):
        y = y + 0.0
    order = topological_order(y)
    assert len(order) == 20_001
    y.backward()
    assert x.grad.tolist() == [1.0]


def test_a_dropped_graph_needs_no_recursion_either():
    y = leaf(1.0)
    for _ in range(50_000):
        y = y * 1.0
    del y


def test_a_failing_pullback_leaves_the_graph_usable():
    x = leaf(2.0)
    shared = x * x
    broken = shared * 1.0
    broken.node.pullback = lambda g: 1 / 0
    seen = []
    x.register_post_accumulate_grad_hook(seen.append)
    with pytest.raises(ZeroDivisionError):
        broken.backward()
    (shared + 0).backward()
    assert x.grad.tolist() == [4.0]
    assert len(seen) == 1


def test_no_grad_as_block_decorator_and_per_thread():
    x = leaf(1.0)

    @core.no_grad()
    def quiet():
        return x * 2

    assert not quiet().requires_grad
    with core.no_grad():
        assert not is_grad_enabled()
        assert not (x * 2).requires_grad
        with enable_grad():
            assert (x * 2).requires_grad
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        assert elsewhere == [True]
    assert (x * 2).requires_grad


def test_hooks_run_once_after_the_last_contribution():
    w, v = leaf(2.0), leaf(5.0)
    events = []
    w.register_post_accumulate_grad_hook(lambda p: events.append(("w", p.grad.item())))
    v.register_post_accumulate_grad_hook(lambda p: events.append(("v", p.grad.item())))
    y = w * 1.0
    (y * v + w * w).sum().backward()
    assert sorted(events) == [("v", 2.0), ("w", 9.0)]
    events.clear()
    (w * w).backward()
    assert events == [("w", 13.0)]


def test_hooks_run_while_backward_goes_on():
    early, late = leaf(2.0), leaf(3.0)
    events = []
    late.register_post_accumulate_grad_hook(lambda p: events.append(early.grad))
    early.register_post_accumulate_grad_hook(lambda p: events.append("early"))
    ((early * 2).exp() * late).backward()
    assert events == [None, "early"]


def test_hooks_do_not_run_without_a_gradient():
    x = leaf(1.0)
    seen = []
    x.register_post_accumulate_grad_hook(seen.append)
    condition = x * 1.0
    y = leaf(2.0)
    core.where(condition, y * 2, y).backward()  # a condition gets no gradient
    assert seen == []
    assert x.grad is None
    assert y.grad.tolist() == [2.0]


def test_only_leaves_have_hooks_and_switches():
    x = leaf(1.0)
    with pytest.raises(GradientError, match="leaves"):
        (x * 1).register_post_accumulate_grad_hook(print)
    with pytest.raises(GradientError, match="made by 'mul'"):
        (x * 1).requires_grad = False
    assert not (x * 1).is_leaf
    x.requires_grad_(False)
    assert x.is_leaf
    assert not x.requires_grad


def test_topological_order_lists_each_after_its_inputs():
    x, w = leaf(1.0, 2.0), leaf(3.0, 4.0)
    y = ((x * w) + x).sum()
    steps = topological_order(y, {"x": x, "w": w})
    assert [str(step) for step in steps] == [
        "x [2]",
        "w [2]",
        "mul_1 [2] = (x, w)",
        "add_1 [2] = (mul_1, x)",
        "sum_1 [] = (add_1)",
    ]
    done = set()
    for step in steps:
        assert set(step.inputs) <= done
        done.add(step.name)
    y.backward()
    with pytest.raises(GradientError, match="before backward"):
        topological_order(y)
    with pytest.raises(GradientError, match="no graph"):
        topological_order(core.ones(1))
