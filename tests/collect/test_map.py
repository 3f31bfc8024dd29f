"""`lab.map`: rows in any number, gradients by question, and what Adam would make of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo import step
from jaxevo.collect.readings import answer_logp, influence, objective_gradient
from jaxevo.collect.table import by_group
from jaxevo.models import decoder
from jaxevo.optimizers import adam_moments
from jaxevo.recipes.grpo import grpo
from jaxevo.run.build import build_run
from jaxevo.run.options import RunOptions
from jaxevo.types import bind

OPTIONS = RunOptions(model="tiny", prompts=4, samples=3, max_new_tokens=4, control="random")


@pytest.fixture(scope="module")
def run(tiny_model):
    return build_run(grpo(learning_rate=1e-3), OPTIONS, model=tiny_model)


@pytest.fixture(scope="module")
def lab(run):
    return run.bench.lab(run.state.params, learner=run.learner)


@pytest.fixture(scope="module")
def rows(lab):
    return lab.verify(lab.sample(lab.tasks()))


def flat(tree):
    return np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(tree)])


def test_any_number_of_rows_is_read_in_order(lab, run, rows):
    (objective,) = run.recipe.objectives
    read = bind(answer_logp)
    whole = lab.map(read, rows, like=objective)
    sampled = [float(row.answer[0].logp.sum()) for row in rows]
    np.testing.assert_allclose(whole, sampled, atol=1e-4)  # float32 sums of four log-probs
    more = lab.map(read, [*rows, *rows[:5]], like=objective)
    np.testing.assert_allclose(more, [*whole, *whole[:5]], atol=1e-5)
    np.testing.assert_allclose(lab.map(read, rows[2:3], like=objective), whole[2:3], atol=1e-5)


def plain_loss(params, config, rows):
    """The policy-gradient loss of one question by one plain forward per answer, no packing."""
    rewards = np.array([row.reward for row in rows])
    scale = rewards.std(ddof=1) + 1e-6 if np.ptp(rewards) else 1.0
    total, tokens = 0.0, 0
    for row, advantage in zip(rows, (rewards - rewards.mean()) / scale, strict=True):
        ids = np.concatenate([row.prompt_ids, row.answer_ids])
        S, start = len(ids), len(row.prompt_ids)
        hidden, _ = decoder.apply(
            config, params, ids[None], np.arange(S)[None], jnp.tri(S, dtype=bool)[None]
        )
        logp = jax.nn.log_softmax(hidden[0] @ decoder.unembed(config, params))
        taken = logp[np.arange(start - 1, S - 1), ids[start:]]
        total, tokens = total - advantage * taken.sum(), tokens + len(taken)
    return total / tokens


@pytest.mark.slow
def test_the_gradient_of_each_question_is_that_of_autodiff(lab, run, rows, tiny_model):
    (objective,) = run.recipe.objectives
    fn = bind(objective_gradient, objective=objective)
    gradients = lab.map(fn, rows, like=objective, by="groups")
    largest = 0.0
    for g, group in enumerate(by_group(rows).values()):
        loss = functools.partial(plain_loss, config=tiny_model.config, rows=group)
        wanted = jax.jit(jax.grad(loss))(run.state.params["policy"])
        got = jax.tree.map(lambda x, g=g: x[g], gradients)
        largest = max(largest, np.abs(flat(wanted)).max())
        np.testing.assert_allclose(flat(got), flat(wanted), atol=2e-6)  # float32, other order
        if len({row.reward for row in group}) == 1:
            assert np.abs(flat(got)).max() == 0
    assert largest > 1e-3, "no question with a gradient: the test says nothing"


def test_influence_reads_the_live_moments_of_adam(lab, run, rows, tiny_model):
    (objective,) = run.recipe.objectives
    state, learner = run.state, run.learner
    copied = dataclasses.replace(
        state, params=jax.tree.map(jnp.copy, state.params),
        optimizer=jax.tree.map(jnp.copy, state.optimizer),
    )  # fmt: skip
    stepped, _ = step.learn(
        objective, learner, lab.tokenizer, copied, rows, np.random.default_rng(0)
    )
    nu, count = adam_moments(stepped.optimizer["policy"])
    assert int(count) == 1
    lab = run.bench.lab(stepped.params, learner=learner)
    fn = bind(objective_gradient, objective=objective)
    gradients = lab.map(fn, rows, like=objective, by="groups")
    reference = jax.tree.map(lambda x: x.sum(0), gradients)
    got = lab.map(
        bind(influence, objective=objective), rows, like=objective, by="groups",
        operands=(reference, nu, count),
    )  # fmt: skip
    v, ref = flat(nu).astype(np.float64), flat(reference).astype(np.float64)
    for g in range(len(got)):
        grad = flat(jax.tree.map(lambda x, g=g: x[g], gradients)).astype(np.float64)
        moved = 0.999 * v + 0.001 * grad**2
        direction = grad / (np.sqrt(moved / (1 - 0.999**2)) + 1e-8)
        norms = max(np.linalg.norm(direction), 1e-12) * np.linalg.norm(ref)
        assert got[g] == pytest.approx(direction @ ref / norms, abs=1e-5)
    assert np.ptp(got) > 0.1


def test_a_lab_that_only_samples_says_so(run, rows):
    lab = run.bench.lab(run.state.params)
    with pytest.raises(ValueError, match="samples only; map needs the lab of a training run"):
        lab.map(bind(answer_logp), rows, like=run.recipe.objectives[0])
