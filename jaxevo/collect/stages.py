"""What changes from round to round: stages that take turns, and numbers that fade out."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Mapping
from itertools import accumulate
from typing import Any, TypeAlias

from jaxevo.collect.lab import Lab
from jaxevo.collect.table import tallied
from jaxevo.types import Bound, Counters, Row, TrainState

Schedule: TypeAlias = tuple[tuple[str, int], ...]  # names of stages and their numbers of rounds


def stage_of(counters: Counters, *, schedule: Schedule) -> tuple[str, int]:
    """The stage of a round and which of the stage's rounds it is, from 0.

    Stages follow each other, and after the last one the first comes again; a stage of 0 rounds is
    left out.

    Raises:
      ValueError: a schedule without rounds, or with fewer than 0.
    """
    lengths = [rounds for _, rounds in schedule]
    if sum(lengths) < 1 or min(lengths) < 0:
        raise ValueError(f"a schedule needs stages of at least 0 rounds, and a round; {schedule}.")
    round_of_cycle, ends = counters["round"] % sum(lengths), list(accumulate(lengths))
    stage = bisect.bisect_right(ends, round_of_cycle)
    return schedule[stage][0], round_of_cycle - ends[stage] + lengths[stage]


def begins(counters: Counters, *, schedule: Schedule, stage: str) -> bool:
    """True in the first round of each turn of a stage: an `Objective.reset`."""
    return stage_of(counters, schedule=schedule) == (stage, 0)


def has_turn(counters: Counters, *, schedule: Schedule, stage: str) -> bool:
    """True in each round of a stage: a `ParamSet.when`."""
    return stage_of(counters, schedule=schedule)[0] == stage


def take_turns(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    schedule: Schedule,
    waves: tuple[Bound, ...],
) -> Mapping[str, list[Row]]:
    """The experience of the stage that has its turn.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      schedule: names and rounds of the stages.
      waves: for each stage `(lab, state, memory) -> experience`.
    """
    stage, _ = stage_of(state.counters, schedule=schedule)
    names = [name for name, _ in schedule]
    return waves[names.index(stage)](lab, state, memory)


def first_then(
    lab: Lab, state: TrainState, memory: Any, *, rounds: int, first: Bound, then: Bound
) -> dict[str, list[Row]]:
    """The experience of one wave in the first so many rounds, and of another in all others.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      rounds: of the first wave.
      first, then: `(lab, state, memory) -> experience`.
    """
    wave = first if state.counters["round"] < rounds else then
    return wave(lab, state, memory)


def linear_decay(
    counters: Counters, *, start: float, hold: int = 0, over: int | None = None
) -> float:
    """start · clip(1 − (round − hold) / over, 0, 1), the round counted from 0.

    Args:
      counters: of the round.
      start: the value until the decay begins.
      hold: round with which it begins; -1 takes its first step in the first round already.
      over: rounds that it takes, None for no decay.

    Raises:
      ValueError: for fewer than 1 rounds.
    """
    if over is None:
        return start
    if over < 1:
        raise ValueError(f"a decay takes at least 1 rounds, got {over}.")
    return start * min(max(1.0 - (counters["round"] - hold) / over, 0.0), 1.0)


def annealed(
    lab: Lab, state: TrainState, memory: Any, *, wave: Bound, number: str, schedule: Bound
) -> dict[str, list[Row]]:
    """The rows of another wave, each with a value that depends on the round alone.

    It is data, so that nothing is compiled anew when it changes, and hangs on the round's counters,
    so that a resumed run has the same.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      wave: a `Recipe.collect` with its options.
      number: the value's name in `Row.numbers` and `info["tally"]`.
      schedule: `(counters) -> value`.
    """
    value = schedule(state.counters)
    experience = wave(lab, state, memory)
    return {
        objective: lab.record([_stamped(row, number, value) for row in rows])
        for objective, rows in experience.items()
    }


def _stamped(row: Row, number: str, value: float) -> Row:
    own = dataclasses.replace(row, numbers={**row.numbers, number: value})
    return tallied(own, **{number: value})
