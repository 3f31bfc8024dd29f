"""What its card says of iGRPO, on a random model."""

import dataclasses
import itertools
import math
import string

import jax
import numpy as np
import pytest
from cases import Case

from jaxevo.collect.lab import RolloutConfig
from jaxevo.collect.refine import best_of, draft_then_refine, refinement_sizes, with_draft
from jaxevo.collect.table import by_group, tabulate
from jaxevo.models.tokenizer import CharTokenizer
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.igrpo import igrpo
from jaxevo.run.metrics import round_metrics
from jaxevo.sampling.sampler import Sampling
from jaxevo.tasks.told import CHAT_DRAFT
from jaxevo.types import Message, Row, Task

DRAFTS = 3
REWARDS = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]


def drafts_of(rewards):
    task = Task("t", (), "")
    return [Row(n, task, 0, (), rewards=own) for n, own in enumerate(rewards)]


# ---------------------------------------------------------------------------- the best draft
def test_the_first_of_the_best_is_chosen():
    assert best_of(drafts_of([{"correct": r} for r in (0, 1, 1, 0)])).uid == 1
    assert best_of(drafts_of([{"correct": 0.0}] * 4)).uid == 0
    tied = [{"correct": 0.0, "form": 1.0}, {"correct": 1.0, "form": 0.0}]
    assert best_of(drafts_of(tied)).uid == 1


@pytest.mark.parametrize(
    ("chance", "drafts", "want"), [(0.1, 4, 0.3439), (0.3, 4, 0.7599), (0.0, 4, 0.0), (0.3, 1, 0.3)]
)
def test_the_best_of_n_is_right_with_one_minus_all_wrong(chance, drafts, want):
    """Over all outcomes; a form that is kept by chance does not change it."""
    form, found = 0.6, 0.0
    for drawn in itertools.product(itertools.product((0, 1), repeat=2), repeat=drafts):
        weight = math.prod(
            (chance if right else 1 - chance) * (form if kept else 1 - form)
            for right, kept in drawn
        )
        rows = drafts_of([{"correct": right, "form": kept} for right, kept in drawn])
        found += weight * best_of(rows).accuracy
    assert found == pytest.approx(want, abs=1e-12)


# ---------------------------------------------------------------------------- what is shown
def test_a_long_draft_loses_its_beginning():
    letters = CharTokenizer(string.printable)
    task = Task("t", (Message("system", "Be brief."), Message("user", "What is {7}+8?")), "15")
    draft = "It {is} fifteen"
    whole = CHAT_DRAFT.format(question="What is {7}+8?", draft=draft)
    for most in range(len(draft) + 3):
        told, cut = with_draft(task, draft, letters, layout=CHAT_DRAFT, most=most)
        kept = draft[max(0, len(draft) - most) :]
        assert told.messages == (task.messages[0], Message("user", whole.replace(draft, kept)))
        assert cut == (most < len(draft))
    room = refinement_sizes(
        RolloutConfig(3, 4, 9, Sampling()), 20, letters, layout=CHAT_DRAFT, draft_tokens=7
    )
    form = len(CHAT_DRAFT.format(question="", draft=""))
    assert room.context == 20 + form + 7
    assert room.objectives["policy"].slots == room.context + 4 * 8


class Joining(CharTokenizer):
    """A question's last two tokens are one, unless something comes behind them."""

    def render(self, messages, *, template=None):
        ids = super().render(messages)
        return ids[:-1] if ids[-2:] == self.encode("==") else ids


def test_a_draft_without_any_room_is_left_out():
    tokens, task = Joining("0123=?"), Task("t", (Message("user", "1=="),), "")
    assert with_draft(task, "3", tokens, layout="{question}{draft}?", most=0) == (task, True)
    told, cut = with_draft(task, "23", tokens, layout="{question}{draft}?", most=2)
    assert (told.messages[0].content, cut) == ("1==3?", True)


