"""Conversations with a tool: what stands in them, and what a rollback leaves behind."""

import dataclasses
import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxevo import step
from jaxevo.collect.edits import call_text, last_turn
from jaxevo.collect.table import prepare, tabulate
from jaxevo.collect.tool_loop import (
    Rollback,
    Talk,
    Tally,
    ToolLoop,
    tool_rollouts,
    tool_sizes,
)
from jaxevo.envs.calculator import Calculator, Reply
from jaxevo.losses.credit import refuse_uncorrectable
from jaxevo.models import decoder
from jaxevo.models.tokenizer import CharTokenizer
from jaxevo.recipes.cleaner import cleaner
from jaxevo.run.build import build_run
from jaxevo.run.metrics import round_metrics
from jaxevo.run.options import RunOptions
from jaxevo.types import Message, Row, Segment, Task

pytestmark = pytest.mark.slow  # they compile a model

MARKS = ("[", "]")
ANSWER = 24
OPTIONS = RunOptions(
    model="tiny", prompts=8, samples=4, max_new_tokens=ANSWER, eval_problems=0, control="random"
)


@dataclasses.dataclass(frozen=True)
class Moody:
    """A tool that fails at calls of a length that `modulus` does not divide; 1 never fails."""

    modulus: int = 2
    words: tuple[str, str, str] = ("(?)", "(??)", "(1)")

    def marks(self, *, compact):
        return MARKS

    def manual(self, *, compact):
        return ""

    def reply(self, call, *, compact, again=False):
        if len(call) % self.modulus:
            return Reply(self.words[again], "moody")
        return Reply(self.words[2])


@pytest.fixture(scope="module")
def talker(tiny_model):
    """The tiny model, which ends calls often: the logit of ] is above or below all others."""
    begin, end = tiny_model.tokenizer.encode("[]")
    head = tiny_model.params["head"]
    sign = jnp.sign(head[:, end])
    head = head.at[:, end].set(0.5 * sign).at[:, begin].set(-0.5 * sign)
    return dataclasses.replace(tiny_model, params={**tiny_model.params, "head": head})


@pytest.fixture(scope="module")
def run(talker):
    return build_run(cleaner(minibatches=2, learning_rate=1e-3), OPTIONS, model=talker)


def talks(run, *, tool=None, turns=16, answer=ANSWER, **rollback):
    lab = run.bench.lab(run.state.params, learner=run.learner)
    loop = ToolLoop(lab, tool or Moody(), Rollback(**rollback), answer, turns)
    return lab, loop.run(lab.tasks(), lab.config.samples)


@pytest.fixture(scope="module")
def purified(run):
    return talks(run)


@pytest.fixture(scope="module")
def plain(run):
    return talks(run, chance=0.0)


def parts(row, lab):
    return [(s.source, lab.tokenizer.text(s.ids.tolist())) for s in row.answer]


def ids(rows):
    return [row.answer_ids.tolist() for row in rows]


def by_hand(run, tool):
    """The plain rollout, one conversation at a time."""
    lab = run.bench.lab(run.state.params)
    rows = lab.sample(lab.tasks(), stop=("]",))
    for n, row in enumerate(rows):
        for _ in range(15):
            call = call_text(last_turn(row), lab.tokenizer, MARKS)
            if call is None:
                break
            told = lab.tokenizer.encode(tool.reply(call, compact=True).text)
            room = ANSWER - len(row.answer_ids) - len(told)
            if room < 1:
                break
            (row,) = lab.extend([row], [("tool", told)], new_tokens=room, stop=("]",))
        rows[n] = row
    return rows


def test_without_rollback_it_is_the_plain_rollout_token_for_token(run, plain):
    rows = [talk.row for talk in plain[1]]
    assert ids(rows) == ids(by_hand(run, Moody()))
    assert sum(any(s.source == "tool" for s in row.answer) for row in rows) > 10
    assert all(s.logp is not None for row in rows for s in row.answer if s.source == "policy")


def test_without_a_failing_call_rollback_changes_nothing(run):
    _, one = talks(run, tool=Moody(modulus=1))
    _, other = talks(run, tool=Moody(modulus=1), chance=0.0)
    assert ids([t.row for t in one]) == ids([t.row for t in other])
    assert [t.row.uid for t in one] == [t.row.uid for t in other]
    assert [t.tally for t in one] == [t.tally for t in other]
    assert sum(t.tally.first_attempts for t in one) > 20


def test_conversations_are_the_same_alone_and_among_others(run, purified):
    lab = run.bench.lab(run.state.params)
    loop = ToolLoop(lab, Moody(), Rollback(retries=0), ANSWER, 16)
    tasks = lab.tasks()
    some = loop.run(tasks[:2], 4)
    again = run.bench.lab(run.state.params)
    most = dataclasses.replace(loop, lab=again).run(tasks[:5], 4)
    assert ids([t.row for t in some]) == ids([t.row for t in most[:8]])


