"""Whole runs on the tiny model: what the folder holds, and that a run goes on where it stopped."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from cases import CASES

from jaxevo.models import hub
from jaxevo.run import restore
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.console import Progress
from jaxevo.run.logs import read_jsonl
from jaxevo.run.loop import DivergedError, train

CASE = CASES[0]


def go(run):
    said = io.StringIO()
    with Progress(run.options.rounds, stream=said) as progress:
        state, summary = train(run, progress)
    return state, summary, said.getvalue()


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run = start(CASE, out=str(folder), eval_problems=4, checkpoint_every=1)
    return folder, *go(run)


def test_the_run_folder_holds_everything(finished):
    folder, state, summary, said = finished
    metrics = read_jsonl(folder / "metrics.jsonl")
    assert [m["round"] for m in metrics] == [0, 1, 2]
    wanted = {"reward", "loss", "grad_norm", "entropy", "length", "logp_mismatch",
              "zero_variance_share", "tokens_per_second", "reward/coin", "loss/policy",
              "score/last_integer", "score/strict_integer"}  # fmt: skip
    assert wanted <= metrics[0].keys()
    records = read_jsonl(folder / "rollouts.jsonl")
    assert len(records) == 3 * 16
    first = records[0]
    length = len(first["ids"])
    for key in ("tokens", "mask", "logp", "advantage"):
        assert len(first[key]) == length
    assert all(len(values) == length for values in first["signals"].values())
    assert (folder / "report.html").stat().st_size > 10_000
    assert list((folder / "tensorboard").iterdir())
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["samples"] == 4
    assert config["evaluation"]["before"].keys() == {"last_integer", "strict_integer"}
    assert config["evaluation"]["after"] == summary["after"]
    assert "round 2" in said
    assert "seconds:" in said
    assert state.counters["round"] == 3


def test_a_finished_run_is_not_run_again(finished, start):
    folder, state, _, _ = finished
    before = (folder / "metrics.jsonl").read_bytes()
    again, _, _ = go(start(CASE, out=str(folder), eval_problems=4, checkpoint_every=1))
    assert (folder / "metrics.jsonl").read_bytes() == before
    assert again.counters == state.counters


def test_a_run_that_stopped_goes_on_and_each_round_appears_once(finished, start, tmp_path):
    whole_folder, whole, _, _ = finished
    folder = tmp_path / "stopped"
    options = {"out": str(folder), "eval_problems": 4, "checkpoint_every": 1}
    go(start(CASE, rounds=2, **options))
    # A crash in the middle of writing round 2: a line that no checkpoint knows, and half a line.
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"round":2,"reward":0.1}\n{"round":3,"rew')
    resumed, _, said = go(start(CASE, rounds=3, **options))
    assert "continuing" in said
    seconds = json.loads((folder / "config.json").read_text())["seconds"]
    assert {"first round", "rounds", "restore"} <= seconds.keys()  # of both processes
    timed = ("tokens_per_second", "seconds_round", "seconds_rollout", "seconds_update")
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        one, other = (
            [{k: v for k, v in line.items() if k not in timed} for line in read_jsonl(f / name)]
            for f in (whole_folder, folder)
        )
        assert one == other
    left, right = (jax.device_get((s.params, s.optimizer)) for s in (whole, resumed))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_checkpoint_of_another_recipe_is_refused_in_one_line(finished, start):
    folder, _, _, _ = finished
    other = start(CASES[1], out=str(folder))
    with (
        Checkpoints(folder / "checkpoints") as checkpoints,
        pytest.raises(ValueError, match="does not fit this recipe and model"),
    ):
        checkpoints.restore(other.state, other.memory)


def test_the_policy_of_a_run_can_be_loaded(finished, tiny_model, monkeypatch):
    folder, state, _, _ = finished
    monkeypatch.setitem(hub._NAMED, "tiny", lambda name, dtype, weights: tiny_model)
    loaded = restore.load_policy("ignored", str(folder))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params["policy"])


def test_a_run_that_diverges_stops_with_its_last_good_weights(start, tmp_path):
    recipe = CASE.make()
    (objective,) = recipe.objectives
    broken = dataclasses.replace(
        objective, terms=(dataclasses.replace(objective.terms[0], weight=float("nan")),)
    )
    run = start(CASE, out=str(tmp_path / "bad"), rounds=9, eval_problems=0)
    run = dataclasses.replace(run, recipe=dataclasses.replace(recipe, objectives=(broken,)))
    with pytest.raises(DivergedError, match="3 updates in a row had a non-finite loss"):
        go(run)
    lines = read_jsonl(tmp_path / "bad" / "metrics.jsonl")
    assert [m["skipped"] for m in lines] == [1, 2, 3]
    assert lines[0]["loss"] is None
