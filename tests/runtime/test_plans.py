"""Plans in files: without the model's code they compute what they did."""

import numpy as np
import pytest

from holdfast import core, nn
from holdfast.core.plan import trace
from holdfast.errors import CheckpointCorrupt, CheckpointError
from holdfast.runtime.plans import load_plan, save_plan
from holdfast.runtime.weights import load, save


def test_structure_and_weights_are_one_file(tmp_path):
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    x = core.randn(3, 5)
    plan = trace(model, x)
    save_plan(plan, tmp_path / "model.plan")
    again = load_plan(tmp_path / "model.plan")
    assert np.array_equal(again(x).array, plan(x).array)
    assert str(again) == str(plan)
    assert set(load(tmp_path / "model.plan")) == set(model.state_dict())


def test_what_is_no_plan_is_told(tmp_path):
    save({"w": np.ones(2, np.float32)}, tmp_path / "weights")
    with pytest.raises(CheckpointCorrupt, match="no plan"):
        load_plan(tmp_path / "weights")
    with pytest.raises(CheckpointError, match="could not be read"):
        load_plan(tmp_path / "nothing")
    (tmp_path / "cut").write_bytes((tmp_path / "weights").read_bytes()[:20])
    with pytest.raises(CheckpointCorrupt):
        load_plan(tmp_path / "cut")
