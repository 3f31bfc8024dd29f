"""Questions by one set, answers by another: what is asked, what is rewarded, what is remembered."""

import dataclasses

import numpy as np
import pytest

from jaxevo.collect.propose_then_solve import (
    Questions,
    mixed,
    next_problems,
    proposal_reward,
    remember_questions,
)
from jaxevo.collect.table import by_group
from jaxevo.collect.waves import read_answers
from jaxevo.recipes.ttcs import ttcs
from jaxevo.rewards import agreement, bell, consistency, copied, repeated
from jaxevo.run.build import build_run
from jaxevo.run.options import RunOptions
from jaxevo.tasks.proposer import read_question
from jaxevo.types import Message, Row, Segment, Task

pytestmark = pytest.mark.slow  # they compile a model

OPTIONS = RunOptions(
    model="tiny", task="add2", prompts=4, samples=8, max_new_tokens=6, eval_problems=0
)
SIZES = {"references": 16, "variants": 8, "votes": 4, "written": 16, "question_tokens": 9}
SCHEDULE = {"synthesizer_rounds": 2, "solver_rounds": 3}
PLAIN = {"synthesizer_rounds": 0, "written": 0, "oversample": 1, "band": (0.0, 1.0)}


@pytest.fixture(scope="module")
def build(tiny_model):
    """build(**options of the recipe) -> Run."""

    def make(**changes):
        return build_run(ttcs(**{**SIZES, **SCHEDULE, **changes}), OPTIONS, model=tiny_model)

    return make


def collected(run, round_index=0, memory=None, position=0):
    """The experience of a round, and the lab that gathered it."""
    lab = run.bench.lab(
        run.state.params, learner=run.learner, round_index=round_index, position=position
    )
    state = run.state.replace(counters={**run.state.counters, "round": round_index})
    return run.recipe.collect(lab, state, run.memory if memory is None else memory), lab


@pytest.fixture(scope="module")
def proposed(build):
    run = build()
    return collected(run), run


# ---------------------------------------------------------------------------- the writer's reward
def test_worked_rewards():
    assert proposal_reward(0.5, repetition=0.25) == 0.75
    worked = proposal_reward(0.3, copy=0.9, repetition=0.05)
    assert worked == pytest.approx(0.031121, abs=5e-7)
    for share in (0.0, 0.2, 0.5, 1.0):  # a batch of identical questions
        assert proposal_reward(share, repetition=1.0) == 0.0


def test_questions_are_rewarded_for_dividing_the_solver(proposed):
    (experience, lab), _ = proposed
    assert list(experience) == ["synthesizer"]
    rows = experience["synthesizer"]
    assert len(rows) == 16 * 8
    texts = [row.info["question"] for row in rows]
    penalty = repeated(texts)
    voters = list(by_group(row for row in lab.sampled.values() if row.role == "voter").values())
    assert len(voters) == sum(map(bool, texts)) > 8
    found = iter(voters)
    for row, text, repetition in zip(rows, texts, penalty, strict=True):
        reference = row.task.info["reference"]
        assert row.task.messages == (Message("user", reference + "?"),)
        assert lab.source.train(row.task.info["position"]).messages[0].content == reference
        assert text in ("", read_question(lab.answer_text(row), chat=False))
        if not text:
            assert row.reward == 0.0
            continue
        group = next(found)
        assert len(group) == 4
        assert {r.task.messages for r in group} == {(Message("user", text),)}
        share = consistency(read_answers(lab, group))
        copy = copied(reference, text)
        assert row.reward == pytest.approx(max(0, bell(share) * (1 - copy) - repetition))
        assert lab.sampled[row.uid] == row
    assert len({row.reward for row in rows}) >= 3


def test_novelty_and_repetition_can_be_left_out(build, proposed):
    (with_both, _), _ = proposed
    (without, _) = collected(build(novelty=False, repetition=False))
    changed = 0
    for row, other in zip(with_both["synthesizer"], without["synthesizer"], strict=True):
        assert other.info["question"] == row.info["question"]
        assert other.reward == pytest.approx(bell(row.info["consistency"]))
        changed += row.reward < other.reward
    assert changed > 8


def test_a_question_that_is_too_long_is_none(build):
    (experience, _) = collected(build(question_tokens=4))
    texts = [row.info["question"] for row in experience["synthesizer"]]
    assert {len(text) for text in texts} == {0, 4}
    (longer, _) = collected(build(question_tokens=9))
    assert max(len(row.info["question"]) for row in longer["synthesizer"]) > 4


# ---------------------------------------------------------------------------- memory
def written(position, reference, question):
    task = Task("variation", (Message("user", "?"),), "", {})
    task = dataclasses.replace(task, info={"reference": reference, "position": position})
    segments = (Segment(np.array([3]), "prompt"),)
    return Row(position, task, position, segments, info={"question": question})


