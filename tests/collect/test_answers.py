"""Single answers that are chosen before they are learnt."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo.advantages import zero_advantage
from jaxevo.collect.answers import (
    answers_sizes,
    best_and_worst,
    given_answers,
    right_answers,
    valued_answers,
)
from jaxevo.collect.lab import RolloutConfig
from jaxevo.collect.readings import answer_logp
from jaxevo.collect.table import tabulate
from jaxevo.models import hub
from jaxevo.recipes.ppo import ppo
from jaxevo.run.build import build_bench, build_run
from jaxevo.run.cli import main
from jaxevo.run.options import RunOptions
from jaxevo.sampling.sampler import Sampling
from jaxevo.types import Size, Task, Verdict, bind


@pytest.fixture(scope="module")
def bench(tiny_model):
    rollout = RolloutConfig(4, 6, 3, Sampling())
    return build_bench(model=tiny_model, task="add1", rollout=rollout, seed=5, prompt_tokens=12)


def new_lab(bench):
    return bench.lab({"policy": bench.model.params})


def test_given_answers_are_forced_to_the_end_of_the_turn(bench, tiny_model):
    lab = new_lab(bench)
    rows = given_answers(lab, None, None, overlong="refuse")["policy"]
    assert len(rows) == 4
    for row in rows:
        assert [s.source for s in row.segments] == ["prompt", "forced"]
        assert tiny_model.tokenizer.decode(row.answer_ids) == f"{row.task.answer}<eos>"
        assert row.sampled_tokens == 0
    learnt = tabulate(rows, answer_slots=4, learns=("forced",)).batch.answers["text"].mask_NA
    assert learnt.sum() == sum(len(row.answer_ids) for row in rows)
    assert not tabulate(rows, answer_slots=4).batch.answers["text"].mask_NA.any()
    assert lab.sampled.keys() == {row.uid for row in rows}
    assert lab.position == 4


def asked_for(bench, answer):
    """The bench with problems that all have this answer."""

    def train(index):
        return dataclasses.replace(bench.source.train(index), answer=answer)

    return dataclasses.replace(bench, source=dataclasses.replace(bench.source, train=train))


def test_answers_beyond_the_limit_are_refused_or_cut(bench):
    long = asked_for(bench, "12345")
    with pytest.raises(ValueError, match=r"has 6 tokens with its end, but --max-new-tokens is 3"):
        given_answers(new_lab(long), None, None, overlong="refuse")
    rows = given_answers(new_lab(long), None, None, overlong="cut")["policy"]
    assert {bench.model.tokenizer.decode(row.answer_ids) for row in rows} == {"123"}
    assert {row.info["finish"] for row in rows} == {"length"}
    with pytest.raises(ValueError, match="has an empty answer"):
        given_answers(new_lab(asked_for(bench, "")), None, None, overlong="cut")


def judged_by_length(task: Task, text: str) -> Verdict:
    score = min(len(text), 2) / 2  # short answers of a random model repeat themselves
    return Verdict("pass" if score == 1 else "fail", score)


def test_right_answers_are_kept_once_and_not_too_many_of_a_problem(bench):
    source = dataclasses.replace(bench.source, verifiers={"length": judged_by_length})
    bench = dataclasses.replace(bench, source=source)

    def kept(**options):
        lab = new_lab(bench)
        options = {"most": 0, "distinct": False, "least_reward": 1.0, **options}
        rows = right_answers(lab, None, None, **options)["policy"]
        texts = [(row.group, lab.answer_text(row)) for row in rows]
        return lab, rows, texts

    lab, right, texts = kept()
    assert [r.uid for r in right] == [r.uid for r in lab.sampled.values() if r.reward == 1.0]
    assert 0 < len(right) < len(lab.sampled) == 24
    _, half, _ = kept(least_reward=0.5)
    assert len(half) > len(right)
    _, _, texts_once = kept(distinct=True, least_reward=0.0)
    assert len(set(texts_once)) == len(texts_once) < 24
    _, two, texts_two = kept(most=2)
    by_group = {g: [t for t in texts if t[0] == g] for g, _ in texts}
    assert texts_two == [t for ts in by_group.values() for t in ts[:2]]
    assert len(two) < len(right)


def test_the_best_is_paired_with_the_worst_and_ties_are_dropped(bench):
    def judged(task: Task, text: str) -> Verdict:
        tied = task.uid == tasks[1].uid
        return Verdict("fail", 0.5 if tied else len(text) / 3)

    tasks = new_lab(bench).tasks()
    source = dataclasses.replace(bench.source, verifiers={"length": judged})
    lab = new_lab(dataclasses.replace(bench, source=source))
    rows = best_and_worst(lab, None, None)["policy"]
    assert tasks[1].uid not in {row.task.uid for row in rows}
    assert len(lab.sampled) == 24
    assert 2 <= len(rows) < 8
    for best, worst in zip(rows[::2], rows[1::2], strict=True):
        group = [r.reward for r in lab.sampled.values() if r.group == best.group == worst.group]
        assert (best.reward, worst.reward) == (max(group), min(group))
        assert best.reward > worst.reward
        assert not best.numbers


@pytest.fixture(scope="module")
def run(tiny_model):
    options = RunOptions(task="add1", prompts=2, samples=3, max_new_tokens=3, control="random")
    return build_run(ppo(), options, model=tiny_model)


def shifted(params, by):
    """Weights whose value head says `by` everywhere, and whose policy is another one."""
    head = {"weight": params["value"]["weight"], "bias": jnp.float32(by)}
    return {**params, "value": head, "final_norm": params["final_norm"] * 1.5}


def test_values_and_baselines_are_read_of_every_row(run):
    value = run.recipe.objectives[0]
    sets = {**run.state.params, "value": shifted(run.state.params["value"], 0.7)}
    lab = run.bench.lab(sets, learner=run.learner)
    found = valued_answers(lab, None, None, value=value)
    assert found["policy"] == found["value"]
    for row in found["policy"]:
        assert row.by_token["value"].tolist() == [pytest.approx(0.7)] * len(row.answer_ids)
    reading = dataclasses.replace(run.recipe.objectives[1], advantage=bind(zero_advantage))
    lab = run.bench.lab(sets, learner=run.learner)
    chosen = best_and_worst(lab, None, None, like=reading, reference="value")["policy"]
    rows = list(lab.sampled.values())
    now, other = (
        lab.map(bind(answer_logp, params=name), rows, like=reading) for name in ("policy", "value")
    )
    assert np.mean(now - other) > 0  # the policy gave them, and not the other
    for row in chosen:
        assert row.numbers["baseline"] == pytest.approx(np.mean(now - other), rel=1e-5)


def test_sizes_make_room_for_what_is_kept(bench):
    rollout = bench.rollout
    two = answers_sizes(rollout, 10, None, most=2).objectives["policy"]
    assert two == Size(rows=8, answer=3, group=2, slots=10 + 2 * 2)
    with pytest.raises(ValueError, match="--samples is 6, but answers are compared: 7 or more"):
        answers_sizes(rollout, 10, None, most=0, least=7)
    with pytest.raises(ValueError, match="most=-1 must be at least 0"):
        answers_sizes(rollout, 10, None, most=-1)
    assert answers_sizes(rollout, 10, None, most=0) == answers_sizes(rollout, 10, None, most=9)


def test_a_file_of_answers_is_learnt_from_the_command_line(tmp_path, tiny_model, monkeypatch):
    monkeypatch.setitem(hub._NAMED, "tiny", lambda name, dtype, weights, put: tiny_model)
    file, out = tmp_path / "mine.jsonl", tmp_path / "run"
    lines = [{"prompt": f"{n}+1=", "plain": f"{n}+1=", "answer": f"{n + 1}"} for n in range(9)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = f"train sft --model tiny --task {file} --rounds 12 --learning-rate 0.01 --out {out}"
    assert main(f"{command} --max-new-tokens 3 --eval-problems 0".split()) == 0
    metrics = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = np.array([m["loss"] for m in metrics])
    assert losses[-3:].mean() < 0.6 * losses[0]
