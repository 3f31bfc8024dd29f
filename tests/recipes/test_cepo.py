"""What its card says of CEPO, on a random model."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import Case

from jaxevo.collect.table import prepare
from jaxevo.recipes.cepo import cepo
from jaxevo.recipes.grpo import grpo

REWARDS = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1]]
TOLD = [0, 1, 2, 3, 12, 13, 14, 15]

pytestmark = pytest.mark.slow


def make(**options):
    return cepo(context_tokens=20, minibatches=1, **options)


@pytest.fixture(scope="module")
def run(start):
    return start(Case("cepo", make))


@pytest.fixture(scope="module")
def rows(run, marked):
    return marked(run, REWARDS)


@pytest.fixture(scope="module")
def sets(run, moved):
    return {"policy": moved(run.state.params["policy"], 1)}


@pytest.fixture(scope="module")
def plain(start, rows, sets, graded):
    return graded(start(Case("grpo", lambda: grpo(clip_high=0.28))), rows, sets)


def stamped(rows, **numbers):
    return [dataclasses.replace(row, numbers=numbers) for row in rows]


def assert_same(one, other, same_gradient):
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    same_gradient(one[1], other[1])
    np.testing.assert_array_equal(one[2]["advantage"], other[2]["advantage"])


def test_tokens_are_weighed_where_two_answers_differ(run, rows, sets, graded, plain):
    assert {row.numbers["mix"] for row in rows} == {0.5}
    _, gradient, said = graded(run, rows, sets)
    evidence, weight = said["evidence"], np.ones((16, 4))
    here = said["advantage"] != 0
    weight[here] = said["advantage"][here] / plain[2]["advantage"][here]
    ratio = np.clip(np.exp(np.sign(plain[2]["advantage"]) * evidence), 0.8, 1.2)
    np.testing.assert_allclose(weight[here], 0.5 + 0.5 * ratio[here], rtol=1e-5)
    assert [n for n in range(16) if evidence[n].any()] == TOLD
    assert np.ptp(weight[here]) > 0.02
    changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), gradient, plain[1])
    assert max(jax.tree.leaves(changed)) > 1e-4


@pytest.mark.parametrize(
    ("options", "mix"), [({}, 0.0), ({"evidence_clip": 0.0}, 0.48), ({"success": 0.0}, 0.48)]
)
def test_without_weights_it_is_grpo(run, rows, sets, graded, plain, same_gradient, options, mix):
    objective = make(**options).objectives[0]
    assert_same(graded(run, stamped(rows, mix=mix), sets, objective), plain, same_gradient)


def test_equal_answers_are_no_evidence(run, rows, sets, graded, plain, same_gradient):
    """Both teachers' rows have one padded length, so that equal contexts are equal bits."""
    objective = make().objectives[0]
    right, _ = objective.views
    twice = dataclasses.replace(objective, views=(right, dataclasses.replace(right, name="wrong")))
    found = graded(run, rows, sets, twice)
    assert not found[2]["evidence"].any()
    assert_same(found, plain, same_gradient)


def test_one_answer_is_compared_with_the_policy(start, run, rows, sets, graded):
    alone = start(Case("alone", lambda: make(negative="policy")))
    _, _, both = graded(run, rows, sets)
    _, _, found = graded(alone, rows, sets)
    assert [view.name for view in alone.recipe.objectives[0].views] == ["right"]
    assert [n for n in range(16) if found["evidence"][n].any()] == TOLD
    assert np.abs(found["evidence"] - both["evidence"])[TOLD].max() > 0.01


def test_groups_without_a_rejected_row_may_fall_back(run, rows, sets, graded, plain):
    passed = [
        dataclasses.replace(r, rewards={"c": 0.6 + 0.1 * (n % 4)}) for n, r in enumerate(rows)
    ]
    evidence = [
        graded(run, passed, sets, make(fallback=fallback).objectives[0])[2]["evidence"]
        for fallback in ("grpo", "rlsd")
    ]
    assert not evidence[0].any()
    assert evidence[1].any(1).all()


def test_equal_scores_teach_nothing_and_the_form_alone_teaches_at_full_size(
    run, rows, sets, graded
):
    wrong = [dataclasses.replace(row, rewards={"correct": 0.1}) for row in rows[:4]]
    value, gradient, _ = graded(run, wrong, sets)
    assert value == 0.0
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))
    wrong[0] = dataclasses.replace(wrong[0], rewards={"correct": 0.0})
    _, _, said = graded(run, stamped(wrong, mix=0.0), sets)
    want = np.array([-1.49997, 0.49999, 0.49999, 0.49999])
    np.testing.assert_allclose(said["advantage"][:4, 0], want, atol=6e-6)  # five decimals


@pytest.mark.parametrize(
    ("options", "want"),
    [({}, [0.5, 0.25, 0.0]), ({"negative": "policy"}, [0.25, 0.0, 0.0]),
     ({"mix_rounds": None}, [0.5, 0.5, 0.5])],
)  # fmt: skip
def test_the_mix_falls_to_where_no_teacher_is_asked(run, options, want):
    recipe = make(**{"mix_rounds": 2, **options})
    for index, mix in enumerate(want):
        state = dataclasses.replace(run.state, counters={**run.state.counters, "round": index})
        found = recipe.collect(run.bench.lab(state.params), state, None)["policy"]
        assert {row.info["tally"]["mix"] for row in found} == {mix}
        scored = [dataclasses.replace(r, rewards={"c": n % 2}) for n, r in enumerate(found)]
        table = prepare(scored, recipe.objectives[0], 4, run.bench.model.tokenizer)
        assert table.batch.present["right"].all() == (mix > 0)
        assert table.batch.present["right"].any() == (mix > 0)


@pytest.mark.parametrize(
    "options", [{"mix": 1.1}, {"evidence_clip": -0.1}, {"mix": 1.0, "evidence_clip": 1.0}]
)
def test_weights_that_would_turn_an_advantage_are_refused(options):
    with pytest.raises(ValueError, match="would turn an advantage round"):
        cepo(**options)