def test_purified_conversations_keep_their_invariants(purified):
    lab, found = purified
    repaired = [t for t in found if t.tally.shallow + t.tally.deep]
    assert len(repaired) > 8
    assert sum(t.tally.unrecovered == 0 for t in repaired) > 3
    for talk in found:
        texts, turn = parts(talk.row, lab), ""
        failures = 0
        for source, text in texts:
            if source == "policy":
                turn += text
                continue
            call = call_text((Segment(np.array(lab.tokenizer.encode(turn)), "policy"),),
                             lab.tokenizer, MARKS)  # fmt: skip
            error = len(call) % 2 != 0
            assert text in (("(?)", "(??)") if error else ("(1)",)), "a reply of another call"
            failures, turn = failures + error, ""
        last = call_text(last_turn(talk.row), lab.tokenizer, MARKS)
        failures += last is not None and len(last) % 2 != 0
        assert failures == talk.tally.unrecovered
        assert len(talk.row.answer_ids) <= ANSWER
        assert talk.tally.spent_tokens >= talk.row.sampled_tokens
        edits = talk.tally.shallow + talk.tally.deep
        assert (edits > 0) == (talk.row.parent is not None)
        if not edits and talk.tally.unrecovered == 0:
            assert talk.tally.spent_tokens == talk.row.sampled_tokens


def test_an_edit_is_never_longer_than_the_attempt_that_it_replaces(purified):
    lab, found = purified
    checked = 0
    for talk in found:
        if talk.row.parent is None:
            continue
        noisy = lab.sampled[talk.row.parent]
        stale = [n for n, s in enumerate(talk.row.segments) if s.source == "policy" and
                 s.logp is None]  # fmt: skip
        kept = sum(len(s.ids) for s in talk.row.segments[: stale[-1] + 1])
        assert kept < sum(len(s.ids) for s in noisy.segments)
        checked += 1
    assert checked > 8


def test_masks_come_from_sources_and_edited_rows_refuse_a_correction(purified):
    _, found = purified
    rows = [talk.row for talk in found]
    answers = tabulate(rows, answer_slots=ANSWER).batch.answers["text"]
    assert answers.mask_NA.sum(1).tolist() == [row.sampled_tokens for row in rows]
    tools = [sum(len(s.ids) for s in row.answer if s.source == "tool") for row in rows]
    assert sum(tools) > 0
    lengths = [len(row.answer_ids) for row in rows]
    assert (answers.mask_NA.sum(1) + tools).tolist() == lengths
    edited = [t.tally.shallow + t.tally.deep > 0 for t in found]
    np.testing.assert_array_equal(~answers.known_N, edited)
    batch = tabulate(rows, answer_slots=ANSWER).batch
    refuse_uncorrectable(batch)
    with pytest.raises(ValueError, match=r"no sampler log-probs.*not edited"):
        refuse_uncorrectable(batch, correction="token")
    fresh = tabulate([r for r, e in zip(rows, edited, strict=True) if not e], answer_slots=ANSWER)
    refuse_uncorrectable(fresh.batch, correction="token")


def truncated(row):
    """As if a sampler with top-p had left out a tenth of the mass at every token."""
    segments = [
        dataclasses.replace(s, log_kept=np.full(len(s.ids), np.log(0.9), np.float32))
        if s.source == "policy"
        else s
        for s in row.segments
    ]
    return dataclasses.replace(row, segments=tuple(segments))


def test_edited_rows_of_a_truncated_sampler_are_refused(run):
    lab = run.bench.lab(run.state.params)
    rows = [truncated(row) for row in run.recipe.collect(lab, run.state, run.memory)["policy"]]
    (objective,) = run.recipe.objectives
    args = run.learner, lab.tokenizer, run.state, rows, np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"then edited.*cannot be corrected"):
        step.learn(objective, *args)
    (careless,) = cleaner(truncation="ignore").objectives
    careless.check(tabulate(rows, answer_slots=ANSWER).batch)


