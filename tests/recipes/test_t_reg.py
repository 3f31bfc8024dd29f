"""What its card says of T-REG, on a random model."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import Case

from jaxevo.recipes.dpo import dpo
from jaxevo.recipes.t_reg import t_reg

SIDES = [[0, 1], [1, 0], [0.2, 0.1], [1, 0.5]]

pytestmark = pytest.mark.slow


def make(**options):
    return t_reg(context_tokens=20, **options)


@pytest.fixture(scope="module")
def run(start):
    return start(Case("t-reg", make), samples=2)


@pytest.fixture(scope="module")
def rows(run):
    lab = run.bench.lab(run.state.params)
    attempts = lab.attempt(lab.tasks())
    flat = [reward for pair in SIDES for reward in pair]
    return [
        dataclasses.replace(row, rewards={"correct": float(r)})
        for row, r in zip(attempts, flat, strict=True)
    ]


@pytest.fixture(scope="module")
def sets(run, moved):
    return {name: moved(run.state.params[name], n) for n, name in enumerate(run.state.params)}


def test_tokens_are_rewarded_by_the_start_weights_alone(run, rows, sets, graded, moved):
    _, _, said = graded(run, rows, sets)
    mask = said["logp"] != 0
    assert (said["token_reward"][mask] != 0).mean() > 0.8  # empty answers have no context
    assert np.abs(said["token_reward"]).max() < 0.5
    other = {**sets, "policy": moved(sets["policy"], 5)}
    _, _, again = graded(run, rows, other)
    np.testing.assert_array_equal(again["token_reward"], said["token_reward"])
    assert np.abs(again["logp"] - said["logp"]).max() > 1e-3


def test_swapped_instructions_negate_rewards_and_one_twice_gives_none(run, rows, sets, graded):
    objective = run.recipe.objectives[0]
    reference, better, worse = objective.views
    swap = dataclasses.replace

    def rewards(first, second):
        views = (reference, swap(better, context=first), swap(worse, context=second))
        return graded(run, rows, sets, swap(objective, views=views))[2]["token_reward"]

    plain = rewards(better.context, worse.context)
    np.testing.assert_allclose(rewards(worse.context, better.context), -plain, atol=1e-6)
    assert not rewards(better.context, better.context).any()


@pytest.mark.parametrize("loss", ["dpo", "simpo"])
def test_without_weight_it_is_dpo(start, run, rows, sets, graded, same_gradient, loss):
    plain = start(Case("dpo", lambda: dpo(loss=loss)), samples=2)
    value, gradient, _ = graded(plain, rows, sets)
    found = graded(run, rows, sets, make(loss=loss, reward_weight=0.0).objectives[0])
    assert found[0] == pytest.approx(value, rel=1e-6)
    same_gradient(found[1], gradient)
    _, other, _ = graded(run, rows, sets, make(loss=loss, reward_weight=1.0).objectives[0])
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), other, gradient)
    assert max(jax.tree.leaves(changed)) > 1e-4


def test_ties_are_dropped_and_one_answer_is_refused(start, run):
    lab = run.bench.lab(run.state.params)
    found = run.recipe.collect(lab, run.state, run.memory)["policy"]
    pairs = {}
    for row in found:
        pairs.setdefault(row.group, []).append(row.reward)
    assert all(best > worst for best, worst in pairs.values())
    with pytest.raises(ValueError, match="answers are compared: 2 or more"):
        start(Case("t-reg", make), samples=1)


@pytest.mark.parametrize("weight", [-0.1, 2.0])
def test_weights_that_would_turn_a_push_are_refused(weight):
    with pytest.raises(ValueError, match="would be pushed down"):
        t_reg(reward_weight=weight)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"gamma": 0.5}, 'margin of loss="simpo"'), ({"beta": -1.0}, "beta=-1.0 must be positive")],
)
def test_options_outside_their_ranges_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        t_reg(**options)
