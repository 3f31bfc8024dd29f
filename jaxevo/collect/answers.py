"""Rounds of single answers with more than a reward: given, right, best and worst, valued."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jaxevo.advantages import zero_advantage
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.readings import answer_logp, token_values
from jaxevo.collect.table import by_group
from jaxevo.losses.preference import kl_baseline
from jaxevo.types import Objective, Row, Segment, Size, Sizes, TrainState, bind

Overlong = Literal["refuse", "cut"]


def given_answers(
    lab: Lab, state: TrainState, memory: Any, *, overlong: Overlong, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems, each with its own answer as a forced segment that ends the turn; nothing sampled.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      overlong: what becomes of an answer of more tokens than the run's limit: an error, or its
        first tokens, without an end.
      objective: learns the rows.

    Raises:
      ValueError: for a problem without an answer, or an answer that is too long.
    """
    del state, memory
    rows = lab.asked(lab.tasks())
    return {objective: lab.record([_answered(lab, row, overlong) for row in rows])}


def _answered(lab: Lab, row: Row, overlong: Overlong) -> Row:
    task, limit = row.task, lab.config.new_tokens
    if not task.answer:
        raise ValueError(f"task {task.uid} has an empty answer, so there is nothing to learn.")
    ids = np.array(lab.tokenizer.turn(task.answer), np.int32)
    if len(ids) > limit and overlong == "refuse":
        raise ValueError(
            f"the answer of task {task.uid} has {len(ids)} tokens with its end, but "
            f'--max-new-tokens is {limit}. Raise it, or take overlong="cut".'
        )
    finish = "stop" if len(ids) <= limit else "length"
    forced = Segment(ids[:limit], "forced")
    info = {**row.info, "finish": finish}
    return dataclasses.replace(row, segments=(*row.segments, forced), info=info)


def right_answers(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    most: int,
    distinct: bool,
    least_reward: float,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P problems, G answers each; those of at least `least_reward` are learnt, first come first.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      most: answers of a problem that are learnt at most, 0 for all.
      distinct: whether of equal texts only the first is kept.
      least_reward: of an answer that is right.
      objective: learns the rows.
    """
    del state, memory
    rows = lab.attempt(lab.tasks())
    right = [row for row in rows if row.reward >= least_reward]
    groups = by_group(_first_of_each_text(lab, right) if distinct else right).values()
    return {objective: [row for group in groups for row in group[: most or None]]}


def _first_of_each_text(lab: Lab, rows: Sequence[Row]) -> list[Row]:
    first: dict[tuple[int, str], Row] = {}
    for row in rows:
        first.setdefault((row.group, lab.answer_text(row)), row)
    return list(first.values())


def best_and_worst(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    like: Objective | None = None,
    reference: str = "reference",
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P problems, G answers each; the best and the worst of a group are learnt, unless they tie.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      like: reads what all answers of the round, good or bad, are worth to the policy against the
        reference (`kl_baseline`), which becomes `numbers["baseline"]`; None for no baseline.
      reference: the parameter set that it compares with.
      objective: learns the rows.
    """
    del state, memory
    rows, numbers = lab.attempt(lab.tasks()), {}
    if like is not None:
        now, before = (
            lab.map(bind(answer_logp, params=name), rows, like=like)
            for name in (like.trains, reference)
        )
        numbers = {"baseline": float(kl_baseline(now - before))}
    chosen = []
    for group in by_group(rows).values():
        best, worst = (pick(group, key=lambda row: row.reward) for pick in (max, min))
        if best.reward > worst.reward:
            chosen += [dataclasses.replace(row, numbers=numbers) for row in (best, worst)]
    return {objective: chosen}


def valued_answers(
    lab: Lab, state: TrainState, memory: Any, *, value: Objective, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems, G answers each, with what was expected before each of their tokens.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      value: learns the values, from the same rows; its set says them now.
      objective: learns the answers.
    """
    del state, memory
    rows = with_values(lab, lab.attempt(lab.tasks()), value=value)
    return {value.name: rows, objective: rows}


def with_values(lab: Lab, rows: Sequence[Row], *, value: Objective) -> list[Row]:
    """The rows with `by_token["value"]`, the value head's output before each answer token.

    Args:
      lab: of a training run.
      rows: of any number.
      value: the objective that trains the values; its set is read, under its shapes.
    """
    reading = dataclasses.replace(value, advantage=bind(zero_advantage))
    said_NA = lab.map(bind(token_values, params=value.trains), rows, like=reading)
    return [
        dataclasses.replace(row, by_token={**row.by_token, "value": said_A[: len(row.answer_ids)]})
        for row, said_A in zip(rows, said_NA, strict=True)
    ]


def answers_sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    most: int = 0,
    least: int = 1,
    asked_tokens: int = 0,
    objective: str = "policy",
) -> Sizes:
    """Room for at most `most` answers to each of P problems, 0 for all G.

    asked_tokens: longest prompt of what else the wave asks: of a judge, a critic.

    Raises:
      ValueError: for fewer than `least` answers per problem, or for `most` below 0.
    """
    del tokenizer
    if most < 0:
        raise ValueError(f"most={most} must be at least 0, which keeps all answers.")
    if rollout.samples < least:
        raise ValueError(
            f"--samples is {rollout.samples}, but answers are compared: {least} or more."
        )
    P, A = rollout.prompts, rollout.new_tokens
    count = min(most or rollout.samples, rollout.samples)
    size = Size(P * count, answer=A, group=count, slots=prompt_tokens + count * (A - 1))
    return Sizes(max(prompt_tokens, asked_tokens), {objective: size})
