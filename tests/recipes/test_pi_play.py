"""What its card says of π-Play, on a random model; waves and rewards: tests/collect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import Case

from jaxevo.collect.construct import TaskPool
from jaxevo.losses import ratio, token_mean
from jaxevo.losses.credit import distilled
from jaxevo.losses.terms import over_all_tokens, policy_gradient, sampled_distillation
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.pi_play import pi_play
from jaxevo.teachers import Context, ema, path_given
from jaxevo.types import Answers, Batch, Stream, bind

pytestmark = pytest.mark.slow

SIZES = {"variants": 4, "attempts": 3, "turns": 3, "question_tokens": 16, "context_tokens": 32}
RUN = {"task": "hops", "max_new_tokens": 16}
PATH = ["[12](49)", "[49](99)"]
POOL = TaskPool(
    tuple(
        {"question": f"{n}**=", "answer": "1", "path": PATH, "right": 1, "attempts": 3}
        for n in range(20, 24)
    )
)
REWARDS = [[0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]]


def case(**options):
    shared = {"examiner_rounds": 0, "grounded": False, "learning_rate": 1e-3}
    return Case("pi-play", lambda: pi_play(**{**SIZES, **shared, **options}), run=RUN)


def student(**options):
    return case(**options).make().objectives[0]


@pytest.fixture(scope="module")
def run(start):
    return start(case())


@pytest.fixture(scope="module")
def plain(start):
    """The same without distillation."""
    return start(case(distill_weight=0.0))


@pytest.fixture(scope="module")
def rows(run):
    """Conversations, replies of the tool among them, with rewards of our own."""
    lab = run.bench.lab(run.state.params)
    found = run.recipe.collect(lab, run.state, POOL)["policy"]
    flat = [reward for group in REWARDS for reward in group]
    return [
        dataclasses.replace(row, rewards={"correct": float(r)})
        for row, r in zip(found, flat, strict=True)
    ]


@pytest.fixture(scope="module")
def sets(run, moved):
    start = run.state.params["policy"]
    return {name: moved(start, n) for n, name in enumerate(("policy", "teacher", "examiner"))}


def nothing(gradient):
    return not any(np.any(x) for x in jax.tree.leaves(gradient))


def largest(gradient):
    return max(float(abs(x).max()) for x in jax.tree.leaves(gradient))


def retold(rows, path):
    """The rows as if another path had led to their tasks."""
    return [
        dataclasses.replace(row, task=dataclasses.replace(row.task, info={"path": path}))
        for row in rows
    ]


# ---------------------------------------------------------------------------- what the teacher sees
def test_the_teacher_is_shown_the_path_before_the_question(run, rows):
    tokenizer = run.bench.model.tokenizer
    row = rows[0]
    question = row.task.messages[0].content
    told = path_given(row, [], tokenizer, max_prompt_tokens=32)
    assert tokenizer.text(told.ids) == f"[[12](49)[49](99)]{question}"
    assert not told.cut
    short = path_given(row, [], tokenizer, max_prompt_tokens=15)
    assert tokenizer.text(short.ids) == f"[[12]?99)]{question}"
    assert short.cut
    assert path_given(row, [], tokenizer, max_prompt_tokens=8) is None
    (bare,) = retold([row], [])
    assert path_given(bare, [], tokenizer) == Context(row.prompt_ids.tolist())
    assert path_given(bare, [], tokenizer, max_prompt_tokens=4) is None
    untold = dataclasses.replace(row, task=dataclasses.replace(row.task, info={}))
    assert path_given(untold, [], tokenizer) is None


def test_a_chat_teacher_is_shown_a_step_a_line(rows):
    class Chat:
        chat = True

        def render(self, messages):
            return [ord(c) for c in messages[-1].content]

    steps = ["<search>a</search><result>b: c</result>", "<search>c</search><result>c: d</result>"]
    (row,) = retold(rows[:1], steps)
    text = "".join(map(chr, path_given(row, [], Chat()).ids))
    assert text.startswith(row.task.messages[0].content)
    assert "\n\n" + "\n".join(steps) + "\n\n" in text


# ---------------------------------------------------------------------------- the loss
def test_without_weight_it_is_grpo(plain, rows, sets, graded):
    assert [own.name for own in plain.recipe.params] == ["policy", "examiner"]
    one = graded(plain, rows, sets)
    other = graded(plain, rows, sets, grpo().objectives[0])
    assert one[0] == other[0] != 0.0
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


def test_the_loss_is_grpos_and_a_share_of_the_distillation(run, plain, rows, sets, graded):
    value, _, signals = graded(run, rows, sets)
    policy, _, _ = graded(plain, rows, sets)
    tokens = sum(row.sampled_tokens for row in rows)
    distill = signals["distill"].sum() / tokens
    assert value == pytest.approx(policy + 0.1 * distill, abs=1e-6)
    want = (-signals["teacher_advantage"] * signals["logp"]).sum() / tokens
    assert distill == pytest.approx(want, rel=1e-5)
    twice, _, _ = graded(run, rows, sets, student(distill_weight=0.2))
    assert twice - policy == pytest.approx(2 * (value - policy), rel=1e-4)


def test_a_group_that_fails_as_a_whole_teaches_by_its_path_alone(run, plain, rows, sets, graded):
    failed = rows[4:8]
    _, none, _ = graded(plain, failed, sets)
    assert nothing(none)
    for kind in ("sampled", "reverse"):
        _, some, _ = graded(run, failed, sets, student(kind=kind, distill_top_k=5))
        assert largest(some) > 1e-4
    value, _, signals = graded(run, failed, sets)
    assert not np.any(signals["policy"])
    assert value == pytest.approx(
        0.1 * signals["distill"].sum() / sum(row.sampled_tokens for row in failed), rel=1e-5
    )


@pytest.mark.parametrize("kind", ["sampled", "reverse", "js"])
def test_an_empty_path_and_the_students_own_weights_teach_nothing(run, rows, sets, graded, kind):
    same = {**sets, "teacher": sets["policy"]}
    objective = dataclasses.replace(
        student(kind=kind, distill_top_k=None, distill_weight=1.0), advantage=bind(no_reward)
    )
    value, gradient, _ = graded(run, retold(rows, []), same, objective)
    # float32: both sides are packed alike, but sums over the vocabulary need not cancel exactly
    assert value == pytest.approx(0.0, abs=1e-6)
    assert largest(gradient) < 1e-5
    told, some, _ = graded(run, rows, same, objective)
    assert abs(told) > 1e-4
    assert largest(some) > 1e-3


def no_reward(batch):
    return np.zeros(batch.reward_N.shape, np.float32)


def test_rows_whose_path_does_not_fit_count_as_tokens_only(run, plain, rows, sets, graded):
    objective = student(distill_weight=1.0)
    _, _, whole = graded(run, rows, sets, objective)
    long = [*retold(rows[:4], ["(" + "1" * 60 + ")"]), *rows[4:]]
    narrow = student(distill_weight=1.0, context_tokens=4)
    value, _, none = graded(run, long, sets, narrow)
    assert not np.any(none["distill"])
    policy, _, _ = graded(plain, rows, sets)
    assert value == pytest.approx(policy, abs=1e-6)
    assert np.any(whole["distill"])


def test_support_ratio_and_clip_are_options(run, plain, rows, sets, graded):
    def loss(**options):
        return graded(run, rows, sets, student(distill_weight=1.0, **options))[0]

    base, policy = loss(), graded(plain, rows, sets)[0]
    halved = loss(ratio_cap=0.5)  # of a first update the ratio is 1
    assert halved - policy == pytest.approx(0.5 * (base - policy), rel=1e-4)
    kinds = {loss(kind="reverse", distill_top_k=k) for k in (2, 5, None)}
    assert len({round(x, 6) for x in (*kinds, base)}) == 4
    assert loss(kind="forward", distill_top_k=5) not in (base, *kinds)
    first, second = (student(clip_low=low, clip_high=0.3).terms[0].fn for low in (0.1, 0.2))
    assert (dict(first.options)["clip_low"], dict(second.options)["clip_high"]) == (0.1, 0.3)


def test_what_the_tool_said_is_context_and_no_target(run, rows, sets, graded):
    n, row = next((n, r) for n, r in enumerate(rows) if any(s.source == "tool" for s in r.answer)
                  and r.answer[-1].source == "policy" and len(r.answer[-1].ids))  # fmt: skip
    index = [s.source for s in row.answer].index("tool")
    place = sum(len(s.ids) for s in row.answer[:index])
    reply = row.answer[index]
    other = dataclasses.replace(reply, ids=(reply.ids + 1) % 20 + 2)
    answer = [*row.answer[:index], other, *row.answer[index + 1 :]]
    edited = dataclasses.replace(row, segments=(row.segments[0], *answer))
    _, _, before = graded(run, rows, sets)
    _, _, after = graded(run, [*rows[:n], edited, *rows[n + 1 :]], sets)
    behind = place + len(reply.ids)
    for name in ("policy", "distill"):
        assert not np.any(before[name][n, place:behind])
        assert not np.any(after[name][n, place:behind])
    np.testing.assert_allclose(
        before["distill"][n, :place], after["distill"][n, :place], atol=1e-5
    )  # packed otherwise
    assert np.abs(before["logp"][n, behind:] - after["logp"][n, behind:]).max() > 1e-3


# ---------------------------------------------------------------------------- exact, on arrays
MASK = np.array([[1, 1, 0, 1, 0], [1, 0, 0, 0, 0], [1, 0, 1, 1, 1]], bool)
NOW, OLD, TEACHER = (-np.random.default_rng(n).exponential(size=(3, 5)) for n in range(3))


def terms(now_NA, old_NA, teacher_NA):
    """Value of the student's loss, and its gradient in the current log-probs."""

    def loss(logp_NA):
        now = {"text": Stream(logp_NA, MASK)}
        frozen = {
            "old": {"text": Stream(old_NA, MASK)},
            "teacher": {"text": Stream(teacher_NA, MASK)},
        }
        batch = batch_of(MASK)
        credit = distilled(batch, now, frozen, truncation="ignore")["text"]
        policy = policy_gradient(now, frozen, credit, batch)
        distill = over_all_tokens(now, frozen, credit, batch, term=bind(sampled_distillation))
        parts = [ratio(*token_mean(*term, rows_N=batch.real_N)) for term in (policy, distill)]
        return parts[0] + 0.1 * parts[1]

    return jax.value_and_grad(loss)(jnp.asarray(now_NA, jnp.float32))


