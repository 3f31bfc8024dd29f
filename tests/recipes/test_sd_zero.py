"""What its card says of SD-Zero, on a random model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case

from jaxevo.models import decoder
from jaxevo.recipes.sd_zero import sd_zero
from jaxevo.teachers import Context, own_attempt
from jaxevo.types import bind

pytestmark = pytest.mark.slow
CONTEXT = 24


def make(**options):
    return sd_zero(context_tokens=CONTEXT, distill_top_k=None, **options)


@pytest.fixture(scope="module")
def run(start):
    return start(Case("sd-zero", make))


@pytest.fixture(scope="module")
def sets(run, moved):
    start = run.state.params["policy"]
    return {"policy": moved(start, 1), "teacher": moved(start, 2)}


@pytest.fixture(scope="module")
def revised(run):
    """The rows of a first round, and all that it sampled."""
    lab = run.bench.lab(run.state.params)
    return run.recipe.collect(lab, run.state, run.memory)["revise"], lab.sampled


@pytest.fixture(scope="module")
def attempts(revised):
    """Verified answers, and the end-of-turn token is there on some."""
    return [row for row in revised[1].values() if row.parent is None]


def own_prompt(row, siblings, tokenizer, *, max_prompt_tokens):
    return Context(list(row.prompt_ids))


def test_a_revision_goes_on_behind_the_phrase_for_its_attempts_outcome(run, revised):
    tokenizer = run.bench.model.tokenizer
    kept, sampled = revised
    tried = [row for row in sampled.values() if row.parent is not None]
    assert len(tried) == 4 * 4 * 3
    for row in tried:
        parent = sampled[row.parent]
        attempt, phrase, revision = row.answer
        ended = parent.answer_ids[-1] in tokenizer.eos_ids
        assert attempt.ids.tolist() == parent.answer_ids[: len(parent.answer_ids) - ended].tolist()
        assert tokenizer.text(phrase.ids.tolist()) == ("=" if parent.reward else "?")
        assert [s.source for s in row.answer] == ["forced", "forced", "policy"]
        marks = row.by_token["revision"]
        assert marks.sum() == len(revision.ids)
        assert marks[len(attempt.ids) + len(phrase.ids) :].all()
        assert row.info["tally"]["attempt_right"] == parent.reward
    assert kept
    assert all(row.reward == 1.0 and row.info["finish"] != "length" for row in kept)
    for group in {row.group for row in kept}:
        assert sum(row.group == group for row in kept) <= 3
    right = sum(row.info["tally"]["attempt_right"] for row in kept)
    assert 2 * right <= len(kept)


def test_the_losses_of_a_trace_are_sums_over_its_parts(run, revised, sets, graded):
    kept, _ = revised
    objective = run.recipe.objectives[0]
    value, _, signals = graded(run, kept, sets, objective)
    rest = 0.0
    for n, row in enumerate(kept):
        ends = np.cumsum([len(s.ids) for s in row.answer])
        nll = -signals["logp"][n]
        parts = [part.sum() for part in np.split(nll[: ends[-1]], ends[:-1])]
        whole, again = signals["generate"][n].sum(), signals["revise"][n].sum()
        assert whole == pytest.approx(sum(parts), rel=1e-5)
        assert again == pytest.approx(parts[2], rel=1e-5)
        assert whole + again == pytest.approx(parts[0] + parts[1] + 2 * parts[2], rel=1e-5)
        rest += ends[-1]
    tokens = sum(row.sampled_tokens for row in kept)
    want = signals["generate"].sum() / rest + signals["revise"].sum() / tokens
    assert value == pytest.approx(want, rel=1e-5)  # two means over tokens


def test_the_outcome_changes_the_phrase_alone(run, attempts):
    tokenizer = run.bench.model.tokenizer
    for row in attempts:
        right, wrong = (
            own_attempt(
                dataclasses.replace(row, rewards={"correct": r}), [], tokenizer,
                max_prompt_tokens=CONTEXT,
            ).ids
            for r in (1.0, 0.0)
        )  # fmt: skip
        assert right[:-1] == wrong[:-1]
        assert (right[-1], wrong[-1]) == tuple(tokenizer.encode("=?"))


def test_a_long_attempt_loses_its_middle(run, attempts):
    row = next(row for row in attempts if len(row.answer_ids) == 4)
    prompt = len(row.prompt_ids)
    found = own_attempt(row, [], run.bench.model.tokenizer, max_prompt_tokens=prompt + 3)
    first, *_, last = row.answer_ids.tolist()
    ended = last in run.bench.model.tokenizer.eos_ids
    assert found.cut
    assert found.ids[prompt:-1] == [first, row.answer_ids[2] if ended else last]
    none = own_attempt(row, [], run.bench.model.tokenizer, max_prompt_tokens=prompt + 1)
    assert none is None


def test_the_teacher_scores_the_attempt_behind_itself(run, attempts, sets, graded):
    """Token t stands at |x| + |y'| + |P| + t of what the teacher reads."""
    objective, config = run.recipe.objectives[1], run.learner.forward
    _, _, signals = graded(run, attempts, sets, objective)
    config = dict(config.options)["config"]
    for n in (0, 5, 11):
        row = attempts[n]
        told = own_attempt(row, [], run.bench.model.tokenizer, max_prompt_tokens=CONTEXT).ids
        for who, prompt in (("policy", row.prompt_ids), ("teacher", told)):
            ids = np.array([*prompt, *row.answer_ids])
            S = len(ids)
            hidden, _ = decoder.apply(
                config, sets[who], ids[None], np.arange(S)[None], jnp.tri(S, dtype=bool)[None]
            )
            logp = jax.nn.log_softmax(hidden[0] @ decoder.unembed(config, sets[who]))
            want = logp[np.arange(len(prompt) - 1, S - 1), row.answer_ids]
            count = len(row.answer_ids)
            said = signals["logp"][n, :count]
            said = said + signals["teacher_advantage"][n, :count] if who == "teacher" else said
            np.testing.assert_allclose(said, want, atol=2e-5)  # float32, packed or not


@pytest.mark.parametrize("kind", ["reverse", "mixed"])
def test_an_identity_teacher_teaches_nothing(run, attempts, sets, graded, kind):
    objective = make(kind=kind).objectives[1]
    (view,) = objective.views
    context = bind(own_prompt, max_prompt_tokens=CONTEXT)
    same = dataclasses.replace(objective, views=(dataclasses.replace(view, context=context),))
    value, gradient, _ = graded(run, attempts, {**sets, "teacher": sets["policy"]}, same)
    # float32 sums over the vocabulary of terms that cancel
    assert value == pytest.approx(0.0, abs=1e-6)
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) < 1e-5


def test_the_teacher_is_the_policy_after_the_first_stage(start, drive):
    run = start(Case("sd-zero", lambda: make(
        revision_rounds=1, revision_learning_rate=1e-3, learning_rate=1e-3, warmup_updates=0,
    )))  # fmt: skip
    state, memory, _, _ = drive(run, 1)
    first = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, first["policy"], first["teacher"])
    state, _, (metrics,), _ = drive(run, 1, state, memory)
    second = jax.device_get(state.params)
    jax.tree.map(np.testing.assert_array_equal, second["teacher"], first["teacher"])
    moved = [np.abs(a - b).max() for a, b in zip(
        jax.tree.leaves(second["policy"]), jax.tree.leaves(first["policy"]), strict=True
    )]  # fmt: skip
    assert max(moved) > 0
    assert metrics["context/teacher"] == 1.0
