"""Ready-made `collect` functions: how rows of one round come about."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jaxevo.collect.lab import Lab
from jaxevo.collect.table import by_group
from jaxevo.rewards.integer import last_number
from jaxevo.rewards.vote import agreement, majority
from jaxevo.types import Row, TrainState


def single_turn(
    lab: Lab, state: TrainState, memory: Any, *, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems, G answers each, verified: the experience of one objective."""
    del state, memory
    return {objective: lab.attempt(lab.tasks())}


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