def batch_of(mask_NA):
    zero_NA, n = np.zeros(mask_NA.shape, np.float32), np.zeros(3, np.int32)
    answers = Answers(
        np.zeros(mask_NA.shape, np.int32), mask_NA, zero_NA, zero_NA, np.ones(3, bool)
    )
    return Batch(
        answers={"text": answers}, reward_N=n, parts={}, numbers={}, group_N=n, episode_N=n,
        turn_N=n, role_N=n, uid_N2=np.zeros((3, 2), np.uint32), real_N=np.ones(3, bool),
        temperature=np.float32(1.0), present={"teacher": np.array([True, False, True])},
        advantage_N=np.array([1.0, -0.5, 0.0], np.float32),
    )  # fmt: skip


def test_what_stands_under_mask_0_changes_nothing():
    clean = terms(NOW, OLD, TEACHER)
    dirty = terms(*(np.where(MASK, x, np.nan) for x in (NOW, OLD, TEACHER)))
    assert float(clean[0]) == float(dirty[0])
    np.testing.assert_array_equal(clean[1], dirty[1])
    assert not np.any(np.asarray(clean[1])[~MASK])


def test_the_loss_in_float64():
    ratio_NA = np.exp(NOW - OLD)
    advantage_NA = np.array([1.0, -0.5, 0.0])[:, None]
    clipped_NA = np.clip(ratio_NA, 0.8, 1.2)
    policy_NA = -np.minimum(ratio_NA * advantage_NA, clipped_NA * advantage_NA)
    distill_NA = np.minimum(ratio_NA, 2.0) * (NOW - TEACHER) * NOW
    distill_NA[1] = 0.0  # no path
    want = (policy_NA + 0.1 * distill_NA)[MASK].sum() / MASK.sum()
    assert float(terms(NOW, OLD, TEACHER)[0]) == pytest.approx(want, rel=1e-5)  # float32