def test_references_alternate_with_as_many_written_questions_each_once():
    rows = [
        written(0, "a", "new 1"),
        written(1, "b", "a"),  # a reference
        written(2, "a", ""),  # unreadable, after a reference met before
        written(3, "b", "new 1"),
        written(4, "a", "new 2"),
        written(5, "b", "new 3"),
    ]
    assert mixed(rows).entries == ((0, ""), (0, "new 1"), (1, ""), (4, "new 2"), (5, "new 3"))
    few = mixed([written(0, "a", "new"), written(1, "b", ""), written(2, "c", "")])
    assert few.entries == ((0, ""), (0, "new"), (1, ""), (2, ""))


def test_memory_counts_what_was_asked_and_starts_anew_with_new_questions():
    rows = [written(n, f"r{n}", f"q{n}") for n in range(3)]
    asked = [dataclasses.replace(row, uid=n, group=n // 2) for n, row in enumerate(rows * 2)]
    memory = remember_questions(Questions((), 5), {"written": rows, "asked": asked})
    assert (len(memory.entries), memory.asked) == (6, 3)
    again = remember_questions(memory, {"asked": asked})
    assert (again.entries, again.asked) == (memory.entries, 6)
    assert remember_questions(memory, {"synthesizer": rows}) == memory


def test_questions_are_asked_in_order_and_again_after_the_last(proposed):
    (_, lab), _ = proposed
    memory = Questions([[0, ""], [0, "6*9="], [1, ""]], asked=1)  # lists, as from a checkpoint
    texts = [t.messages[0].content for t in next_problems(lab, memory, 4, skip=1)]
    first, second = (lab.source.train(n).messages[0].content for n in (0, 1))
    assert texts == [second, first, "6*9=", second]


# ---------------------------------------------------------------------------- solving
def test_questions_are_written_once_a_stage_and_asked_in_turn(build):
    run, memory, position = build(), Questions(), 0
    sizes = []
    for index in (7, 8, 9):
        experience, lab = collected(run, index, memory, position)
        sizes.append(len(experience["written"]))
        after = remember_questions(memory, experience)
        source = mixed(experience["written"]) if experience["written"] else memory
        entries = [source.entries[n % len(source.entries)] for n in range(source.asked, 400)]
        asked = [
            group[0].task.messages[0].content for group in by_group(experience["asked"]).values()
        ]
        wanted = [text or lab.source.train(at).messages[0].content for at, text in entries]
        assert asked == wanted[: len(asked)]
        memory, position = after, lab.position
    assert sizes == [16, 0, 0]
    assert {text == "" for _, text in memory.entries} == {True, False}


def test_only_questions_inside_the_band_are_learnt_from(build):
    run = build(oversample=4, band=(0.3, 0.5))
    experience, lab = collected(run, 2)
    kept, asked = (list(by_group(experience[n]).values()) for n in ("policy", "asked"))
    inside = []
    for group in asked:
        rewards = [row.reward for row in group]
        np.testing.assert_array_equal(rewards, agreement(read_answers(lab, group)))
        if 0.3 <= np.mean(rewards) <= 0.5:
            inside.append(group[0].group)
    assert len(asked) % 16 == 0
    assert [group[0].group for group in kept] == inside[:4]
    assert len(inside) < len(asked)
    for group in kept:  # so that none has advantage 0 throughout
        assert len({row.reward for row in group}) == 2


def test_a_band_without_questions_ends_the_run(build):
    run = build(band=(0.99, 1.0))
    with pytest.raises(ValueError, match=r"10 draws of 12 questions gave \d of 4 whose mean"):
        collected(run, 2)


def test_without_synthesis_and_filter_it_is_plain_majority_voting(build):
    run, position, memory = build(**PLAIN), 0, Questions()
    for index in range(4):
        experience, lab = collected(run, index, memory, position)
        other = run.bench.lab(run.state.params, round_index=index, position=position)
        rows = other.sample(other.tasks())
        assert experience["policy"] == experience["asked"]
        for row, plain in zip(experience["policy"], rows, strict=True):
            assert (row.uid, row.group, row.task) == (plain.uid, plain.group, plain.task)
            np.testing.assert_array_equal(row.answer_ids, plain.answer_ids)
            np.testing.assert_array_equal(row.answer[0].logp, plain.answer[0].logp)
        for group in by_group(rows).values():
            own = [row.reward for row in experience["policy"] if row.group == group[0].group]
            np.testing.assert_array_equal(own, agreement(read_answers(other, group)))
        assert lab.position == other.position
        memory, position = remember_questions(memory, experience), lab.position


# ---------------------------------------------------------------------------- two sets in turns
def test_optimizers_start_anew_and_references_follow_when_their_turn_comes(build):
    recipe = build().recipe
    writer, solver = recipe.objectives
    rounds = range(10)
    assert [n for n in rounds if writer.reset({"round": n})] == [0, 5]
    assert [n for n in rounds if solver.reset({"round": n})] == [2, 7]
    followers = {p.name: p for p in recipe.params if p.follows}
    assert {n: p.follows for n, p in followers.items()} == {
        "synthesizer_start": "synthesizer", "policy_start": "policy",
    }  # fmt: skip
    for own in followers.values():
        assert [n for n in rounds if own.when({"round": n})] == [4, 9]
