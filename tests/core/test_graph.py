"""The graph of a computation as a list and as a picture, and how the picture is laid out."""

import itertools
import xml.etree.ElementTree as ET
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast.nn.functional as F
from holdfast import core, graph, nn
from holdfast.core.drawing import svg
from holdfast.core.graph import topological_order, trace, vertices
from holdfast.core.layout import Box, arrange, spread
from holdfast.core.ops.observe import observe
from holdfast.errors import GradientError, UsageError

SVG = "{http://www.w3.org/2000/svg}"


class Residual(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, x):
        return x + self.body(x)


# -- in order -------------------------------------------------------------------------------------


def test_several_outputs_of_one_primitive_are_told_apart():
    x, y = core.ones(2, requires_grad=True), core.ones(3, requires_grad=True)
    first, second = observe(x, y, seen=lambda parts: parts)
    steps = topological_order(first.sum() * second.sum(), {"x": x, "y": y})
    assert [str(step) for step in steps] == [
        "x [2]",
        "y [3]",
        "observe_1 [2] = (x, y)",
        "sum_1 [] = (observe_1[0])",
        "sum_2 [] = (observe_1[1])",
        "mul_1 [] = (sum_1, sum_2)",
    ]
    (found,) = [v for v in vertices([first]) if v.name == "observe"]
    assert found.shapes == ((2,), (3,))


def test_a_model_is_traced_with_its_names_and_parts():
    model = nn.Sequential(Residual(3), nn.Tanh())
    found = trace(model, core.ones(4, 3))
    assert [v.name for v in found] == [
        "input", "0.body.0.weight", "0.body.0.bias", "linear", "relu",
        "0.body.2.weight", "0.body.2.bias", "linear", "add", "tanh",
    ]  # fmt: skip
    assert [v.kind for v in found[:3]] == ["leaf", "parameter", "parameter"]
    relu = found[4]
    assert [(c.name, c.kind) for c in relu.calls] == [
        ("0", "Residual"), ("0.body", "Sequential"), ("0.body.1", "ReLU"),
    ]  # fmt: skip
    assert relu.inputs == ((3, 0),)
    assert relu.shapes == ((4, 6),)
    assert relu.dtype == "float32"
    assert all(not module._hooks.forward for module in model.modules() if module._hooks)


def test_a_trace_changes_nothing_and_takes_any_arguments():
    class Pick(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(core.ones(5, 2))

        def forward(self, at, scale):
            return {"rows": [self.table[at] * scale], "at": at}

    model = Pick()
    scale = core.ones(2)
    with core.no_grad():
        found = trace(model, [core.tensor([1, 3]), scale])
    assert [v.name for v in found][:1] == ["table"]
    assert {v.name for v in found if v.kind == "leaf"} == {"input 1"}
    assert not scale.requires_grad
    assert model.table.grad is None

    class Nothing(nn.Module):
        def forward(self, x):
            return 3

    with pytest.raises(UsageError, match="Nothing returned no tensor"):
        trace(Nothing(), scale)


# -- the picture ----------------------------------------------------------------------------------


def read(path):
    root = ET.fromstring(path.read_text())
    assert root.tag == f"{SVG}svg"
    texts = [each.text for each in root.iter(f"{SVG}text")]
    boxes = [each.get("class") for each in root.iter(f"{SVG}rect")]
    return root, texts, boxes


def test_a_tensor_is_drawn(tmp_path):
    model = nn.Linear(3, 2)
    x = core.ones(4, 3, requires_grad=True)
    loss = F.mse_loss(model(x).reshape(8), core.zeros(8))
    path = tmp_path / "graph.svg"
    graph.draw(loss, path, names={**dict(model.named_parameters()), "x": x})
    root, texts, boxes = read(path)
    assert texts[:2] == ["mse_loss", "3 operations, 2 parameters of 8 values"]
    assert {"linear", "weight", "bias", "x", "reshape", "4×2", "scalar"} <= set(texts)
    kinds = ["ground", "leaf", "operation", "parameter", "parameter", "view", "operation result"]
    assert sorted(boxes) == sorted(kinds)
    titles = [each.text for each in root.iter(f"{SVG}title")]
    assert "linear (operation)\n4×2, float32" in titles
    assert "linear → reshape: 4×2" in titles
    assert "x → linear: 4×3" in titles
    text = path.read_text()
    assert "<script" not in text
    assert "href" not in text
    assert len(list(tmp_path.iterdir())) == 1
    loss.backward()
    with pytest.raises(GradientError, match="before backward"):
        graph.draw(loss, path)
    with pytest.raises(GradientError, match="no graph"):
        graph.draw(core.ones(1), path)
    assert path.read_text() == text


def test_a_model_is_drawn_with_its_parts(tmp_path):
    path = tmp_path / "model.svg"
    model = nn.Sequential(Residual(3), nn.Tanh())
    graph.draw(model, path, inputs=core.ones(4, 3), title="a < b")
    _, texts, boxes = read(path)
    assert texts[0] == "a < b"
    assert boxes.count("frame") == 4  # the residual part, its body, both linear layers
    assert {"0: Residual", "0.body: Sequential", "0.body.2: Linear", "1: Tanh"} <= set(texts)
    assert texts.count("weight") == 2  # the frame says whose
    assert texts.count("0.body.1: ReLU") == 1


def test_several_tensors_are_drawn_together(tmp_path):
    x = core.ones(2, requires_grad=True)
    path = tmp_path / "graph.svg"
    graph.draw([x * 2, x.exp()], path, names={"x": x})
    _, texts, boxes = read(path)
    assert texts.count("x") == 1
    assert boxes.count("operation result") == 2


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(UsageError, match="is an SVG"):
        graph.draw(core.ones(1, requires_grad=True), tmp_path / "graph.png")
    with pytest.raises(UsageError, match="inputs="):
        graph.draw(nn.Linear(1, 1), tmp_path / "graph.svg")


def test_the_same_graph_gives_the_same_text():
    model = nn.Sequential(Residual(3), Residual(3))
    assert svg(trace(model, core.ones(1, 3))) == svg(trace(model, core.ones(1, 3)))


def test_frames_hold_what_is_theirs_and_nothing_else():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Residual(4), Residual(4)

        def forward(self, x):
            return self.left(x) * self.right(x.tanh()) + x

    root = ET.fromstring(svg(trace(Two(), core.ones(2, 4))))
    frames, boxes = [], []
    for each in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(each.get(k, 0)) for k in ("x", "y", "width", "height"))
        if each.get("class") == "frame":
            frames.append((x, y, x + w, y + h))
        elif each.get("class") != "ground":
            boxes.append((x, y, x + w, y + h))
    assert len(frames) == 8
    for a, b in itertools.combinations(boxes, 2):
        assert not overlap(a, b)
    for frame in frames:
        for box in [*boxes, *frames]:
            assert not overlap(frame, box) or inside(box, frame) or inside(frame, box)


def overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def inside(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and a[2] <= b[2] and a[3] <= b[3]


# -- the layout -----------------------------------------------------------------------------------


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 14))
    edges = [
        (draw(st.integers(0, target - 1)), target)
        for target in range(1, count)
        for _ in range(draw(st.integers(0, 3)))
    ]
    paths = draw(
        st.lists(
            st.sampled_from([(), ("a",), ("a", "b"), ("a", "c"), ("d",)]),
            min_size=count, max_size=count,
        )
    )  # fmt: skip
    sizes = draw(st.lists(st.integers(1, 60), min_size=count, max_size=count))
    return [Box(s, s + 5, p) for s, p in zip(sizes, paths, strict=True)], edges


@settings(deadline=None, max_examples=80)
@given(graphs())
def test_boxes_keep_their_distance_and_edges_go_down(drawn):
    boxes, edges = drawn
    layout = arrange(boxes, edges, 20.0, 6.0)
    for (source, target), bends in zip(edges, layout.bends, strict=True):
        assert layout.layer[source] < layout.layer[target]
        assert len(bends) == layout.layer[target] - layout.layer[source] - 1
    rows = defaultdict(list)
    for i, row in enumerate(layout.layer):
        rows[row].append(i)
    for row in rows.values():
        row.sort(key=lambda i: layout.x[i])
        for a, b in itertools.pairwise(row):
            assert layout.x[b] - boxes[b].left >= layout.x[a] + boxes[a].right + 10 - 1e-6
        # Each group stands together.
        for depth in (1, 2):
            found = [key for key, _ in itertools.groupby(boxes[i].groups[:depth] for i in row)]
            whole = [key for key in found if len(key) == depth]
            assert len(whole) == len(set(whole))


def test_chains_and_long_edges_are_straight():
    # 0 -> 1 -> 2 -> 3 -> 4, and 0 -> 4 beside them.
    boxes = [Box(10, 10) for _ in range(5)]
    layout = arrange(boxes, [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)], 20.0, 6.0)
    assert len({layout.x[i] for i in (1, 2, 3)}) == 1
    (*_, bends) = layout.bends
    assert len(set(bends)) == 1
    assert abs(bends[0] - layout.x[1]) >= 20


def test_crossings_are_avoided():
    # Two columns that were given crosswise.
    boxes = [Box(10, 10) for _ in range(6)]
    layout = arrange(boxes, [(0, 3), (1, 2), (2, 5), (3, 4)], 20.0, 6.0)
    for a, b in (((0, 3), (1, 2)), ((3, 4), (2, 5))):
        assert (layout.x[a[0]] - layout.x[b[0]]) * (layout.x[a[1]] - layout.x[b[1]]) > 0


@settings(deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_spread_is_the_nearest_in_the_least_squares(wishes):
    found = spread(wishes, 3.0)
    assert all(b - a >= 3 - 1e-6 for a, b in itertools.pairwise(found))
    # Nobody can do better by moving a bit, alone or with all to one side.
    best = sum((f - w) ** 2 for f, w in zip(found, wishes, strict=True))
    for cut in range(len(wishes)):
        for step in (-1e-3, 1e-3):
            for part in (slice(cut), slice(cut, None), slice(cut, cut + 1)):
                moved = np.array(found)
                moved[part] += step
                if (np.diff(moved) >= 3 - 1e-9).all():
                    assert ((moved - wishes) ** 2).sum() >= best - 1e-9
