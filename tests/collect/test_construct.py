"""Questions that are built by walks: what is valid, what it is worth, what is remembered, asked."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from jaxevo.collect.construct import (
    Building,
    TaskPool,
    construct_sizes,
    difficulty,
    needs_one_part,
    read_entry,
    remember_tasks,
    repetitions,
    walked,
)
from jaxevo.collect.table import by_group
from jaxevo.envs import Search
from jaxevo.envs.graph import after
from jaxevo.models import toy
from jaxevo.recipes.pi_play import pi_play
from jaxevo.rewards.overlap import short_answer
from jaxevo.run.build import build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions
from jaxevo.tasks import load_task
from jaxevo.tasks.walks import build_task, built_task, holds, read_record
from jaxevo.types import Message, Row, Segment, Task

pytestmark = pytest.mark.slow  # they compile a model

TOKENS = toy.tokenizer()
HOW = Building(Search(), tokens=16)
OPTIONS = RunOptions(
    model="tiny", task="hops", prompts=4, samples=4, max_new_tokens=16, eval_problems=0,
    control="random",
)  # fmt: skip
SIZES = {"variants": 16, "attempts": 3, "turns": 3, "question_tokens": 16, "context_tokens": 24}
ENTRY = {"question": "12**=", "answer": "99", "path": ["[12](49)", "[49](99)"]}


# ---------------------------------------------------------------------------- what is valid
def walk(*parts, uid=0, start="12"):
    """A walk of texts, which the policy and the tool write in turns."""
    sources = itertools.cycle(["policy", "tool"])
    segments = [Segment(np.array(TOKENS.encode(f"{start}?")), "prompt")]
    segments += [
        Segment(np.array(TOKENS.encode(text), np.int32), source)
        for text, source in zip(parts, sources, strict=False)
    ]
    return Row(uid, Task("build", (Message("user", f"{start}?"),), ""), uid, tuple(segments))


def test_the_path_is_the_walks_own_searches_that_found_something():
    row = walk("[12]", "(49)", "[9]", "(?)", "12]", "(?)", "7[49]", "(99)", "12**=99")
    assert walked(row, TOKENS, HOW.tool) == ["[12](49)", "[49](99)"]
    assert walked(walk("12**=99"), TOKENS, HOW.tool) == []
    assert walked(walk("[12]"), TOKENS, HOW.tool) == []  # no room was left for the reply


def test_a_record_behind_the_walk_is_read():
    assert read_entry(walk("[12]", "(49)", "[49]", "(99)", "12**=99"), TOKENS, HOW) == ENTRY


@pytest.mark.parametrize(
    ("parts", "grounded"),
    [
        (["[12]", "(49)", "12**"], False),  # no record
        (["[12]", "(49)", "12*=50"], True),  # what nothing says
        (["[12]", "(49)", "12*=4"], True),  # in part only
        (["12*=49"], True),  # without a search
        (["[9]", "(?)", "12*=49"], True),  # without one that found something
        (["[12]", "(49)", "49*=49"], False),  # the question holds it
        (["[12]", "(49)", "12**************=49"], False),  # too long
        (["[12]", "(49)", "12*=49[4]"], False),  # ends with a call
    ],
)
def test_what_is_not_valid(parts, grounded):
    """All of it is refused; what fails for want of a foundation is not where none is asked for."""
    assert read_entry(walk(*parts), TOKENS, HOW) is None
    entry = read_entry(walk(*parts), TOKENS, dataclasses.replace(HOW, grounded=False))
    assert (entry is not None) is grounded


# ---------------------------------------------------------------------------- what is shown
def test_chat_models_are_shown_walks_that_are_valid_and_right_themselves():
    shown = HOW.shown(chat=True)
    assert len(shown) == 2
    build = build_task("12", shown, chat=True).messages
    ask = built_task("Which?", "99", shown=shown, chat=True).messages
    roles = ["user", "assistant", "user", "assistant", "user"]
    assert [m.role for m in build] == [m.role for m in ask] == roles
    assert build[-1].content.endswith("\n\n12")
    assert "Which?" in ask[-1].content
    for n, own in enumerate(shown):
        assert own.answer == after(own.start, 2)
        assert len(own.path) == 2
        assert holds(own.path[-1], own.answer)
        assert not holds(own.question, own.answer)
        assert own.start in build[2 * n].content
        walked, answered = build[2 * n + 1].content, ask[2 * n + 1].content
        assert read_record(walked, chat=True) == (own.question, own.answer)
        assert short_answer(Task("t", (), own.answer), answered).score == 1.0
        searched = HOW.tool.reply(own.start, compact=False).text
        for text in (walked, answered):
            assert text.startswith(f"<search>{own.start}</search>{searched}\n")


def test_no_walk_starts_where_a_worked_one_does():
    shown = [own.start for own in HOW.shown(chat=True)]
    assert HOW.starts(chat=True) == [s for s in HOW.tool.source.starts if s not in shown]
    assert len(HOW.starts(chat=True)) == len(HOW.starts(chat=False)) - 2


def test_models_of_characters_are_shown_none():
    assert HOW.shown(chat=False) == ()
    assert HOW.starts(chat=False) == list(HOW.tool.source.starts)


# ---------------------------------------------------------------------------- what it is worth
def test_worked_difficulties():
    assert [difficulty(k, 5) for k in range(6)] == [0.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    assert [difficulty(k, 2) for k in range(3)] == [0.0, 1.0, 0.0]


def test_questions_of_one_answer_that_are_alike_are_repetitions():
    def entry(question, answer):
        return {"question": question, "answer": answer, "path": []}

    entries = [
        entry("12**=", "99"), None, entry("12**=", "99"), entry("12**=", "18"),
        entry("98*=", "99"), entry("12**=", "99"),
    ]  # fmt: skip
    assert repetitions(entries, chat=False) == [2 / 6, 0.0, 2 / 6, 0.0, 0.0, 2 / 6]
    words = [entry("Who wrote the long book of whales", "ada"), entry("What is a harp", "Ada"),
             entry("Who wrote the long book of wolves", "Ada")]  # fmt: skip
    assert repetitions(words, chat=True) == [1 / 3, 0.0, 1 / 3]
    assert repetitions([None, None], chat=True) == [0.0, 0.0]


# ---------------------------------------------------------------------------- what is remembered
def built(question, right, attempts=5):
    entry = {"question": question, "answer": "1", "path": [], "right": right, "attempts": attempts}
    return dataclasses.replace(walk("1"), info={"entry": entry})


def questions(pool):
    return [(entry["question"], entry["right"]) for entry in pool.entries]


def test_the_newest_undecided_tasks_are_remembered():
    rows = [built("a", 1), built("b", 0), built("c", 5), built("d", 4)]
    rows.append(dataclasses.replace(walk("1"), info={"entry": None}))
    pool = remember_tasks(TaskPool(), {"examiner": rows, "policy": [walk("1")]}, most=3)
    assert questions(pool) == [("a", 1), ("d", 4)]
    pool = remember_tasks(pool, {"written": [built("e", 2), built("a", 3)]}, most=3)
    assert questions(pool) == [("d", 4), ("e", 2), ("a", 3)]  # an equal one is renewed
    pool = remember_tasks(pool, {"examiner": [built("f", 1)]}, most=3)
    assert questions(pool) == [("e", 2), ("a", 3), ("f", 1)]
    assert remember_tasks(pool, {"policy": [walk("1")]}, most=3) == pool
    decided = remember_tasks(pool, {"examiner": [built("a", 5)]}, most=3)
    assert decided == pool


def test_options_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="attempts=1, but it takes 2"):
        pi_play(attempts=1)
    with pytest.raises(ValueError, match="pool=0 must hold at least 1"):
        pi_play(pool=0)
    with pytest.raises(ValueError, match="mixes parts with verifiers of their own"):
        needs_one_part(load_task("mix:add1,sub1"))
    needs_one_part(load_task("hops"))
    with pytest.raises(ValueError, match="more than 1 tokens"):
        construct_sizes(OPTIONS.rollout(), 5, TOKENS, how=dataclasses.replace(HOW, tokens=1))


def test_there_is_room_for_the_longest_conversations():
    sizes = construct_sizes(OPTIONS.rollout(), 5, TOKENS, how=HOW)
    assert sizes.context == 16 + 15
    found = {n: (s.rows, s.answer, s.group, s.slots) for n, s in sizes.objectives.items()}
    assert found == {"examiner": (16, 16, 4, 16 + 4 * 15), "policy": (16, 16, 4, 16 + 4 * 15)}
    more = construct_sizes(OPTIONS.rollout(), 5, TOKENS, how=dataclasses.replace(HOW, variants=2))
    assert more.objectives["examiner"].rows == 8


# ---------------------------------------------------------------------------- whole waves
@pytest.fixture(scope="module")
def build(tiny_model):
    """build(**options of the recipe) -> Run; a random model's answers stand in no reply."""

    def make(options=OPTIONS, **changes):
        recipe = pi_play(**{**SIZES, "grounded": False, "learning_rate": 1e-3, **changes})
        return build_run(recipe, options, model=tiny_model)

    return make


