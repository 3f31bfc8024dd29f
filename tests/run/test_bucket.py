"""Checkpoints in a bucket, of a server in this process (`bucket_server.py`)."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bucket_server import serve

from jaxevo.run import storage
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.cli import main
from jaxevo.run.logs import read_jsonl
from jaxevo.run.manifest import MANIFEST
from jaxevo.run.metrics import without_times
from jaxevo.run.restore import load_subject
from jaxevo.types import TrainState

BUCKET = "jaxevo-test"


@pytest.fixture(scope="module")
def bucket():
    with serve(BUCKET) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", address)
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", address)
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "any")
        patch.setenv("GOOGLE_CLOUD_PROJECT", "any")
        yield f"gs://{BUCKET}"


@dataclasses.dataclass(frozen=True)
class NoMemory:
    pass


def made(step):
    weights = {"policy": {"w": jnp.full((64, 64), float(step)), "b": jnp.arange(8.0) + step}}
    return TrainState(weights, {}, {"round": step})


def save(folder, *steps, **how):
    with Checkpoints(folder, **how) as checkpoints:
        for step in steps:
            checkpoints.save(made(step), NoMemory(), {"said": step})


def assert_holds(folder, step, **how):
    with Checkpoints(folder, **how) as checkpoints:
        assert checkpoints.latest() == step
        state, _, meta = checkpoints.restore(made(0), NoMemory())
    jax.tree.map(np.testing.assert_array_equal, state.params, made(step).params)
    assert meta["said"] == step


def there(folder):
    return sorted(path.name for path in storage.place_of(folder).iterdir())


@pytest.mark.slow
def test_the_newest_are_kept_and_read_back(bucket):
    folder = f"{bucket}/kept"
    save(folder, 1, 2, 3, keep=2)
    assert there(folder) == ["2", "3"]
    assert_holds(folder, 3)
    assert_holds(folder, 3, writes=False)


@pytest.mark.slow
def test_a_changed_object_and_a_save_that_was_cut_off_are_passed_over(bucket):
    folder, lines = f"{bucket}/damaged", []
    save(folder, 1, 2, 3, keep=3)
    place = storage.place_of(folder)
    sizes = storage.sizes_below(place / "3" / "arrays")
    largest = place / "3" / "arrays" / max(sizes, key=sizes.get)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 4
    largest.write_bytes(bytes(data))
    (place / "2" / MANIFEST).unlink()
    assert_holds(folder, 1, say=lines.append)
    assert len(lines) == 2
    assert "has changed since it was written" in lines[0]
    assert "no manifest" in lines[1]
    assert there(folder) == ["1", "not-whole-2-1", "not-whole-3-1"]


@pytest.mark.soak
def test_a_run_goes_on_from_a_bucket(bucket, tmp_path, capsys):
    options = "train grpo --model toy --task add1 --prompts 4 --samples 4 --max-new-tokens 6 "
    options += "--eval-problems 0 --checkpoint-every 1"

    def run(out, rounds, *more):
        command = [*options.split(), "--rounds", str(rounds), "--out", str(tmp_path / out), *more]
        assert main(command) == 0
        lines = read_jsonl(tmp_path / out / "metrics.jsonl")
        return [without_times(line) for line in lines]

    folder = f"{bucket}/run"
    run("broken-off", 2, "--checkpoint-dir", folder)
    again = run("broken-off", 3, "--checkpoint-dir", folder)
    assert "after round 1" in capsys.readouterr().out
    whole = run("whole", 3)
    assert again == whole
    assert there(folder) == ["2", "3"]
    assert not (tmp_path / "broken-off" / "checkpoints").exists()
    policies = [load_subject(str(tmp_path / name)).params for name in ("broken-off", "whole")]
    jax.tree.map(np.testing.assert_array_equal, *policies)
    # On another machine, where there is nothing: the logs are whole all the same.
    assert run("elsewhere", 4, "--checkpoint-dir", folder)[:3] == whole
    said = capsys.readouterr().out
    assert f"logs brought back from beside {folder}: metrics.jsonl, rollouts.jsonl" in said
    assert "options changed" not in said
    drawn = [read_jsonl(tmp_path / name / "rollouts.jsonl") for name in ("elsewhere", "whole")]
    assert drawn[0][: len(drawn[1])] == drawn[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("s3://bucket/run", "s3://bucket/run is neither a folder nor gs://BUCKET/PATH"),
        ("gs://bucket", "neither a folder nor"),
    ],
)
def test_other_places_are_refused(name, said):
    with pytest.raises(ValueError, match=said):
        storage.place_of(name)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'jaxevo\[gcs\]'"):
        storage.place_of("gs://bucket/run")
    assert os.fspath(storage.place_of("runs")) == os.path.abspath("runs")