def test_options():
    with pytest.raises(ValueError, match="--drafts is 0, but must be at least 1"):
        igrpo(drafts=0)
    other = {
        "learning_rate": 1e-3, "warmup_updates": 5, "weight_decay": 0.1, "max_grad_norm": 2.0,
        "drafts": 2, "draft_tokens": 7, "clip_low": 0.1, "clip_high": 0.28, "dual_clip": 3.0,
        "level": "sequence", "scale": "none", "reduction": "token_mean", "kl_weight": 0.1,
        "entropy_weight": 0.1, "correction": "token", "correction_cap": 3.0,
        "correction_floor": 0.1, "drop_above": 1.0, "truncation": "ignore", "epochs": 2,
        "minibatches": 2,
    }  # fmt: skip
    recipes = [igrpo(), *(igrpo(**{name: value}) for name, value in other.items())]
    assert len({repr(recipe) for recipe in recipes}) == len(recipes)
    assert len(igrpo(kl_weight=0.1).params) == 2


# ---------------------------------------------------------------------------- on a model
@pytest.fixture(scope="module")
def run(start):
    return start(Case("igrpo", lambda: igrpo(drafts=DRAFTS, learning_rate=1e-3)))


@pytest.fixture(scope="module")
def collected(run):
    """The lab of a round, and the rows that it is learnt from."""
    lab = run.bench.lab(run.state.params)
    return lab, run.recipe.collect(lab, run.state, run.memory)["policy"]


def drafts_by_problem(lab):
    drafts = [row for row in lab.sampled.values() if row.role == "draft"]
    return list(by_group(drafts).values())


@pytest.mark.slow
def test_answers_are_given_behind_the_best_draft(run, collected):
    lab, rows = collected
    tried, groups = drafts_by_problem(lab), list(by_group(rows).values())
    assert [len(group) for group in tried] == [DRAFTS] * 4
    assert [len(group) for group in groups] == [4] * 4
    assert len(lab.sampled) == 4 * (DRAFTS + 4)
    plain = [lab.source.train(n).messages[-1].content for n in range(4)]
    for question, drafts, group in zip(plain, tried, groups, strict=True):
        best = next(r for r in drafts if r.reward == max(d.reward for d in drafts))
        assert {lab.tokenizer.text(r.prompt_ids.tolist()) for r in drafts} == {question}
        told = f"{question}{lab.answer_text(best).strip()}?"
        assert {lab.tokenizer.text(r.prompt_ids.tolist()) for r in group} == {told}
        assert {row.task.uid for row in group} == {best.task.uid}
    assert {len(lab.tokenizer.render(r.task.messages)) for r in rows} <= set(
        range(run.bench.sampler.prompt_slots + 1)
    )


@pytest.mark.slow
def test_what_is_counted(collected):
    lab, rows = collected
    tried, groups = drafts_by_problem(lab), list(by_group(rows).values())
    found = {name: [] for name in ("kept", "corrected", "copied", "dead_group")}
    for drafts, group in zip(tried, groups, strict=True):
        best = best_of(drafts)
        for row in group:
            tally = row.info["tally"]
            assert tally["best_draft_right"] == (best.reward == 1.0)
            found["kept" if best.reward else "corrected"].append(row.reward)
            same = lab.answer_text(row).strip() == lab.answer_text(best).strip()
            found["copied"].append(same)
            assert not same or tally["draft_overlap"] == 1.0
            found["dead_group"].append(len({r.reward for r in group}) == 1)
    metrics = round_metrics(list(lab.sampled.values()), {}, 0)
    for name, values in found.items():
        if values:
            assert metrics[f"tally/{name}"] == pytest.approx(np.mean(values))
    right = [row.reward for drafts in tried for row in drafts]
    assert metrics["tally/draft_right"] == pytest.approx(np.mean(right))
    assert metrics["tally/best_draft_right"] == np.mean([max(r.reward for r in d) for d in tried])
    assert metrics["tally/draft_cut"] == 0.0


