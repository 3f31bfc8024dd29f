"""Chains of flow transitions beside the text of a row."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxevo.collect.acting import act, judged
from jaxevo.collect.readings import with_probe
from jaxevo.collect.table import prepare, tabulate
from jaxevo.envs.scene import scene_reward
from jaxevo.recipes.alphagrpo import alphagrpo
from jaxevo.run.build import build_run
from jaxevo.run.options import RunOptions
from jaxevo.types import bind

pytestmark = pytest.mark.slow  # they compile a model

OPTIONS = RunOptions(model="tiny", prompts=2, samples=3, max_new_tokens=4)
NOISY = (False, True, True, False)


@pytest.fixture(scope="module")
def run(tiny_model):
    recipe = alphagrpo(steps=4, window=(2, 4))
    run = build_run(recipe, OPTIONS, model=tiny_model)
    last = jax.random.normal(jax.random.key(1), run.state.params["policy"]["flow"]["w3"].shape)
    run.state.params["policy"]["flow"]["w3"] = last  # a head that says something
    return run


@pytest.fixture(scope="module")
def lab(run):
    return run.bench.lab(run.state.params, learner=run.learner)


@pytest.fixture(scope="module")
def rows(lab, run):
    texts = lab.sample(lab.tasks())
    acted = act(lab, texts, like=run.recipe.objectives[0], noise=0.7, noisy=NOISY)
    return judged(lab, acted, judge=bind(scene_reward))


def test_a_row_keeps_its_text_and_gets_a_chain(rows, lab):
    for row in rows:
        assert [s.source for s in row.segments] == ["prompt", "policy", "probe"]
        moves = row.actions["flow"]
        assert moves.mask.tolist() == list(NOISY)
        assert moves.data["before"].shape == (4, 2)
        text = lab.answer_text(row)
        assert row.reward == scene_reward(row.task, text, moves.data["after"][-1])
    ends = np.stack([row.actions["flow"].data["after"][-1] for row in rows])
    assert len(np.unique(ends, axis=0)) == len(rows)
    assert lab.sampled[rows[0].uid] == rows[0]


def test_a_chain_does_not_hang_on_its_batch_mates(run, lab, rows):
    texts = [dataclasses.replace(r, segments=r.segments[:2], actions={}) for r in rows]
    (alone,) = act(lab, texts[4:5], like=run.recipe.objectives[0], noise=0.7, noisy=NOISY)
    one, other = (r.actions["flow"].data["after"] for r in (alone, rows[4]))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_context_of_a_chain_is_the_whole_row(run, lab, rows):
    """The same key after another last token gives another chain."""
    row = dataclasses.replace(rows[0], segments=rows[0].segments[:2], actions={})
    prompt, answer = row.segments
    ids = np.array([*answer.ids[:-1], (answer.ids[-1] + 1) % 20], np.int32)
    other = dataclasses.replace(row, segments=(prompt, dataclasses.replace(answer, ids=ids)))
    like = run.recipe.objectives[0]
    changed = act(lab, [row, other], like=like, noise=0.7, noisy=NOISY)
    ends = [r.actions["flow"].data["after"][-1] for r in changed]
    assert np.abs(ends[0] - ends[1]).max() > 1e-3
    table = prepare(rows, like, run.learner.shapes["policy"].answer, lab.tokenizer)
    mask_NA = table.batch.answers["text"].mask_NA
    assert mask_NA.sum() == sum(r.sampled_tokens for r in rows)


def test_an_advantage_serves_both_streams(run, lab, rows):
    (objective,) = run.recipe.objectives
    table = prepare(rows, objective, run.learner.shapes["policy"].answer, lab.tokenizer)
    batch = table.batch
    reward = np.array([r.reward for r in rows])
    centred = reward - reward.reshape(2, 3).mean(1).repeat(3)
    np.testing.assert_allclose(batch.advantage_N, centred / (reward.std(ddof=1) + 1e-4), rtol=1e-4)


def test_actions_need_a_probe_and_equal_numbers(rows):
    blind = dataclasses.replace(rows[0], segments=rows[0].segments[:2])
    with pytest.raises(ValueError, match="no probe, whose context"):
        tabulate([blind], answer_slots=5)
    moves = rows[1].actions["flow"]
    cut = {name: x[:2] for name, x in moves.data.items()}
    short = dataclasses.replace(moves, data=cut, mask=moves.mask[:2], logp=moves.logp[:2])
    shorter = dataclasses.replace(rows[1], actions={"flow": short})
    with pytest.raises(ValueError, match=r"have \[2, 4\] actions of stream 'flow'"):
        tabulate([rows[0], shorter], answer_slots=5)


def test_a_row_without_actions_stands_beside_rows_that_have_them(rows):
    silent = with_probe(dataclasses.replace(rows[1], segments=rows[1].segments[:2], actions={}))
    answers = tabulate([rows[0], silent], answer_slots=5).batch.answers
    assert answers["flow"].mask_NA.tolist() == [list(NOISY), [False] * 4]
    assert answers["flow"].known_N.tolist() == [True, False]
    assert answers["text"].probe_N.tolist() == [r.sampled_tokens for r in (rows[0], rows[1])]


def test_a_policy_without_the_head_says_so(run, rows, tiny_model):
    plain = {"policy": tiny_model.params}
    lab = run.bench.lab(plain, learner=run.learner)
    texts = [dataclasses.replace(r, segments=r.segments[:2], actions={}) for r in rows]
    with pytest.raises(ValueError, match="no head for the stream 'flow'"):
        act(lab, texts, like=run.recipe.objectives[0], noise=0.7, noisy=NOISY)
