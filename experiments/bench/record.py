"""How measured processes are run.

This process stays small and imports no JAX: a child's peak memory as the kernel counts it begins
with its parent's.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxevo.provenance import ROOT, load

GB = 10**9
ROUND = {
    "prompts": 8,
    "samples": 8,
    "max_new_tokens": 12,
    "learning_rate": 5e-6,
    "question_tokens": 0,
}


def use_cores(count: int) -> None:
    """Keeps this process and its children on the first `count` cores, where the system can."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def say(what: str, process: Mapping[str, Any]) -> None:
    """A line on stderr about a measured process, so that a broken-off bench leaves its numbers."""
    seconds = ", ".join(f"{one['seconds']:.2f}" for one in process["rounds"])
    print(f"{what}: rounds of {seconds} s (load {load()})", file=sys.stderr, flush=True)


class Paced:
    """A measured process that does its rounds one by one, when it is told to.

    So two processes can take turns, round by round, on a machine whose speed drifts. A process
    says `@ready` on its standard output when it waits; a line on its standard input starts a round.
    It writes its JSON to the file named by a last `--out` argument when all rounds are done.

    Args:
      command: without `--out`.
      env: variables to set, None for one to remove.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str | None]):
        merged = {**os.environ, **{k: v for k, v in env.items() if v}}
        for name in (k for k, v in env.items() if v is None):
            merged.pop(name, None)
        self._folder = tempfile.TemporaryDirectory(prefix="jaxevo-bench-")
        self._out, self._said = Path(self._folder.name) / "out.json", [" ".join(map(str, command))]
        self._process = subprocess.Popen(
            [*command, "--out", str(self._out)],
            env=merged,
            cwd=self._folder.name,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._read()

    def round(self) -> None:
        """Lets the process do one round, and returns when it waits again or has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has failed: `result` tells how
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        self._read()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("@ready"):
                return
            self._said.append(line.rstrip())

    def result(self) -> dict[str, Any]:
        """What the process measured, after its last round.

        Raises:
          RuntimeError: when it failed, with the end of what it said.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._read()
        code = self._process.wait()
        if code:
            said = "\n".join(self._said)
            raise RuntimeError(f"{self._said[0]} ended with {code}:\n{said[-3000:]}")
        found = json.loads(self._out.read_text())
        self._folder.cleanup()
        return found


def ours(
    rounds: int,
    *,
    options: Mapping[str, Any] = ROUND,
    module: str = "worker",
    compile_cache: str | None = None,
    paced: bool = False,
    prompts_only: bool = False,
) -> Paced:
    """Rounds of jaxevo in a process of its own; without a folder nothing compiled is kept."""
    env = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": compile_cache,
        "JAX_ENABLE_COMPILATION_CACHE": "true" if compile_cache else "false",
    }
    worker = [sys.executable, "-m", f"experiments.bench.{module}", "--options", json.dumps(options)]
    worker += ["--rounds", str(rounds)]
    worker += [
        flag for flag, on in {"--paced": paced, "--prompts-only": prompts_only}.items() if on
    ]
    return Paced(worker, env)


def summary(values: Sequence[float]) -> dict[str, Any]:
    """All values and their median, to a hundredth of a second."""
    return {
        "median": round(statistics.median(values), 2),
        "all": [round(value, 2) for value in values],
    }