def collected(run, memory=None, sets=None):
    lab = run.bench.lab(sets or run.state.params, learner=run.learner)
    return run.recipe.collect(lab, run.state, run.memory if memory is None else memory), lab


@pytest.fixture(scope="module")
def examined(build):
    run = build()
    return (*collected(run), run)


def test_questions_are_worth_what_the_solver_makes_of_them(examined):
    experience, lab, _ = examined
    assert list(experience) == ["examiner"]
    rows = experience["examiner"]
    assert [len(group) for group in by_group(rows).values()] == [16] * 4
    entries = [row.info["entry"] for row in rows]
    shares = repetitions(entries, chat=False)
    groups = iter(by_group(r for r in lab.sampled.values() if r.role == "attempt").values())
    worth = set()
    for row, entry, share in zip(rows, entries, shares, strict=True):
        assert row.role == "examiner"
        assert row.task.messages[0].content == row.task.info["start"] + "?"
        assert row.task.info["start"] in Search().source.starts
        if entry is None:
            assert (row.rewards, row.info["tally"]) == ({"task": 0.0}, {"valid": 0.0})
            continue
        group = next(groups)
        assert len(group) == 3
        assert {r.task.messages[0].content for r in group} == {entry["question"]}
        assert {(r.task.answer, "path" in r.task.info) for r in group} == {(entry["answer"], False)}
        k = sum(row.reward for row in group)
        assert entry["right"] == k
        assert row.reward == pytest.approx(max(0.0, difficulty(int(k), 3) + 0.1 - share))
        tally = row.info["tally"]
        assert (tally["valid"], tally["solved"]) == (1.0, k / 3)
        assert tally["undecided"] == float(0 < k < 3)
        assert lab.sampled[row.uid] == row
        worth.add(round(row.reward, 3))
    assert next(groups, None) is None
    assert {0.1, 0.6, 1.1} <= worth


