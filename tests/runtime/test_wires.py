"""What the environment says of links."""

import sys

import pytest

from holdfast.collectives.cost import CostModel
from holdfast.errors import MissingDependency, UsageError
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
        ({"HOLDFAST_RAILS": "0"}, "HOLDFAST_RAILS: 1 to 64 rails"),
        ({"HOLDFAST_CHECKSUM": "md5"}, "HOLDFAST_CHECKSUM: .*fold, crc32c or none"),
        ({"HOLDFAST_TLS_CERT": "x.pem"}, "not set: HOLDFAST_TLS_KEY, HOLDFAST_TLS_CA"),
        ({"HOLDFAST_MODEL": "/nowhere/model.json"}, "cannot be read"),
        (
            {f"HOLDFAST_TLS_{name}": "/nowhere/x.pem" for name in ("CERT", "KEY", "CA")},
            "HOLDFAST_TLS_CERT, HOLDFAST_TLS_KEY, HOLDFAST_TLS_CA: three PEM files",
        ),
    ],
)
def test_what_cannot_be_is_named(environ, told):
    with pytest.raises(UsageError, match=told):
        Wires.from_environ(environ)


@pytest.mark.parametrize("content", [b"no JSON", b"{}", b"\xff\xfe"])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"HOLDFAST_MODEL={path}"):
        Wires.from_environ({"HOLDFAST_MODEL": str(path)})


def test_a_package_that_is_not_there_is_told_with_its_variable(monkeypatch):
    monkeypatch.setitem(sys.modules, "google_crc32c", None)
    with pytest.raises(MissingDependency, match=r"HOLDFAST_CHECKSUM: .*google-crc32c"):
        Wires.from_environ({"HOLDFAST_CHECKSUM": "crc32c"})
