"""Runs on eight simulated devices, cut in four ways, are the run on one; see `eight_devices.py`."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).parent / "eight_devices.py"
SHAPES = {"(8, 1, 1)": (1, 1), "(1, 8, 1)": (8, 1), "(2, 2, 2)": (2, 2), "(1, 1, 8)": (1, 8)}
SOAKED = [
    pytest.param(mesh, marks=[] if mesh == "(2, 2, 2)" else [pytest.mark.soak]) for mesh in SHAPES
]
NAMES = ["grpo", pytest.param("sdpo", marks=pytest.mark.soak)]

pytestmark = pytest.mark.slow


@functools.cache
def measured(name, mesh):
    flags = {"XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"}
    command = [sys.executable, str(PROGRAM), name, *map(str, SHAPES[mesh])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Involuntary full rematerialization" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mesh", SOAKED)
@pytest.mark.parametrize("name", NAMES)
def test_three_rounds_are_those_of_one_device(name, mesh):
    own = measured(name, mesh)
    assert own["rounds_with_other_tokens"] == 0
    assert own["loss"] < 1e-6
    assert own["grad_norm"] < 5e-4  # of gradients that nearly cancel
    # Adam divides a gradient by its own size: rounding shows where there is next to none.
    assert own["weights"] < 1e-2


@pytest.mark.parametrize("mesh", SOAKED)
def test_weights_and_moments_lie_where_the_rules_say(mesh):
    own = measured("grpo", mesh)
    said = " ".join(own["placements"])
    assert ("fsdp" in said) == (mesh in ("(1, 8, 1)", "(2, 2, 2)"))
    assert ("tensor" in said) == (mesh in ("(1, 1, 8)", "(2, 2, 2)"))
    split = {spec for spec in own["placements"] if "fsdp" in spec or "tensor" in spec}
    assert split <= set(own["moments"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("devices", ["4", "1"])
def test_a_checkpoint_of_eight_devices_opens_on_fewer(name, devices):
    assert measured(name, "(2, 2, 2)")["restored"][devices] == 0.0
