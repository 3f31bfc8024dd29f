"""Answers in several turns with a tool between them, and failed calls that are made good.

All conversations of a wave advance together: the policy writes until it ends a call or its answer,
the tool replies, and so on. Conversations are values, so a checkpoint of one is just the older
value: a failed call is tried again with its error in sight, the call that comes of it overwrites
the failed one in the checkpoint, and neither error nor failure is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxevo.collect.edits import Marks, Turn, call_text, last_turn, repair_kind, splice
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.waves import with_overlong
from jaxevo.envs.calculator import Tool
from jaxevo.rewards.shaping import signed
from jaxevo.types import Message, Row, Size, Sizes, Source, Task, TrainState


@dataclasses.dataclass(frozen=True)
class Rollback:
    """How failed calls are made good.

    chance: share of the conversations in which they are, in [0, 1]. retries: tries after the first
    one, per call. similar: `edits.repair_kind`.
    """

    chance: float = 1.0
    retries: int = 3
    similar: float = 0.5

    def __post_init__(self) -> None:
        shares = {"chance": self.chance, "similar": self.similar}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"a rollback's {name} is {share}, but must lie in [0, 1].")
        if self.retries < 0:
            raise ValueError(f"a rollback's retries are {self.retries}, but must be at least 0.")


@dataclasses.dataclass(frozen=True)
class Tally:
    """What happened in one conversation.

    first_attempts: calls that do not follow a failed one; first_attempts_ok: those of them that
    worked, before any repair. shallow, deep: failed calls that were overwritten,
    whether the new one worked or not. unrecovered: failed calls that are left in the conversation.
    spent_tokens: all tokens sampled for it, those of overwritten turns included.
    """

    first_attempts: int = 0
    first_attempts_ok: int = 0
    shallow: int = 0
    deep: int = 0
    unrecovered: int = 0
    spent_tokens: int = 0

    def plus(self, **counts: int) -> Tally:
        known = dataclasses.asdict(self)
        return Tally(**known | {name: known[name] + count for name, count in counts.items()})


@dataclasses.dataclass(frozen=True)
class Talk:
    """A conversation in progress.

    pending: what the tool says next. turns: of the policy. repairs: whether failed calls are made
    good. retries: of the call at hand. failed: the last call failed, and that is left to be seen.
    before: the checkpoint to come back to, while a failed call is tried again.
    """

    row: Row
    repairs: bool
    pending: str = ""
    turns: int = 0
    retries: int = 0
    failed: bool = False
    before: Talk | None = None
    done: bool = False
    tally: Tally = Tally()


@dataclasses.dataclass(frozen=True)
class ToolLoop:
    """What holds for all conversations of a wave.

    answer: most tokens of a conversation after its prompt, the tool's included. turns: most turns
    of the policy. params: the set that speaks. role: what the rows are called.
    """

    lab: Lab
    tool: Tool
    rollback: Rollback
    answer: int
    turns: int
    params: str = "policy"
    role: str = "policy"

    @property
    def compact(self) -> bool:
        return not self.lab.tokenizer.chat

    @property
    def marks(self) -> Marks:
        return self.tool.marks(compact=self.compact)

    @property
    def stop(self) -> tuple[str, ...]:
        return (*self.lab.config.sampling.stop, self.marks[1])

    def run(self, tasks: Sequence[Task], samples: int) -> list[Talk]:
        """All conversations to their ends, in the order of tasks and samples."""
        asked = [with_manual(task, self.tool.manual(compact=self.compact)) for task in tasks]
        how = {"params": self.params, "new_tokens": self.answer, "stop": self.stop}
        rows = self.lab.sample(asked, samples=samples, role=self.role, keep=True, **how)
        repaired_N = self.lab.generator("rollback").random(len(rows)) < self.rollback.chance
        new = [Talk(row, bool(repaired_N[n])) for n, row in enumerate(rows)]
        talks = self._advance(new, rows)
        while live := [n for n, talk in enumerate(talks) if not talk.done]:
            now = [talks[n] for n in live]
            for n, talk in zip(live, self._advance(now, self._sample(now)), strict=True):
                talks[n] = talk
        return talks

    def _sample(self, talks: Sequence[Talk]) -> list[Row]:
        told = [self.lab.tokenizer.encode(talk.pending) for talk in talks]
        room = [
            self.answer - len(talk.row.answer_ids) - len(ids)
            for talk, ids in zip(talks, told, strict=True)
        ]
        replies: list[tuple[Source, list[int]]] = [("tool", ids) for ids in told]
        rows = [talk.row for talk in talks]
        return self.lab.extend(rows, replies, params=self.params, new_tokens=room, stop=self.stop)

    def _advance(self, talks: Sequence[Talk], rows: Sequence[Row]) -> list[Talk]:
        """Every conversation after another turn of the policy, which the rows end with."""
        heard = [self.resolve(t, row) for t, row in zip(talks, rows, strict=True)]
        edited = [n for n, (_, edit) in enumerate(heard) if edit]
        after = [talk for talk, _ in heard]
        for n, row in zip(edited, self.lab.fork([after[n].row for n in edited]), strict=True):
            after[n] = dataclasses.replace(after[n], row=row)
        return [talk if talk.done else self.execute(talk) for talk in after]

    def resolve(self, talk: Talk, row: Row) -> tuple[Talk, bool]:
        """Takes in a turn; after a failed call this decides what becomes of the checkpoint.

        Returns:
          the conversation, and whether its row was edited, so that it must be forked.
        """
        turn, before = last_turn(row), talk.before
        tally = talk.tally.plus(spent_tokens=len(row.segments[-1].ids))
        talk = dataclasses.replace(talk, row=row, pending="", turns=talk.turns + 1, tally=tally)
        if before is None:
            return talk, False
        new = self._call(turn)
        if new is None and row.info["finish"] == "length":
            return _given_up(talk), False
        if new is None:  # it goes on without the tool: error and failure stay
            tally = tally.plus(unrecovered=1)
            return dataclasses.replace(talk, repairs=False, before=None, tally=tally), False
        old = self._call(last_turn(before.row)) or ""
        kind = repair_kind(old, new, similar=self.rollback.similar)
        options = {"tokenizer": self.lab.tokenizer, "begin": self.marks[0]}
        spliced, kind = splice(before.row, turn, kind, **options)
        tally = tally.plus(**{kind: 1})
        return dataclasses.replace(before, row=spliced, tally=tally), True

    def execute(self, talk: Talk) -> Talk:
        """Lets the tool reply to the call with which the conversation ends, if it does."""
        call = self._call(last_turn(talk.row))
        if call is None:
            return dataclasses.replace(talk, done=True)
        reply = self.tool.reply(call, compact=self.compact, again=talk.retries > 0)
        fine = not reply.error
        talk = dataclasses.replace(talk, pending=reply.text)
        if not talk.failed and talk.retries == 0:
            tally = talk.tally.plus(first_attempts=1, first_attempts_ok=int(fine))
            talk = dataclasses.replace(talk, tally=tally)
        if fine:
            return self._while_room(dataclasses.replace(talk, failed=False, retries=0))
        if talk.repairs and talk.retries < self.rollback.retries:
            checkpoint = dataclasses.replace(talk, pending="", retries=talk.retries + 1)
            return self._while_room(dataclasses.replace(talk, before=checkpoint))
        tally = talk.tally.plus(unrecovered=1)
        left = dataclasses.replace(talk, repairs=False, failed=True, retries=0, tally=tally)
        return self._while_room(left)

    def _call(self, turn: Turn) -> str | None:
        return call_text(turn, self.lab.tokenizer, self.marks)

    def _while_room(self, talk: Talk) -> Talk:
        """Done when no turn is left, or no token after the reply."""
        used = len(talk.row.answer_ids) + len(self.lab.tokenizer.encode(talk.pending))
        if talk.turns < self.turns and used < self.answer:
            return talk
        return dataclasses.replace(_given_up(talk) if talk.before else talk, done=True)


def _given_up(talk: Talk) -> Talk:
    """Back at the checkpoint, to stay there."""
    assert talk.before is not None
    tally = talk.tally.plus(unrecovered=1)
    return dataclasses.replace(talk.before, done=True, tally=tally)


def with_manual(task: Task, manual: str) -> Task:
    """The task with what a prompt says of a tool before the words of its last message."""
    *earlier, last = task.messages
    told = Message(last.role, manual + last.content)
    return dataclasses.replace(task, messages=(*earlier, told))


# ---------------------------------------------------------------------------- a whole wave
def tool_rollouts(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    tool: Tool,
    turns: int,
    rollback: Rollback,
    overlong: float = 0.0,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P problems, G conversations with a tool each, verified: the experience of one objective.

    Args:
      lab, state, memory: as for every `Recipe.collect`. The run's longest answer bounds the whole
        conversation after the prompt.
      tool: what may be called.
      turns: most turns of the policy.
      rollback: how failed calls are made good.
      overlong: share of the longest answer, in [0, 1], over which `overlong_penalty` grows.
      objective: whose rows these are.

    Returns:
      rows with a reward of -1 or 1, less the penalty (part `overlong`); `info["tally"]` is their
      `Tally`.
    """
    del state, memory
    limit = lab.config.new_tokens
    loop = ToolLoop(lab, tool, rollback, limit, turns)
    talks = loop.run(lab.tasks(), lab.config.samples)
    rows = lab.verify([_with_tally(talk) for talk in talks])
    return {objective: lab.record([_shaped(row, limit, overlong) for row in rows])}


def _with_tally(talk: Talk) -> Row:
    info = {**talk.row.info, "tally": dataclasses.asdict(talk.tally)}
    return dataclasses.replace(talk.row, info=info)


def _shaped(row: Row, limit: int, overlong: float) -> Row:
    rewards = {name: signed(score) for name, score in row.rewards.items()}
    row = dataclasses.replace(row, rewards=rewards)
    return with_overlong(row, len(row.answer_ids), limit, overlong)


def tool_sizes(rollout: RolloutConfig, prompt_tokens: int, tokenizer: Any, *, tool: Tool) -> Sizes:
    """Room for P x G conversations; the longest is sampled on from all of itself but a token."""
    prompt = prompt_tokens + len(tokenizer.encode(tool.manual(compact=not tokenizer.chat)))
    answer, group = rollout.new_tokens, rollout.samples
    slots = prompt + group * (answer - 1)
    size = Size(rollout.prompts * group, answer=answer, group=group, slots=slots)
    return Sizes(prompt + answer - 1, {"policy": size})
