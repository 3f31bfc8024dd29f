"""Shared set-up: two simulated devices, a cache of compiled programs, a tiny random model."""

import dataclasses
import gc
import importlib.util
import json
import os
import pathlib
import sys
import time

import pytest

from jaxevo.provenance import PACKAGES, provenance

ROOT = pathlib.Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "xla"

# transformers probes for a PyPI package named `kernels`, and `python -m pytest` puts the
# repository root, where a folder of ours has that name, on the path.
sys.path[:] = [entry for entry in sys.path if pathlib.Path(entry).resolve() != ROOT]

os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
# Without fusion emitters, programs for the CPU compile in half the time.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_cpu_use_fusion_emitters=false",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")


def pytest_addoption(parser):
    parser.addoption("--record", type=pathlib.Path, metavar="FILE", help="outcomes, as JSON")


def pytest_configure(config):
    if config.option.record and not hasattr(config, "workerinput"):  # of pytest-xdist
        config.pluginmanager.register(Record(config.option.record))


class Record:
    """Writes what each test came to, its seconds and what it recorded (`record_property`).

    It does so test by test, so that a soak may break off.
    """

    def __init__(self, path):
        self._path, self._start = path, time.monotonic()
        others = filter(importlib.util.find_spec, ("libtpu", "torch", "transformers"))
        made_with = provenance(path.stem, (*PACKAGES, *others))
        self._found = {**made_with, "seconds": 0.0, "tests": {}}

    def pytest_runtest_logreport(self, report):
        seen = self._found["tests"].setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        seen["seconds"] = round(seen["seconds"] + report.duration, 1)
        if report.outcome != "passed":
            seen["outcome"] = report.outcome
        if report.user_properties:
            seen["figures"] = dict(report.user_properties)
        self._found["seconds"] = round(time.monotonic() - self._start, 1)
        self._path.write_text(json.dumps(self._found, indent=1) + "\n")


@pytest.fixture(scope="session")
def let_go():
    """Lets go of compiled programs before a process has too many of them.

    Each maps pages of its own, and Linux gives a process 65,530 mappings; behind the last one XLA
    ends with a segmentation fault.
    """

    def check():
        maps = pathlib.Path("/proc/self/maps")
        if "jax" in sys.modules and maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
            import jax

            jax.clear_caches()
            gc.collect()

    return check


@pytest.fixture(scope="module", autouse=True)
def few_mappings(let_go):
    """See `let_go`."""
    yield
    let_go()


@pytest.fixture(scope="module")
def experiments_on_path():
    """`experiments` may be imported, as from the repository's root."""
    sys.path.append(str(ROOT))
    yield
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def quick_to_compile():
    """Few optimizations for programs that run once or twice: they compile in two thirds the time.

    What is compared in such a module is compiled alike, so that equal still means equal.
    """
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def tiny_model():
    """A random character model: 2 layers, 32 wide, the toy's alphabet."""
    import jax

    from jaxevo.models import decoder, toy
    from jaxevo.models.hub import LoadedModel

    shape = {"width": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn_width": 48}
    config = dataclasses.replace(toy.CONFIG, **shape)
    params = decoder.init_params(jax.random.key(7), config)
    return LoadedModel("tiny", config, params, toy.tokenizer())
