"""Checkpoints: whole or not used, the newest and the best kept, nothing lost to a failure."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.run import manifest
from jaxevo.run.changes import changed_options
from jaxevo.run.checkpoint import Checkpoints, SaveError
from jaxevo.run.lock import BusyError, only_writer
from jaxevo.run.stopping import Stopping
from jaxevo.types import TrainState


@dataclasses.dataclass(frozen=True)
class Memory:
    pool: np.ndarray
    best: float


def made(step, memory=0):
    """A state and a memory that say which step they are of."""
    weights = {"policy": {"w": jnp.full((64, 64), float(step)), "b": jnp.arange(8.0) + step}}
    counters = {"round": step, "position": 2 * step}
    state = TrainState(weights, {"policy": {"m": jnp.full((64,), -float(step))}}, counters)
    return state, Memory(np.arange(4) + memory + step, float(step))


def save(folder, *steps, scores=None, **how):
    with Checkpoints(folder, **how) as checkpoints:
        for n, step in enumerate(steps):
            checkpoints.save(
                *made(step), {"said": step}, score=None if scores is None else scores[n]
            )


def there(folder):
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def assert_holds(folder, step, **how):
    with Checkpoints(folder, **how) as checkpoints:
        assert checkpoints.latest() == step
        state, memory, meta = checkpoints.restore(*made(0))
    wanted, remembered = made(step)
    jax.tree.map(np.testing.assert_array_equal, state.params, wanted.params)
    jax.tree.map(np.testing.assert_array_equal, state.optimizer, wanted.optimizer)
    np.testing.assert_array_equal(memory.pool, remembered.pool)
    assert memory.best == remembered.best
    assert dict(state.counters) == wanted.counters
    assert meta["said"] == step


def array_file(folder, step):
    """The largest file of a checkpoint's arrays."""
    found = (folder / str(step) / "arrays").rglob("*")
    return max(found, key=lambda p: p.stat().st_size * p.is_file())


# ---------------------------------------------------------------------------- what is kept
def test_the_newest_and_the_best_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, 5, 6, scores=[0.1, 0.9, None, 0.7, 0.2, 0.3], keep=2, keep_best=2)
    assert there(tmp_path) == [2, 4, 5, 6]
    save(tmp_path, 7, 8, scores=[0.8, 0.0], keep=1, keep_best=1)
    assert there(tmp_path) == [2, 8]
    assert_holds(tmp_path, 8)


def test_a_save_sees_the_weights_of_its_round_though_they_are_given_away(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1.0, tree), donate_argnums=0)
    weights = {"policy": {"w": jnp.zeros((512, 1024))}}
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for n in range(1, 5):
            weights = step(weights)
            checkpoints.save(TrainState(weights, {}, {"round": n}), Memory(np.ones(1), 0.0), {})
            for _ in range(3):  # while it is being written
                weights = step(weights)
        checkpoints.wait()
        like = TrainState({"policy": {"w": jnp.zeros((512, 1024))}}, {}, {})
        for n in range(1, 5):
            state, _, _ = checkpoints.restore(like, Memory(np.ones(1), 0.0), step=n)
            assert set(np.unique(state.params["policy"]["w"])) == {4.0 * n - 3}


# ---------------------------------------------------------------------------- damage
def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