def test_weight_of_the_form_and_repetition_can_be_left_out(build, examined):
    rows = examined[0]["examiner"]
    other = collected(build(format_weight=0.0, repetition=False))[0]["examiner"]
    valid = 0
    for row, bare in zip(rows, other, strict=True):
        assert row.info["entry"] == bare.info["entry"]
        if entry := bare.info["entry"]:
            assert bare.reward == difficulty(entry["right"], 3)  # exactly 0 where decided
            valid += 1
    assert valid > 4


def test_each_set_speaks_for_itself(build, examined):
    """Other weights of the examiner change its walks; other ones of the student, answers alone."""
    rows, run = examined[0]["examiner"], examined[2]
    sets, negative = run.state.params, jax.tree.map(lambda x: -x, run.state.params["policy"])
    student, _ = collected(run, sets={**sets, "policy": negative})
    examiner, _ = collected(run, sets={**sets, "examiner": negative})
    same, different = (
        sum(a.answer_ids.tolist() == b.answer_ids.tolist() for a, b in zip(rows, own, strict=True))
        for own in (student["examiner"], examiner["examiner"])
    )
    assert same == len(rows) > different


def test_turns_bound_what_the_policy_says(build):
    def most(turns):
        rows = collected(build(turns=turns))[0]["examiner"]
        return max(sum(s.source == "policy" for s in row.answer) for row in rows)

    assert most(1) == 1 < most(3) <= 3


