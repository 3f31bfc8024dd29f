"""Whole runs on the tiny model: what the folder holds, and that a run goes on where it stopped."""

import dataclasses
import io
import json
import shutil
import signal
import time

import jax
import numpy as np
import pytest
from cases import CASES

from jaxevo.models import hub
from jaxevo.run import loop, restore
from jaxevo.run.checkpoint import Checkpoints
from jaxevo.run.console import Progress
from jaxevo.run.lock import BusyError, only_writer
from jaxevo.run.logs import read_jsonl
from jaxevo.run.loop import DivergedError, train
from jaxevo.run.metrics import without_times

CASE = CASES[0]


def go(run):
    said = io.StringIO()
    with Progress(run.options.rounds, stream=said) as progress:
        state, summary = train(run, progress)
    return state, summary, said.getvalue()


def numbers(folder, name="metrics.jsonl"):
    return [without_times(line) for line in read_jsonl(folder / name)]


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
    assert len({m["fingerprint/policy"] for m in metrics}) == 3  # every update changes the weights
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
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        assert numbers(whole_folder, name) == numbers(folder, name)
    left, right = (jax.device_get((s.params, s.optimizer)) for s in (whole, resumed))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_run_ends_with_the_round_that_reaches_its_rollouts_and_goes_on_with_more(
    finished, start, tmp_path
):
    whole_folder, whole, _, _ = finished
    folder = tmp_path / "budget"
    options = {"out": str(folder), "eval_problems": 4, "checkpoint_every": 0}
    state, summary, _ = go(start(CASE, max_rollouts=17, **options))  # 16 a round
    assert (state.counters["round"], state.counters["rollouts"]) == (2, 32)
    assert "stopped" not in summary
    assert summary["after"].keys() == summary["before"].keys()
    assert [m["rollouts"] for m in read_jsonl(folder / "metrics.jsonl")] == [16, 32]
    config = json.loads((folder / "config.json").read_text())
    for name, mean in config["evaluation"]["after"].items():
        by_problem = config["by_problem"]["after"][name]
        assert len(by_problem) == 4
        assert np.mean(by_problem) == pytest.approx(mean, abs=1e-5)
    more, _, _ = go(start(CASE, max_rollouts=33, **options))
    assert more.counters == whole.counters
    assert numbers(folder) == numbers(whole_folder)
    left, right = (jax.device_get((s.params, s.optimizer)) for s in (whole, more))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_rollouts_do_not_bound_a_run_that_samples_none(start, tmp_path):
    (case,) = (c for c in CASES if c.name == "sft")
    run = start(case, max_rollouts=8, out=str(tmp_path / "run"), eval_problems=0)
    with pytest.raises(ValueError, match="--max-rollouts is 8, but round 0 sampled no row"):
        go(run)


