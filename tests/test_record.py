"""The outcomes that a soak writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

def test_good(): pass
def test_bad(): assert False
def test_absent(): pytest.skip("nothing here")

@pytest.fixture
def broken(): raise ValueError

def test_broken(broken): pass
"""


@pytest.mark.parametrize("processes", [[], ["-n", "2"]], ids=["one process", "two processes"])
def test_each_outcome_is_written_with_commit_and_versions(processes, tmp_path):
    (tmp_path / "test_some.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "--record", "found.json"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    subprocess.run(
        [*command, *processes, "test_some.py"], cwd=tmp_path, env=env, check=False, timeout=300
    )
    found = json.loads((tmp_path / "found.json").read_text())
    outcomes = {name.partition("::")[2]: one["outcome"] for name, one in found["tests"].items()}
    assert outcomes == {
        "test_good": "passed",
        "test_bad": "failed",
        "test_absent": "skipped",
        "test_broken": "failed",
    }
    assert {"commit", "dirty", "versions", "seconds"} <= found.keys()
    assert "libtpu" in found["versions"]
