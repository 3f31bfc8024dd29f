"""What its card says of SRPO by sample routing, on a random model."""

import dataclasses

import jax
import numpy as np
import pytest
from cases import Case

from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.recipes.srpo_routing import srpo_routing

REWARDS = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 1]]
TAUGHT = [0, 2, 3, 13]

pytestmark = pytest.mark.slow


def make(**options):
    return srpo_routing(context_tokens=24, distill_top_k=None, **options)


@pytest.fixture(scope="module")
def run(start):
    return start(Case("srpo-routing", make))


@pytest.fixture(scope="module")
def rows(run, marked):
    return marked(run, REWARDS)


@pytest.fixture(scope="module")
def sets(run, moved):
    start = run.state.params["policy"]
    return {"policy": moved(start, 1), "teacher": moved(start, 2)}


@pytest.fixture(scope="module")
def found(run, rows, sets, graded):
    return graded(run, rows, sets)


def tokens(rows):
    return sum(len(row.answer_ids) for row in rows)


def largest(gradient):
    return max(float(abs(x).max()) for x in jax.tree.leaves(gradient))


def test_each_row_has_one_of_two_losses_over_all_tokens(start, run, rows, sets, found, graded):
    value, _, signals = found
    plain = start(Case("grpo", lambda: grpo(scale="none", clip_high=0.28)))
    _, _, policy = graded(plain, rows, sets)
    (objective,) = sdpo(context_tokens=24, distill_top_k=None).objectives
    _, _, distilled = graded(run, rows, sets, objective)
    taught = np.isin(np.arange(16), TAUGHT)[:, None]
    want = np.where(taught, 0.0, policy["policy"])
    np.testing.assert_allclose(signals["policy"], want, rtol=1e-5, atol=1e-7)
    weight = signals["distill_weight"]
    want = np.where(taught, distilled["distill"] * weight, 0.0)
    np.testing.assert_allclose(signals["distill"], want, rtol=1e-5, atol=1e-7)
    total = (signals["policy"] + signals["distill"]).sum() / tokens(rows)
    assert value == pytest.approx(total, abs=1e-6)
    assert signals["policy"][[12, 14, 15]].any()
    count = tokens(rows[n] for n in TAUGHT)
    assert weight.sum() == pytest.approx(count, rel=1e-5)  # their mean is 1
    assert weight[TAUGHT].std() > 0


def test_groups_that_are_all_wrong_or_all_right_teach_nothing(run, rows, sets, graded):
    equal = [row for n, row in enumerate(rows) if 4 <= n < 12]
    value, gradient, _ = graded(run, equal, sets)
    assert value == 0.0
    assert largest(gradient) == 0.0
    some = [dataclasses.replace(r, rewards={"correct": n / 40}) for n, r in enumerate(equal)]
    _, gradient, _ = graded(run, some, sets)  # all wrong, with rewards that differ
    assert largest(gradient) > 1e-3


def test_without_solutions_it_is_grpo(start, run, rows, sets, graded):
    bare = make(success=2.0).objectives[0]
    value, gradient, _ = graded(run, rows, sets, bare)
    plain = start(Case("grpo", lambda: grpo(scale="none", clip_high=0.28)))
    want, like, _ = graded(plain, rows, sets)
    assert value == pytest.approx(want, abs=1e-7)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), gradient, like
    )


def test_with_a_teacher_for_every_row_and_equal_weights_it_is_sdpo(run, rows, sets, graded):
    told = [
        dataclasses.replace(row, rewards={"correct": 0.0}, feedback="The answer is 12.")
        for row in rows
    ]
    routed = make(beta=0.0, feedback="always").objectives[0]
    alone = sdpo(context_tokens=24, distill_top_k=None, feedback="always").objectives[0]
    value, gradient, _ = graded(run, told, sets, routed)
    want, like, _ = graded(run, told, sets, alone)
    assert value == pytest.approx(want, rel=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient, like
    )