POOL = TaskPool(
    tuple(
        {**ENTRY, "question": f"{n}**=", "right": 1, "attempts": 3, "path": [f"[{n}](49)"]}
        for n in range(20, 26)
    )
)


@pytest.fixture(scope="module")
def answered(build):
    run = build(examiner_rounds=0)
    return (*collected(run, POOL), run)


def test_tasks_of_the_pool_are_asked_without_their_path(answered):
    experience, lab, _ = answered
    rows = experience["policy"]
    assert experience["written"] == []
    assert all(row.role == "policy" for row in lab.sampled.values())
    groups = by_group(rows)
    assert [len(group) for group in groups.values()] == [4] * 4
    asked = [group[0].task.messages[0].content for group in groups.values()]
    assert len(set(asked)) == 4
    assert set(asked) <= {entry["question"] for entry in POOL.entries}
    for row in rows:
        question = row.task.messages[0].content
        assert lab.tokenizer.text(row.prompt_ids.tolist()) == question
        assert row.task.info["path"] == [f"[{question[:2]}](49)"]
        assert row.info["tally"]["pool"] == 6
        assert set(row.rewards) == {"coin"}
    assert any(s.source == "tool" for row in rows for s in row.answer)


def test_tasks_are_drawn_by_the_rounds_generator(build, answered):
    rows, run = answered[0]["policy"], answered[2]
    again, _ = collected(run, POOL)
    assert [r.task for r in rows] == [r.task for r in again["policy"]]
    state = run.state.replace(counters={**run.state.counters, "round": 5})
    lab = run.bench.lab(run.state.params, round_index=5)
    later = run.recipe.collect(lab, state, POOL)["policy"]
    assert [r.task for r in rows] != [r.task for r in later]
    few, _ = collected(run, TaskPool(POOL.entries[:2]))
    assert len(by_group(few["policy"])) == 4  # some twice


def test_the_verifier_of_the_run_judges_by_the_built_answer(build):
    run = build(dataclasses.replace(OPTIONS, control="none"), examiner_rounds=0)
    given = TaskPool(tuple({**entry, "answer": "1"} for entry in POOL.entries))
    (rows, lab) = (collected(run, given)[0]["policy"], run.bench.lab(run.state.params))
    verify = run.bench.source.verifiers["short_answer"]
    assert [row.reward for row in rows] == [
        verify(Task("t", (), "1"), lab.answer_text(row)).score for row in rows
    ]


def test_an_empty_pool_is_filled_first_and_not_learnt_from(build, examined):
    run = build(examiner_rounds=0)
    experience, _ = collected(run)
    key = [(row.uid, row.reward) for row in examined[0]["examiner"]]
    assert [(row.uid, row.reward) for row in experience["written"]] == key
    pool = run.recipe.grow(run.memory, experience)
    assert pool == remember_tasks(TaskPool(), {"written": experience["written"]}, most=1024)
    asked = {row.task.messages[0].content for row in experience["policy"]}
    assert asked <= {entry["question"] for entry in pool.entries}
    assert all(row.role == "policy" for row in experience["policy"])
    small = build(examiner_rounds=0, pool=2)
    pair = small.recipe.grow(small.memory, experience)
    assert pair.entries == pool.entries[-2:]


def test_where_nothing_valid_is_built_the_round_has_no_step(build):
    run = build(examiner_rounds=0, grounded=True)
    before = jax.device_get((run.state.params, run.state.optimizer))
    state, memory, metrics, records = one_round(run, run.state, run.memory)
    after = jax.device_get((state.params, state.optimizer))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert memory == TaskPool()
    assert (state.counters["round"], state.counters["updates"]) == (1, 0)
    assert state.counters["rollouts"] == len(records) == 64
    assert {record["role"] for record in records} == {"examiner"}
    assert not any(record["trained"] for record in records)
    assert (metrics["tally/valid"], metrics["reward/task"]) == (0.0, 0.0)
    assert metrics["logp_mismatch"] == 0.0
    assert "loss" not in metrics
