"""What the environment says of links."""

import pytest

from holdfast.collectives.cost import CostModel
from holdfast.errors import UsageError
from holdfast.runtime.wires import Wires


def test_without_variables_everything_is_the_default():
    assert Wires.from_environ({}) == Wires()


def test_all_that_can_be_said(tmp_path):
    model = CostModel(1e-5, 1e-9, 1e-10)
    (tmp_path / "model.json").write_text(model.to_json())
    wires = Wires.from_environ(
        {
            "HOLDFAST_INTERFACES": "eth0, eth1",
            "HOLDFAST_RAILS": "3",
            "HOLDFAST_CHECKSUM": "fold",
            "HOLDFAST_CONGESTION": "reno",
            "HOLDFAST_ALGORITHM": "ring",
            "HOLDFAST_MODEL": str(tmp_path / "model.json"),
        }
    )
    assert wires.interfaces == ("eth0", "eth1")
    assert (wires.link.rails, wires.link.checksum, wires.link.congestion) == (3, "fold", "reno")
    assert (wires.algorithm, wires.model) == ("ring", model)


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"HOLDFAST_RAILS": "many"}, "HOLDFAST_RAILS must be a whole number"),
        ({"HOLDFAST_RAILS": "0"}, "1 to 64 rails"),
        ({"HOLDFAST_CHECKSUM": "md5"}, "fold, crc32c or none"),
        ({"HOLDFAST_TLS_CERT": "x.pem"}, "not set: HOLDFAST_TLS_KEY, HOLDFAST_TLS_CA"),
        ({"HOLDFAST_MODEL": "/nowhere/model.json"}, "cannot be read"),
        (
            {f"HOLDFAST_TLS_{name}": "/nowhere/x.pem" for name in ("CERT", "KEY", "CA")},
            "three PEM files",
        ),
    ],
)
def test_what_cannot_be_is_named(environ, told):
    with pytest.raises(UsageError, match=told):
        Wires.from_environ(environ)