def test_the_average_of_a_constant():
    own = {"w": jnp.zeros(3)}
    for _ in range(10):
        own = ema(own, {"w": jnp.ones(3)}, rate=0.05)
    np.testing.assert_allclose(own["w"], 0.401263, atol=5e-7)
    np.testing.assert_allclose(own["w"], 1 - 0.95**10, rtol=1e-6)


# ---------------------------------------------------------------------------- rounds
def test_sets_learn_in_their_turns_and_the_teacher_follows_the_student(start, drive):
    run = start(case(examiner_rounds=1, student_rounds=1, teacher_rate=0.25))
    states, memory, state = [jax.device_get(run.state.params)], run.memory, run.state
    rounds = []
    for _ in range(2):
        state, memory, (metrics,), (records,) = drive(run, 1, state, memory)
        states.append(jax.device_get(state.params))
        rounds.append((metrics, records))
    first, second, third = states
    assert_same(first["policy"], second["policy"])
    assert_same(first["teacher"], second["teacher"])
    assert differ(first["examiner"], second["examiner"])
    assert_same(second["examiner"], third["examiner"])
    assert differ(second["policy"], third["policy"])
    jax.tree.map(
        lambda old, new, own: np.testing.assert_allclose(own, 0.75 * old + 0.25 * new, atol=1e-6),
        second["teacher"], third["policy"], third["teacher"],
    )  # fmt: skip
    (examiner, told), (learnt, records) = rounds
    assert examiner["examiner/loss/policy"] == examiner["examiner/loss"]
    assert {r["role"] for r in told if r["trained"]} == {"examiner"}
    assert {r["role"] for r in records if r["trained"]} == {"policy"}
    assert learnt["context/teacher"] == 1.0
    assert {"loss/policy", "loss/distill", "tally/pool"} <= set(learnt)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def differ(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return any(np.any(a != b) for a, b in pairs)


def test_what_is_built_in_the_students_turn_is_not_learnt(start, drive):
    run = start(case())
    before = jax.device_get(run.state.params)
    state, memory, (metrics,), (records,) = drive(run, 1)
    after = jax.device_get(state.params)
    assert memory.entries
    assert {r["role"] for r in records} == {"examiner", "attempt", "policy"}
    assert {r["role"] for r in records if r["trained"]} == {"policy"}
    assert_same(before["examiner"], after["examiner"])
    assert differ(before["policy"], after["policy"])
    assert "examiner/loss" not in metrics