DAMAGE = {
    "a flipped bit": (lambda f: flip(array_file(f, 5)), "has changed since it was written"),
    "a cut file": (lambda f: cut(array_file(f, 5)), "bytes of"),
    "a lost file": (lambda f: array_file(f, 5).unlink(), "is missing"),
    "a lost folder": (lambda f: shutil.rmtree(f / "5" / "arrays"), "is missing"),
    "a flipped bit of the manifest": (lambda f: flip(f / "5" / "manifest.json"), "manifest.json"),
    "a cut manifest": (lambda f: cut(f / "5" / "manifest.json"), "cannot be read"),
    "no manifest": (lambda f: (f / "5" / "manifest.json").unlink(), "its save was cut off"),
    "a foreign folder": (lambda f: (f / "7").mkdir(), "its save was cut off"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_the_last_good_checkpoint_is_used_and_the_damaged_one_kept_aside(what, tmp_path):
    damage, reason = DAMAGE[what]
    save(tmp_path, 3, 5)
    damage(tmp_path)
    left, said = (3, 5) if what != "a foreign folder" else (5, 7), []
    assert_holds(tmp_path, left[0], writes=False)  # a reader leaves all as it is
    assert there(tmp_path) == [3, 5] + ([7] if left[0] == 5 else [])
    assert_holds(tmp_path, left[0], say=said.append)
    (line,) = said
    assert line.startswith(f"checkpoint {left[1]} is not whole")
    assert reason in line
    assert f"kept as not-whole-{left[1]}-1; checkpoint {left[0]} is used" in line
    assert (tmp_path / f"not-whole-{left[1]}-1").is_dir()
    save(tmp_path, left[1])
    assert_holds(tmp_path, left[1])


def test_every_flipped_bit_is_found(tmp_path):
    save(tmp_path, 5)
    files = [p for p in (tmp_path / "5").rglob("*") if p.is_file() and p.stat().st_size]
    random = np.random.default_rng(0)
    for path in files:
        whole = path.read_bytes()
        for place in random.integers(len(whole), size=8):
            changed = bytearray(whole)
            changed[place] ^= 1 << int(random.integers(8))
            path.write_bytes(changed)
            with pytest.raises(manifest.DamagedError):
                manifest.check_whole(tmp_path / "5")
        path.write_bytes(whole)
    assert manifest.check_whole(tmp_path / "5").score is None


def test_nothing_is_touched_when_none_is_whole(tmp_path):
    save(tmp_path, 3, 5)
    for step in (3, 5):
        flip(array_file(tmp_path, step))
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(
        ValueError, match=r"no checkpoint in .* is whole \(5: .*; 3: .*\)\. Nothing"
    ):
        Checkpoints(tmp_path)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_a_checkpoint_of_a_later_version_is_refused(tmp_path, monkeypatch):
    save(tmp_path, 3)
    monkeypatch.setattr(manifest, "FORMAT", manifest.FORMAT + 1)
    save(tmp_path, 5)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has format 2, written by jaxevo .*Update jaxevo"):
        Checkpoints(tmp_path)
    assert there(tmp_path) == [3, 5]


def test_a_first_save_that_was_cut_off_is_none(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "3" / "manifest.json").unlink()
    said = []
    with Checkpoints(tmp_path, say=said.append) as checkpoints:
        assert checkpoints.latest() is None
        with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
            checkpoints.restore(*made(0))
    assert "none before it" in said[0]


# ---------------------------------------------------------------------------- failures of a save
CHILD = """
import resource, sys
sys.path[:0] = [{tests!r}]
from test_checkpoint import made
from jaxevo.run.checkpoint import Checkpoints, SaveError
with Checkpoints({folder!r}) as checkpoints:
    checkpoints.save(*made(3), {{"said": 3}})
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, resource.RLIM_INFINITY))
    try:
        checkpoints.save(*made(5), {{"said": 5}})
        checkpoints.wait()
    except SaveError as fault:
        print("said:", fault)
"""


def test_a_disk_that_takes_no_more_is_told_in_one_line_and_the_last_checkpoint_stays(tmp_path):
    tests = str(pathlib.Path(__file__).parent)
    code = CHILD.format(folder=str(tmp_path), tests=tests)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = [x for x in done.stdout.splitlines() if x.startswith("said: ")]
    assert "checkpoint 5 could not be written" in line
    assert "checkpoint 3 is whole" in line
    assert_holds(tmp_path, 3)


def test_a_step_that_is_there_is_not_written_over(tmp_path):
    save(tmp_path, 3)
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(SaveError, match="checkpoint 3"):
        checkpoints.save(*made(3), {})


def test_a_numpy_scalar_in_memory_is_refused_when_it_is_saved(tmp_path):
    state, memory = made(1)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(TypeError, match="memory field best is the numpy scalar"),
    ):
        checkpoints.save(state, dataclasses.replace(memory, best=np.float32(1.0)), {})


# ---------------------------------------------------------------------------- one writer
def test_a_folder_has_one_writer(tmp_path):
    code = (
        "import pathlib, sys, time\nfrom jaxevo.run.lock import only_writer\n"
        f"with only_writer(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        wanted = f"is being written by process {other.pid} on "
        with pytest.raises(BusyError, match=wanted), only_writer(tmp_path):
            pass
        other.kill()  # no cleaning up: the system lets go
    with only_writer(tmp_path):
        pass


# ---------------------------------------------------------------------------- signals
def test_the_first_signal_asks_and_the_second_acts(capfd):
    before = signal.default_int_handler
    others = signal.signal(signal.SIGINT, before)
    with Stopping() as stopping:
        assert stopping.asked is None
        os.kill(os.getpid(), signal.SIGINT)
        while stopping.asked is None:
            time.sleep(0.01)
        assert stopping.asked == "SIGINT"
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, others)
    assert "the run stops after this round, saved" in capfd.readouterr().err


# ---------------------------------------------------------------------------- changes
def test_changed_options_are_named():
    before = {"options": {"seed": 0, "stop": ["a"], "out": "x", "rounds": 3},
              "recipe_values": {"objectives.policy.optimizer.learning_rate": "1e-05"}}  # fmt: skip
    now = {"options": {"seed": 0, "stop": ("a",), "out": "y", "rounds": 4},
           "recipe_values": {"objectives.policy.optimizer.learning_rate": "2e-05"}}  # fmt: skip
    assert changed_options(before, now) == {
        "rounds": [3, 4],
        "objectives.policy.optimizer.learning_rate": ["1e-05", "2e-05"],
    }
    assert changed_options(json.loads(json.dumps(now)), now) == {}


# ---------------------------------------------------------------------------- the command line
@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        (OSError(28, "No space left on device", "runs/x/metrics.jsonl"), 1,
         "No space left on device: runs/x/metrics.jsonl. Make room"),
        (OSError(30, "Read-only file system", "runs/x"), 2,
         "Read-only file system: runs/x. Give a place that you may write"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "change its rights"),
        (FileNotFoundError("runs/x is no run folder."), 2, "runs/x is no run folder."),
    ],
)  # fmt: skip
def test_what_the_system_refuses_is_one_line(fault, status, says, monkeypatch, capsys):
    from jaxevo.run import cli, commands

    def report(*, run: str = "") -> int:
        raise fault

    monkeypatch.setattr(commands, "report", report)
    assert cli.main(["report", "--run", "runs/x"]) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jaxevo: ")
    assert says in line


def test_a_data_file_that_has_vanished_is_named(tmp_path, capsys):
    from jaxevo.run import cli

    data = tmp_path / "mine.jsonl"
    task = f"{data}?prompt=question&answer=target&verifier=last_integer"
    assert cli.main(["train", "grpo", "--model", "toy", "--task", task]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(data) in line
