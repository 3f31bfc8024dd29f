"""What every result says about where it comes from, and how measured processes are run.

This process stays small and imports no JAX: a child's peak memory as the kernel counts it begins
with its parent's.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9
ROUND = {"prompts": 8, "samples": 8, "max_new_tokens": 12, "learning_rate": 5e-6}


def use_cores(count: int) -> None:
    """Keeps this process and its children on the first `count` cores, where the system can."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def provenance(name: str) -> dict[str, Any]:
    """Name, date, commit, our versions and the machine, as they are before the measurement."""
    return {
        "name": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain")),
        "versions": {
            "python": platform.python_version(),
            **{p: importlib.metadata.version(p) for p in ("jax", "jaxlib", "numpy", "optax")},
        },
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
            "load_1min": load(),
        },
    }


def load() -> float:
    """Mean number of runnable processes in the last minute: above 0 before a start is noise."""
    return round(os.getloadavg()[0], 2)


def say(what: str, process: Mapping[str, Any]) -> None:
    """A line on stderr about a measured process, so that a broken-off bench leaves its numbers."""
    seconds = ", ".join(f"{one['seconds']:.2f}" for one in process["rounds"])
    print(f"{what}: rounds of {seconds} s (load {load()})", file=sys.stderr, flush=True)


def call(command: Sequence[str], env: Mapping[str, str | None]) -> dict[str, Any]:
    """Runs a process that writes JSON to the file named by a last `--out` argument.

    Args:
      env: variables to set, None for one to remove.

    Raises:
      RuntimeError: when it fails, with the end of what it said.
    """
    merged = {**os.environ, **{k: v for k, v in env.items() if v}}
    for name in (k for k, v in env.items() if v is None):
        merged.pop(name, None)
    with tempfile.TemporaryDirectory(prefix="jaxevo-bench-") as folder:
        out = Path(folder) / "out.json"
        done = subprocess.run(
            [*command, "--out", str(out)],
            env=merged,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            shown = " ".join(map(str, command))
            raise RuntimeError(f"{shown} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return json.loads(out.read_text())


def ours(rounds: int, *, compile_cache: str | None = None) -> dict[str, Any]:
    """Rounds of jaxevo in a process of its own; without a folder nothing compiled is kept."""
    env = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": compile_cache,
        "JAX_ENABLE_COMPILATION_CACHE": "true" if compile_cache else "false",
    }
    worker = [sys.executable, "-m", "experiments.bench.worker", "--options", json.dumps(ROUND)]
    return call([*worker, "--rounds", str(rounds)], env)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """All values and their median, to a hundredth of a second."""
    return {
        "median": round(statistics.median(values), 2),
        "all": [round(value, 2) for value in values],
    }


def _git(*args: str) -> str | None:
    done = subprocess.run(["git", *args], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
