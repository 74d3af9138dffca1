"""The tests that docs/faults.md and the README show, run as a user's own."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from holdfast.fabric.script import parse_script
from holdfast.fabric.topology import load_topology

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "faults.md").read_text()


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.local
def test_a_user_s_tests_of_a_training_script(tmp_path):
    shutil.copy(TOP / "tests" / "runtime" / "digits_worker.py", tmp_path / "train.py")
    own = blocks(PAGE, "python")[0]
    assert len(own.strip().splitlines()) <= 15
    (tmp_path / "test_training.py").write_text(own)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert "2 passed" in run.stdout, run.stdout + run.stderr


def test_the_readme_shows_the_same_test():
    shown = blocks((TOP / "README.md").read_text(), "python")[1]
    test = shown[shown.index("def ") :].strip()
    assert test in blocks(PAGE, "python")[0]


def test_the_page_s_files_are_what_they_are_said_to_be(tmp_path):
    script, topology = blocks(PAGE, "toml")
    assert len(parse_script(script).entries) == 2
    path = tmp_path / "net.toml"
    path.write_text(topology)
    assert load_topology(path).hosts == ("h0", "h1")
    assert tomllib.loads(script)["seed"] == 7