@pytest.mark.slow
def test_drafts_are_not_learnt_from(run, drive, collected):
    """Neither as rows, nor as the part of a prompt that they become."""
    params, optimizer = jax.tree.map(
        lambda x: x.copy(), (run.state.params, run.state.optimizer)
    )  # an update takes them
    _, _, _, (records,) = drive(run, 1, run.state.replace(params=params, optimizer=optimizer))
    roles = {record["role"]: [] for record in records}
    for record in records:
        roles[record["role"]].append(record)
    assert len(roles["draft"]) == 4 * DRAFTS
    assert all(not r["trained"] and r["advantage"] is None for r in roles["draft"])
    assert all(r["trained"] for r in roles["policy"])
    _, rows = collected
    mask_NA = tabulate(rows, answer_slots=4).batch.answers["text"].mask_NA
    assert mask_NA.sum() == sum(row.sampled_tokens for row in rows)


@pytest.mark.slow
def test_advantages_are_of_the_answers_to_one_draft(run, marked):
    rows = marked(run, REWARDS)
    (objective,) = run.recipe.objectives
    advantage_N = np.asarray(objective.advantage(tabulate(rows, answer_slots=4).batch))
    half = 0.5 / (1 / 3) ** 0.5  # of [0, 1, 1, 0] with ddof 1
    want = [[1.5, -0.5, -0.5, -0.5], [0] * 4, [0] * 4, [-half, half, half, -half]]
    # 1e-6 is added to stds of 0.5 and 0.577
    np.testing.assert_allclose(advantage_N.reshape(4, 4), want, atol=5e-6)


@pytest.mark.slow
def test_with_one_draft_that_is_not_shown_it_is_grpo(run, moved, graded):
    """The same prompts and answers, the same loss and gradient."""
    lab = run.bench.lab(run.state.params)
    own = draft_then_refine(lab, None, None, drafts=1, layout="{question}")["policy"]
    lab = run.bench.lab(run.state.params)
    tasks = lab.tasks()
    lab.sample(tasks, samples=1)
    rows = lab.attempt(tasks)
    assert [row.uid for row in own] == [row.uid for row in rows]
    for one, other in zip(own, rows, strict=True):
        np.testing.assert_array_equal(one.prompt_ids, other.prompt_ids)
        np.testing.assert_array_equal(one.answer_ids, other.answer_ids)
        assert one.reward == other.reward
    sets = {"policy": moved(run.state.params["policy"], 1)}
    (plain,) = grpo(reduction="seq_mean_token_mean").objectives
    value, gradient, _ = graded(run, own, sets)
    want, like, _ = graded(run, rows, sets, plain)
    assert value == pytest.approx(want, abs=1e-7)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), gradient, like
    )
    assert max(float(abs(x).max()) for x in jax.tree.leaves(gradient)) > 1e-3


@pytest.mark.slow
def test_ratios_are_those_of_the_prompt_with_the_draft(run, collected, graded):
    """What the trainer says under q' is what the sampler said; under q it is something else."""
    _, rows = collected
    _, _, signals = graded(run, rows, run.state.params)
    plain = [dataclasses.replace(row, segments=(bare(row), *row.answer)) for row in rows]
    _, _, otherwise = graded(run, plain, run.state.params)
    for n, row in enumerate(rows):
        (answer,) = row.answer
        count = len(answer.ids)
        np.testing.assert_allclose(signals["logp"][n, :count], answer.logp, atol=1e-4)
        assert np.abs(otherwise["logp"][n, :count] - answer.logp).max() > 1e-2


def bare(row):
    """The prompt without the draft: up to the equals sign of the question."""
    (prompt,) = (s for s in row.segments if s.source == "prompt")
    end = prompt.ids.tolist().index(2 + "0123456789+-*=".index("=")) + 1
    return dataclasses.replace(prompt, ids=prompt.ids[:end])
