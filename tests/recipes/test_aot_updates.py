"""Every recipe's updates compile for TPUs, at toy depth and real width; see `aot_update.py`."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from cases import CASES

from jaxevo.kernels.aot import ENVIRONMENT

PROGRAM = pathlib.Path(__file__).parent / "aot_update.py"
FIRST = {case.make().name: case.name for case in reversed(CASES)}  # a case of each recipe

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="libtpu is not installed"),
]


@pytest.mark.parametrize("case", FIRST.values(), ids=FIRST)
def test_updates_compile_for_four_chips(case, record_property):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), case],
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT | {"XLA_FLAGS": flags},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found
    for objective, memory in found.items():
        # Weights, moments, views and their room on each chip of 16 GiB.
        assert 0 < sum(memory.values()) < 16 * 2**30
        record_property(objective, memory)