def test_a_run_is_asked_to_stop_saves_and_goes_on(finished, start, tmp_path, monkeypatch):
    whole_folder, whole, _, _ = finished
    folder = tmp_path / "asked"
    options = {"out": str(folder), "eval_problems": 4, "checkpoint_every": 0}
    real = loop.one_round

    def round_with_a_signal(run, state, *args, **how):
        if state.counters["round"] == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(run, state, *args, **how)

    monkeypatch.setattr(loop, "one_round", round_with_a_signal)
    state, summary, _ = go(start(CASE, **options))
    monkeypatch.undo()
    assert summary["stopped"] == "SIGTERM"
    assert state.counters["round"] == 2
    assert [m["round"] for m in read_jsonl(folder / "metrics.jsonl")] == [0, 1]
    resumed, summary, _ = go(start(CASE, **options))
    assert "stopped" not in summary
    assert numbers(folder) == numbers(whole_folder)
    assert numbers(folder, "rollouts.jsonl") == numbers(whole_folder, "rollouts.jsonl")
    left, right = (jax.device_get((s.params, s.optimizer)) for s in (whole, resumed))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_damaged_checkpoint_costs_its_rounds_only(finished, start, tmp_path):
    whole_folder, whole, _, _ = finished
    folder = tmp_path / "damaged"
    shutil.copytree(whole_folder, folder)
    manifest = folder / "checkpoints" / "3" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    again, _, said = go(start(CASE, out=str(folder), eval_problems=4, checkpoint_every=1))
    assert "checkpoint 3 is not whole" in said
    assert "checkpoint 2 is used" in said
    assert numbers(folder) == numbers(whole_folder)
    left, right = (jax.device_get((s.params, s.optimizer)) for s in (whole, again))
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_rounds_without_a_checkpoint_are_kept_aside(finished, start, tmp_path):
    whole_folder, _, _, _ = finished
    folder = tmp_path / "early"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"round":0,"reward":0.1}\n{"round":1,"rew')
    _, _, said = go(start(CASE, out=str(folder), eval_problems=4, checkpoint_every=1))
    assert "kept in" in said
    assert numbers(folder) == numbers(whole_folder)
    assert (folder / "broken-off-1" / "metrics.jsonl").read_text().endswith('"rew')


def test_changed_options_are_said_and_kept(start, tmp_path):
    folder = tmp_path / "changed"
    go(start(CASE, out=str(folder), eval_problems=0, rounds=1))
    _, _, said = go(start(CASE, out=str(folder), eval_problems=0, rounds=2, temperature=0.9))
    assert "options changed since the run was broken off: rounds 1 -> 2, temperature" in said
    config = json.loads((folder / "config.json").read_text())
    wanted = {"rounds": [1, 2], "temperature": [1.0, 0.9]}
    assert config["changes"] == [{"round": 1, "options": wanted}]


def test_the_clock_may_jump_from_round_to_round(finished, start, tmp_path, monkeypatch):
    whole_folder, _, _, _ = finished
    real, days = loop.one_round, iter((40, -40, 80))

    def after_a_jump(*args, **how):
        ahead = 86_400.0 * next(days)
        now = time.time
        monkeypatch.setattr("time.time", lambda: now() + ahead)
        return real(*args, **how)

    monkeypatch.setattr(loop, "one_round", after_a_jump)
    folder = tmp_path / "jumps"
    go(start(CASE, out=str(folder), eval_problems=4, checkpoint_every=0))
    assert numbers(folder) == numbers(whole_folder)


def test_a_folder_that_is_being_written_is_refused(finished, start):
    folder, _, _, _ = finished
    before = (folder / "metrics.jsonl").read_bytes()
    with only_writer(folder), pytest.raises(BusyError, match="is being written by process"):
        go(start(CASE, out=str(folder), eval_problems=4, checkpoint_every=1, rounds=4))
    assert (folder / "metrics.jsonl").read_bytes() == before


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
    monkeypatch.setitem(hub._NAMED, "tiny", lambda name, dtype, weights, put: tiny_model)
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


def test_the_best_round_by_a_metric_is_kept_besides_the_newest(start, tmp_path):
    folder = tmp_path / "best"
    best = {"keep": 1, "keep_best": 1, "best_by": "reward", "checkpoint_every": 1}
    go(start(CASE, out=str(folder), eval_problems=0, rounds=5, **best))
    rewards = [m["reward"] for m in read_jsonl(folder / "metrics.jsonl")]
    highest = max(range(5), key=lambda n: (rewards[n], n)) + 1  # of equal ones the newest
    kept = {int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()}
    assert kept == {5, highest}


def test_a_metric_that_never_comes_is_said_once_to_rank_nothing(start, tmp_path):
    folder = tmp_path / "none"
    best = {"keep": 1, "keep_best": 1, "best_by": "rewards", "checkpoint_every": 1}
    _, _, said = go(start(CASE, out=str(folder), eval_problems=0, rounds=2, **best))
    assert said.count("round 0 has no rewards, which --keep-best ranks by") == 1
    assert "reward, " in said
    assert "has no rewards" not in said.replace("round 0 has no rewards", "")
    assert [p.name for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()] == ["2"]
