"""The pages on the engine: every example runs as it stands, and gives what the page says."""

import doctest
import re
from pathlib import Path

import pytest

from holdfast import nn, optim
from holdfast.core.primitive import registry

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(python|pycon)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def executed(code, page, line, names):
    exec(compile("\n" * (line - 1) + code, page, "exec"), names)


def compared(code, page, line, names):
    """Run the lines after `>>>`; what they print, or raise, must be what stands below them."""
    test = doctest.DocTestParser().get_doctest(code, {}, page, page, line - 1)
    test.globs = names
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    failed, _ = runner.run(test, out=said.append, clear_globs=False)
    assert not failed, "".join(said)


@pytest.mark.parametrize("page", ["autodiff.md", "plans.md"])
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    text = (DOCS / page).read_text()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": page}
    blocks = list(BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        run = executed if block[1] == "python" else compared
        run(block[2], page, text.count("\n", 0, block.start(2)) + 1, names)


def words(page):
    """Return the words of a page, `Conv1d/2d/3d` being three of them."""
    found = set(re.findall(r"\w+", (DOCS / page).read_text()))
    for stem, counts in re.findall(r"(\w+)\dd((?:/\dd)+)", (DOCS / page).read_text()):
        found |= {f"{stem}{count}" for count in counts.split("/") if count}
    return found


def test_the_page_names_every_layer_initialisation_optimizer_and_schedule():
    layers = {name for name, value in vars(nn).items() if isinstance(value, type)}
    inits = {name for name in vars(nn.init) if name.endswith("_") and name[0] != "_"}
    schedules = {*optim.lr_scheduler.__all__, *optim.swa_utils.__all__}
    bases = {"Optimizer", "LRScheduler", "RNNBase", "RNNCellBase"}
    public = layers | inits | set(optim.__all__) | schedules
    assert public - bases - words("autodiff.md") == set()


def test_the_page_says_which_primitives_have_no_second_gradient():
    ours = [e for e in registry().values() if e.rule.__module__.startswith("holdfast.core.ops")]
    assert {entry.name for entry in ours if entry.second is None} == {"rnn", "gru", "lstm"}
    assert "but `rnn`, `gru` and `lstm`" in (DOCS / "autodiff.md").read_text()
