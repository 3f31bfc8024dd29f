"""The wheel installs into a clean environment without extras, and the pure parts work there."""

import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent

USE_THE_LOSSES = """
import importlib.resources
import sys
import jax.numpy as jnp
from jaxevo.advantages import group_relative
from jaxevo.kernels import fused_logprob
from jaxevo.losses import clipped_surrogate, ratio, token_mean
from jaxevo.tasks import load_task

advantage = group_relative(jnp.array([1.0, 0, 0, 0]), jnp.zeros(4, int))
loss = clipped_surrogate(jnp.zeros((4, 2)), jnp.zeros((4, 2)), advantage[:, None])
assert abs(float(ratio(*token_mean(loss, jnp.ones((4, 2)))))) < 1e-6
assert abs(float(advantage[0]) - 1.499997) < 1e-5
assert fused_logprob(jnp.ones((2, 3)), jnp.ones((3, 5)), jnp.zeros(2, int)).logp_M.shape == (2,)
assert load_task("xquad").held_out_size == 195
assert (importlib.resources.files("jaxevo.models") / "data" / "toy-v2-seed0.npz").is_file()
for name in ("transformers", "torch", "tensorflow", "orbax", "flax"):
    assert name not in sys.modules, name
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(name + " is installed, so this shows nothing")
print("fine")
"""


@pytest.mark.slow
def test_the_wheel_in_a_clean_environment(tmp_path):
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignore)
    run = lambda *args: subprocess.run(args, check=True, capture_output=True, text=True)  # noqa: E731
    run(sys.executable, "-m", "build", "--outdir", str(tmp_path / "dist"), str(source))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(sys.executable, "-m", "venv", str(tmp_path / "clean"))
    python = str(tmp_path / "clean" / "bin" / "python")
    run(python, "-m", "pip", "install", "--quiet", str(wheel))
    done = subprocess.run(
        [python, "-c", USE_THE_LOSSES], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "fine", done.stderr