def test_the_first_ratio_is_one(run):
    """Old log-probs are the trainer's, also of tokens that an edit has moved."""
    lab = run.bench.lab(run.state.params, learner=run.learner)
    rows = run.recipe.collect(lab, run.state, run.memory)["policy"]
    assert any(s.logp is None for row in rows for s in row.answer if s.source == "policy")
    (objective,), shapes = run.recipe.objectives, run.learner.shapes["policy"]
    table = prepare(rows, objective, shapes.answer, lab.tokenizer)
    old_NA = step.with_old(table, objective, run.learner, run.state).batch.old["text"]
    state = run.state.replace(  # an update donates what it is given
        params=jax.tree.map(jnp.copy, run.state.params),
        optimizer=jax.tree.map(jnp.copy, run.state.optimizer),
    )
    _, (first, _) = step.learn(
        objective, run.learner, lab.tokenizer, state, rows, np.random.default_rng(0)
    )
    index = {row.uid: n for n, row in enumerate(rows)}
    chosen = [index[row.uid] for row in first["trained"]]
    logp_NA = np.asarray(first["signals"]["text"]["logp"]).reshape(-1, ANSWER)[: len(chosen)]
    mask_NA = table.batch.answers["text"].mask_NA[chosen]
    assert len(chosen) == len(rows) // 2
    np.testing.assert_allclose(np.exp(logp_NA - old_NA[chosen])[mask_NA], 1.0, atol=1e-5)


def test_rewards_are_signed_and_long_answers_cost(run):
    lab = run.bench.lab(run.state.params)
    options = {"tool": Calculator(), "turns": 16, "rollback": Rollback()}
    rows = tool_rollouts(lab, run.state, None, overlong=0.5, **options)["policy"]
    lengths = {len(row.answer_ids) for row in rows}
    assert min(lengths) <= ANSWER / 2 < max(lengths)
    for row in rows:
        assert row.rewards["coin"] in (-1.0, 1.0)
        beyond = max(0.0, (len(row.answer_ids) - ANSWER / 2) / (ANSWER / 2))
        assert row.rewards["overlong"] == pytest.approx(-beyond)
        assert lab.sampled[row.uid] == row
    lab = run.bench.lab(run.state.params)
    free = tool_rollouts(lab, run.state, None, overlong=0.0, **options)["policy"]
    assert {name for row in free for name in row.rewards} == {"coin"}
    metrics = round_metrics(list(lab.sampled.values()), {}, 0)
    spent = [row.info["tally"]["spent_tokens"] for row in free]
    assert metrics["tally/spent_tokens"] == pytest.approx(np.mean(spent))


def test_the_chance_decides_per_conversation(run, purified, plain):
    _, half = talks(run, chance=0.5)
    edited = [t.tally.shallow + t.tally.deep > 0 for t in half]
    assert 0 < sum(edited) < sum(t.tally.shallow + t.tally.deep > 0 for t in purified[1])
    same = [t.row for t, e in zip(half, edited, strict=True) if not e]
    others = {talk.row.uid: talk.row for talk in plain[1]}
    assert sum(row.answer_ids.tolist() == others[row.uid].answer_ids.tolist() for row in same) > 10


def test_a_limit_of_turns_ends_conversations(run):
    _, found = talks(run, tool=Moody(modulus=1), turns=2)
    counts = [sum(s.source == "policy" for s in t.row.answer) for t in found]
    assert set(counts) == {1, 2}
    assert max(t.tally.first_attempts for t in found) == 2


# ---------------------------------------------------------------------------- one conversation
@pytest.fixture(scope="module")
def loop(run):
    return ToolLoop(run.bench.lab(run.state.params), Calculator(), Rollback(retries=2), 40, 5)


def policy(loop, text):
    tokens = np.array(loop.lab.tokenizer.encode(text), np.int32)
    return Segment(tokens, "policy", logp=-np.ones(len(tokens), np.float32))


def begun(loop, text):
    """A conversation after its first turn and the tool's reply to it."""
    prompt = Segment(np.array(loop.lab.tokenizer.encode("7*8="), np.int32), "prompt")
    row = Row(9, Task("t", (Message("user", "7*8="),), "56"), 9, (prompt,))
    return heard(loop, Talk(row, repairs=True), text)


def heard(loop, talk, text, finish="stop"):
    """The conversation after the pending reply and another turn of the policy."""
    told = loop.lab.tokenizer.encode(talk.pending)
    reply = (Segment(np.array(told, np.int32), "tool"),) if told else ()
    segments = (*talk.row.segments, *reply, policy(loop, text))
    row = dataclasses.replace(talk.row, segments=segments, info={"finish": finish})
    talk, _ = loop.resolve(talk, row)
    return talk if talk.done else loop.execute(talk)


def said(loop, talk):
    return "".join(text for _, text in parts(talk.row, loop.lab))


