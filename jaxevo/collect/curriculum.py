"""Which part of a mixture is asked: most of all what is solved at times."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxevo.collect.lab import Lab
from jaxevo.collect.table import by_group
from jaxevo.tasks.mixture import PART
from jaxevo.types import Row, Task, TaskSource, TrainState

EVEN = 0.5  # success rate of a part that was never asked: its weight is the largest there is


@dataclasses.dataclass(frozen=True)
class SuccessRates:
    """By part of the task source: success rate (exponential mean over rounds) and problems asked.

    How many problems were asked is also where the part goes on.
    """

    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    asked: Mapping[str, int] = dataclasses.field(default_factory=dict)


def part_weights(rate_K: Sequence[float], *, floor: float) -> np.ndarray:
    """w_k = (p_k (1 - p_k) + floor) / sum of these, p_k the success rate of part k.

    p (1 - p) is the variance of a reward of 0 or 1: of groups that are solved never or always a
    policy learns nothing. The floor keeps their rates known.
    """
    p_K = np.asarray(rate_K, float)
    weight_K = p_K * (1.0 - p_K) + floor
    return weight_K / weight_K.sum()


def spread(weight_K: np.ndarray, count: int, *, start: float) -> np.ndarray:
    """`count` indices of parts in proportion to weights, each part's number right to within one.

    Args:
      weight_K: weights that sum to 1.
      count: how many indices.
      start: in [0, 1), where between two of `count` equally spaced points the first one lies.
    """
    points = (np.arange(count) + start) / count
    return np.minimum(np.searchsorted(np.cumsum(weight_K), points, side="right"), len(weight_K) - 1)


def by_success(
    lab: Lab, state: TrainState, memory: SuccessRates, *, floor: float, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems of parts drawn by `part_weights`, G answers each, verified.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      floor: > 0, added to each part's p (1 - p).
      objective: that learns from the rows.
    """
    del state
    return {objective: lab.attempt(chosen_tasks(lab, memory, floor=floor))}


def chosen_tasks(lab: Lab, memory: SuccessRates, *, floor: float) -> list[Task]:
    """The round's P problems: each part goes on where its last problem was asked."""
    parts = lab.source.parts
    rate_K = [memory.rates.get(part.name, EVEN) for part in parts]
    start = float(lab.generator("curriculum").integers(2**32)) / 2**32
    asked, tasks = dict(memory.asked), []
    weight_K = part_weights(rate_K, floor=floor)
    for k in spread(weight_K, lab.config.prompts, start=start).tolist():
        place = asked.get(parts[k].name, 0)
        tasks.append(parts[k].train(place))
        asked[parts[k].name] = place + 1
    lab.position += len(tasks)
    return tasks


def remember_rates(
    memory: SuccessRates, experience: Mapping[str, Sequence[Row]], *, newest: float = 0.3
) -> SuccessRates:
    """The `grow` of `by_success`: p <- p + newest (mean of the round's rewards - p), by part.

    The rewards are the rows' first parts, which are the first verifier's scores in [0, 1], or a
    coin's in a control arm. The first round of a part sets its rate.
    """
    rates, asked = dict(memory.rates), dict(memory.asked)
    scores: dict[str, list[float]] = {}
    for group in by_group(row for rows in experience.values() for row in rows).values():
        part = group[0].task.info[PART]
        asked[part] = asked.get(part, 0) + 1
        scores.setdefault(part, []).extend(next(iter(row.rewards.values())) for row in group)
    for part, own in scores.items():
        mean = float(np.mean(own))
        before = rates.get(part, mean)
        rates[part] = before + newest * (mean - before)
    return dataclasses.replace(memory, rates=rates, asked=asked)


def needs_parts(source: TaskSource) -> None:
    """A `Recipe.needs`: a curriculum chooses between the parts of a mixture.

    Raises:
      ValueError: for a source of fewer than two parts.
    """
    if len(source.parts) < 2:
        raise ValueError(
            f"a curriculum chooses between the parts of a mixture, but task {source.name!r} has "
            "none. Give a mixture such as mix:add1,sub1,add2, or leave --curriculum at 0."
        )
