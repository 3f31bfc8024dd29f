"""Ready-made `collect` functions: how rows of one round come about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxevo.collect.lab import Lab
from jaxevo.collect.table import by_group, tallied
from jaxevo.rewards.integer import last_number
from jaxevo.rewards.shaping import overlong_penalty
from jaxevo.rewards.vote import agreement, majority
from jaxevo.types import Bound, Row, TrainState


def single_turn(
    lab: Lab, state: TrainState, memory: Any, *, overlong: float = 0.0, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems, G answers each, verified: the experience of one objective.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      overlong: share of the longest answer over which a penalty grows to 1 (`with_overlong`).
      objective: learns from the rows.
    """
    del state, memory
    rows = lab.attempt(lab.tasks())
    if overlong:
        limit = lab.config.new_tokens
        rows = lab.record([with_overlong(row, row.sampled_tokens, limit, overlong) for row in rows])
    return {objective: rows}


def judged(
    lab: Lab, state: TrainState, memory: Any, *, wave: Bound, judge: Bound
) -> dict[str, list[Row]]:
    """The rows of another wave, which a model judges too.

    A control arm's coin stands for the verifiers alone: what the judge says is added to it.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      wave: a `Recipe.collect` with its options, such as `single_turn`.
      judge: `(lab, rows) -> rows`, such as `judging.judge` with its options.
    """
    rows = wave(lab, state, memory)
    return {objective: judge(lab, own) for objective, own in rows.items()}


def undecided_groups(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    extra_waves: int = 10,
    overlong: float = 0.0,
    mask_truncated: bool = False,
    entropies: bool = False,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P groups whose rewards are not all equal, sampled wave by wave; the surplus is left out.

    Each wave asks the next P problems, until P groups remain or no wave is left. All rows stand in
    `lab.sampled`, those of groups that are dropped as well. What remains says how many waves it
    took (`info["tally"]["waves"]`).

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      extra_waves: most waves after the first one.
      overlong: share of the longest answer over which a penalty grows to 1 (`overlong_penalty`),
        part `overlong`; it comes after the choice of groups.
      mask_truncated: answers that reached the limit are made injected, so that they teach nothing;
        their rewards count in the group.
      entropies: whether rows get the sampler's (`by_token["entropy"]`), for advantages by token.
      objective: learns from the groups.
    """
    del state, memory
    limit, wanted = lab.config.new_tokens, lab.config.prompts
    groups, waves = list[list[Row]](), 0
    while len(groups) < wanted and waves <= extra_waves:
        waves += 1
        wave = by_group(lab.attempt(lab.tasks())).values()
        groups += [group for group in wave if len({row.reward for row in group}) > 1]
    rows = [tallied(row, waves=waves) for group in groups[:wanted] for row in group]
    kept = lab.record([with_overlong(row, row.sampled_tokens, limit, overlong) for row in rows])
    if entropies:
        kept = [with_entropies(row) for row in kept]
    return {objective: [untaught(row) for row in kept] if mask_truncated else kept}


def with_overlong(row: Row, length: int, limit: int, share: float) -> Row:
    """The row with `overlong_penalty` as part `overlong`; a buffer of share 0 adds none."""
    if not share:
        return row
    penalty = overlong_penalty(length, limit=limit, buffer=share * limit)
    return dataclasses.replace(row, rewards={**row.rewards, "overlong": penalty})


def with_entropies(row: Row) -> Row:
    """The row with its sampler's entropy of each answer token, NaN where nothing sampled one."""
    unknown = (np.full(len(s.ids), np.nan) if s.entropy is None else s.entropy for s in row.answer)
    by_token = {**row.by_token, "entropy": np.concatenate([*unknown, np.zeros(0)])}
    return dataclasses.replace(row, by_token=by_token)


def untaught(row: Row) -> Row:
    """The row; one that was cut off at the limit with its answer as injected, under mask 0."""
    if row.info["finish"] != "length":
        return row
    answer = [dataclasses.replace(s, source="injected") for s in row.answer]
    prompt = row.segments[: len(row.segments) - len(answer)]
    return dataclasses.replace(row, segments=(*prompt, *answer))


def voted(lab: Lab, rows: Sequence[Row]) -> list[Row]:
    """Rewards each row for agreeing with the majority of its group (part `vote`, 0 or 1).

    What a row answers is its last number; `info["majority"]` is the group's.
    """
    judged = []
    for group in by_group(rows).values():
        answers = read_answers(lab, group)
        winner = majority(answers)
        for row, reward in zip(group, agreement(answers).tolist(), strict=True):
            info = {**row.info, "majority": winner}
            judged.append(dataclasses.replace(row, rewards={"vote": reward}, info=info))
    return lab.record(judged)


def read_answers(lab: Lab, rows: Sequence[Row]) -> list[str]:
    """The last number of each row's answer, "" where there is none."""
    return [last_number(lab.answer_text(row)) for row in rows]