def test_a_shallow_repair_keeps_the_old_reasoning(loop):
    talk = begun(loop, "7=[(7*8]")
    assert (talk.pending, talk.before.retries, talk.turns) == ("(?1)", 1, 1)
    talk = heard(loop, talk, "8=[7*8]")
    assert said(loop, talk) == "7=[7*8]"
    assert (talk.pending, talk.retries, talk.turns, talk.failed) == ("(56)", 0, 1, False)
    talk = heard(loop, talk, "56", "eos")
    assert talk.done
    assert said(loop, talk) == "7=[7*8](56)56"
    assert talk.tally == Tally(first_attempts=1, shallow=1, spent_tokens=8 + 7 + 2)


def test_a_deep_repair_replaces_the_reasoning(loop):
    talk = heard(loop, begun(loop, "7=[)]"), "8=[7*8]")
    assert said(loop, talk) == "8=[7*8]"
    assert (talk.tally.shallow, talk.tally.deep) == (0, 1)


def test_used_up_retries_leave_the_last_failure_with_a_note_and_end_the_repairs(loop):
    talk = heard(loop, begun(loop, "[(7*8]"), "[7*8)]")
    assert (said(loop, talk), talk.pending) == ("[7*8)]", "(?1?)")
    assert (talk.retries, talk.before.retries) == (1, 2)
    talk = heard(loop, talk, "[7**8]")
    assert (said(loop, talk), talk.pending) == ("[7**8]", "(?0?)")
    assert (talk.repairs, talk.failed, talk.before, talk.turns) == (False, True, None, 1)
    talk = heard(loop, talk, "[7*8]")
    assert said(loop, talk) == "[7**8](?0?)[7*8]"
    assert talk.tally == Tally(
        first_attempts=1, shallow=2, unrecovered=1, spent_tokens=6 + 6 + 6 + 5
    )
    assert heard(loop, talk, "[1]").tally.first_attempts == 2, "a success ends the failure"


def test_an_answer_without_the_tool_keeps_error_and_failure(loop):
    talk = heard(loop, begun(loop, "[(7*8]"), "50", "eos")
    assert talk.done
    assert said(loop, talk) == "[(7*8](?1)50"
    assert (talk.repairs, talk.tally.unrecovered) == (False, 1)
    assert all(s.logp is not None for s in talk.row.answer if s.source == "policy")


def test_at_the_limit_of_tokens_the_checkpoint_comes_back_and_stays(loop):
    talk = heard(loop, begun(loop, "[(7*8]"), "77777", "length")
    assert talk.done
    assert said(loop, talk) == "[(7*8]"
    assert (talk.tally.unrecovered, talk.tally.spent_tokens) == (1, 11)
    long = begun(loop, "7" * 33 + "[(]")
    assert long.done, "there was no room for an error text and a token"
    assert said(loop, long) == "7" * 33 + "[(]"


def test_turns_are_those_of_the_purified_conversation(loop):
    talk = begun(loop, "[1]")
    for _ in range(3):
        talk = heard(loop, heard(loop, talk, "[1)]"), "[1]")
        assert not talk.done
    assert (talk.turns, talk.tally.shallow) == (4, 3)
    assert heard(loop, talk, "[1]").done, "the fifth turn is the last"


# ---------------------------------------------------------------------------- other models
@dataclasses.dataclass(frozen=True)
class ChatTokens(CharTokenizer):
    """Characters that pass for a chat model's tokens."""

    chat: bool = dataclasses.field(default=True, init=False)


def test_a_chat_model_is_told_of_the_tool_and_its_prompt_has_room(tiny_model):
    tokens = ChatTokens(string.printable)
    config = dataclasses.replace(tiny_model.config, vocab_size=tokens.vocab_size)
    params = decoder.init_params(jax.random.key(0), config)
    model = dataclasses.replace(tiny_model, config=config, params=params, tokenizer=tokens)
    options = dataclasses.replace(OPTIONS, prompts=1, samples=2, max_new_tokens=3)
    run = build_run(cleaner(minibatches=1), options, model=model)
    manual = Calculator().manual(compact=False)
    lab = run.bench.lab(run.state.params)
    (row, _) = run.recipe.collect(lab, run.state, run.memory)["policy"]
    asked = run.bench.source.train(0).messages[-1].content
    assert tokens.text(row.prompt_ids.tolist()) == manual + asked
    assert "<calc>" in manual
    longest = run.bench.sampler.prompt_slots
    assert longest == len(manual) + len("What is 7+8? Reply with just the number.") + 3 - 1
    sizes = tool_sizes(run.bench.rollout, 9, tiny_model.tokenizer, tool=Calculator())
    assert sizes.context == 9 + 3 - 1, "the compact form has no manual"


def test_options_of_a_rollback_are_checked():
    with pytest.raises(ValueError, match=r"chance is 1.5, but must lie in \[0, 1\]"):
        Rollback(chance=1.5)
    with pytest.raises(ValueError, match="retries are -1"):
        Rollback(retries=-1)
