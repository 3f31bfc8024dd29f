"""Runs that are killed (`kill -9`) at random moments, also during a save, are the run that is not.

Each start of a run is killed a random time after it has begun to do rounds; every third one waits
for a save to begin. The last start is let go to the end.
"""

import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxevo.run.logs import read_jsonl
from jaxevo.run.manifest import MANIFEST, check_whole
from jaxevo.run.metrics import without_times

pytestmark = pytest.mark.soak
KILLS, ROUNDS = 20, 300
OPTIONS = f"--model toy --task add1 --rounds {ROUNDS} --prompts 4 --samples 4 --max-new-tokens 6 "
OPTIONS += "--eval-problems 4 --eval-every 7 --checkpoint-every 1 --keep-best 1 --seed 3"
MORE = {"sdpo": "--distill-top-k 10 --context-tokens 40 --warmup-updates 0"}


def begin(name, out):
    options = [*OPTIONS.split(), *MORE.get(name, "").split()]
    command = [sys.executable, "-m", "jaxevo.run.cli", "train", name, *options]
    return subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def saving(folder):
    """Whether a checkpoint is being written: an unfinished folder, or one without a manifest."""
    return any(
        p.is_dir() and (not p.name.isdecimal() or not (p / MANIFEST).exists())
        for p in folder.glob("*")
        if not p.name.startswith("not-whole")
    )


def kill_once(name, out, rng, *, in_a_save):
    """Starts the run and kills it; whether it was still alive, and in the midst of a save."""
    child, checkpoints = begin(name, out), out / "checkpoints"
    for line in child.stdout:  # ends with the process
        if line.startswith("round "):
            break
    time.sleep(rng.uniform(0.0, 1.0))
    while in_a_save and child.poll() is None and not saving(checkpoints):
        pass
    if in_a_save:
        time.sleep(rng.uniform(0.0, 0.02))
    alive, hit = child.poll() is None, saving(checkpoints)
    child.kill()
    child.communicate()
    return alive, alive and hit


def log_lines(folder, name):
    return [without_times(line) for line in read_jsonl(folder / name)]


def arrays(folder):
    """Every array of the last checkpoint, by path."""
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(folder / "checkpoints" / str(ROUNDS) / "arrays")
    found = {}

    def go(path, part):
        if isinstance(part, dict):
            for name, inside in part.items():
                go(f"{path}/{name}", inside)
        elif isinstance(part, (list, tuple)):
            for n, inside in enumerate(part):
                go(f"{path}/{n}", inside)
        elif part is not None:
            found[path] = np.asarray(part)

    go("", tree)
    return found


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["grpo", "sdpo", "spiral"])
def test_a_killed_run_is_the_run_that_was_not(name, tmp_path, record_property):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    child = begin(name, whole)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    rng, kills, hits = random.Random(name), 0, 0
    for n in range(KILLS):
        alive, hit = kill_once(name, killed, rng, in_a_save=n % 3 == 2)
        kills, hits = kills + alive, hits + hit
    child = begin(name, killed)
    said, _ = child.communicate()
    assert child.returncode == 0, said
    assert kills == KILLS, "the run ended before all kills were done: give it more rounds"
    assert hits >= KILLS // 6
    for log in ("metrics.jsonl", "rollouts.jsonl"):
        assert log_lines(whole, log) == log_lines(killed, log)
    one, other = arrays(whole), arrays(killed)
    assert one.keys() == other.keys()
    assert len(one) > 20
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)
    check_whole(killed / "checkpoints" / str(ROUNDS))
    evaluations = [
        json.loads((f / "config.json").read_text())["evaluation"] for f in (whole, killed)
    ]
    assert evaluations[0] == evaluations[1]
    record_property("kills", kills)
    record_property("kills during a save", hits)
    record_property("arrays compared", len(one))
    record_property("rounds", ROUNDS)
