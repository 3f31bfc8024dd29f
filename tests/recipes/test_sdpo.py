"""What its card says of SDPO, on a random model; worked numbers are in the tests of kernels."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import Case

from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.teachers import Context, teacher
from jaxevo.types import bind

REWARDS = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]
FEEDBACK = {4: "The answer is 12.", 5: "The answer is 12."}  # on two attempts of the second group
TAUGHT = [0, 2, 3, 4, 5, 8, 9, 10, 11]

pytestmark = pytest.mark.slow


def own_prompt(row, siblings, tokenizer):
    return Context(list(row.prompt_ids))


def case(**options):
    return Case("sdpo", lambda: sdpo(context_tokens=24, distill_top_k=None, **options))


@pytest.fixture(scope="module")
def run(start):
    return start(case())


@pytest.fixture(scope="module")
def rows(run, marked):
    return marked(run, REWARDS, FEEDBACK)


@pytest.fixture(scope="module")
def sets(run, moved):
    start = run.state.params["policy"]
    return {"policy": moved(start, 1), "teacher": moved(start, 2), "reference": start}


def test_rows_without_a_context_teach_nothing(run, rows, sets, graded):
    loss, _, signals = graded(run, rows, sets)
    said = signals["distill"]
    assert [n for n in range(16) if said[n].any()] == TAUGHT
    tokens = sum(len(rows[n].answer_ids) for n in TAUGHT)
    assert loss == pytest.approx(said.sum() / tokens, rel=1e-6)
    silent = [dataclasses.replace(row, feedback="") for row in rows if row.group == rows[4].group]
    value, none, _ = graded(run, silent, sets)
    assert value == 0.0
    assert not any(np.any(x) for x in jax.tree.leaves(none))
    told = [row for row in rows if row.group == rows[4].group]
    _, some, _ = graded(run, told, sets)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(some)) > 1e-3


def test_grpo_learns_nothing_where_feedback_teaches(start, rows, sets, graded):
    run = start(Case("grpo", lambda: grpo()))
    told = [row for row in rows if row.group == rows[4].group]
    value, gradient, _ = graded(run, told, sets)
    assert value == 0.0
    assert not any(np.any(x) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize("kind", ["reverse", "forward", "js", "sampled"])
def test_its_own_prompt_and_weights_teach_nothing(run, rows, sets, graded, kind):
    recipe = sdpo(kind=kind, teacher_weights="live", distill_top_k=None)
    (objective,) = recipe.objectives
    (view,) = objective.views
    same = dataclasses.replace(
        objective, views=(dataclasses.replace(view, context=bind(own_prompt)),)
    )
    value, gradient, _ = graded(run, rows, sets, same)
    # float32 sums over the vocabulary of terms that cancel
    assert value == pytest.approx(0.0, abs=1e-6)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e-5


def test_which_weights_the_teacher_has(run, rows, sets, graded, start):
    def loss(weights, **changes):
        context = run.recipe.objectives[0].views[0].context
        view = teacher(weights, context=context, rate=0.3).view
        objective = dataclasses.replace(run.recipe.objectives[0], views=(view,))
        return graded(run, rows, {**sets, **changes}, objective)[0]

    live, average = loss("live"), loss("ema")
    assert loss("ema", teacher=sets["policy"]) == pytest.approx(live, rel=1e-6)
    # A geometric mixture with itself is itself.
    assert loss("trust_region", reference=sets["policy"]) == pytest.approx(live, rel=1e-5)
    assert len({round(x, 6) for x in (live, average, loss("trust_region"))}) == 3


def test_the_policy_term_is_grpos_in_its_share(start, rows, sets, graded, run):
    both = start(case(policy_weight=0.3))
    value, _, signals = graded(both, rows, sets)
    distilled, _, alone = graded(run, rows, sets)
    np.testing.assert_allclose(signals["distill"], alone["distill"], rtol=1e-5, atol=1e-8)
    plain = start(Case("grpo", lambda: grpo(scale="none")))
    policy, _, _ = graded(plain, rows, sets)
    assert value == pytest.approx(0.3 * policy + 0.7 * distilled, abs=1e-6)


def test_kl_and_entropy_are_on_all_rows(start, rows, sets, graded, run):
    full = start(case(kl_weight=0.1, entropy_weight=0.01, teacher_weights="frozen"))
    assert full.recipe.objectives[0].idle is None
    assert sorted(full.state.params) == ["policy", "reference"]
    _, _, signals = graded(full, rows, sets)
    for n, row in enumerate(rows):
        count = len(row.answer_ids)
        assert (signals["kl"][n, :count] > 0).all()
        assert (signals["entropy"][n, :count] < 0).all()


def test_old_weights_bound_the_divergence(run, rows, sets, graded):
    first = run.recipe.objectives[0]
    later = sdpo(context_tokens=24, distill_top_k=None, ratio_cap=0.5).objectives[0]
    value, _, _ = graded(run, rows, sets, first)
    halved, _, _ = graded(run, rows, sets, later)
    assert halved == pytest.approx(0.5 * value, rel=1e-5)  # of the first update the ratio is 1
