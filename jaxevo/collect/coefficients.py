"""Rows whose tokens count as much as they tell right answers from wrong ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxevo.advantages import number_advantage
from jaxevo.advantages.discriminant import Boundary, discriminant_coefficients
from jaxevo.collect.lab import Lab
from jaxevo.collect.readings import discriminant_sums
from jaxevo.collect.table import prepare, tallied
from jaxevo.types import Bound, Objective, Row, TrainState, bind


def discriminated(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    wave: Bound,
    like: Objective,
    refinements: int = 1,
    low: float = 0.8,
    high: float = 1.2,
) -> dict[str, list[Row]]:
    """The rows of another wave, with `discriminant_coefficients` as `by_token["coefficient"]`.

    They belong to the round's rows and to the weights that sampled them: all its updates use them.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      wave: a `Recipe.collect` with its options; its rows have a reward.
      like: the objective that learns them, with the advantage of each row; its set is read.
      refinements, low, high: as in `discriminant_coefficients`.
    """
    how = {"refinements": refinements, "low": low, "high": high}
    rows = wave(lab, state, memory)[like.name]
    return {like.name: lab.record(with_coefficients(lab, rows, like=like, **how))}


def with_coefficients(
    lab: Lab, rows: Sequence[Row], *, like: Objective, refinements: int, low: float, high: float
) -> list[Row]:
    """The rows with their coefficients; `info["tally"]` has how far those of a row lie apart.

    No forward pass is made for rows without advantage: all their tokens have the least one.
    """
    table = prepare(rows, like, max(len(row.answer_ids) for row in rows), lab.tokenizer)
    advantage_N, mask_NA = table.batch.advantage_N, table.batch.answers["text"].mask_NA
    advantage_N, mask_NA = np.asarray(advantage_N), np.asarray(mask_NA)
    live = np.flatnonzero(advantage_N).tolist()
    told = [_with_number(rows[n], float(advantage_N[n])) for n in live]
    own = bind(discriminant_sums, params=like.trains)
    alone = dataclasses.replace(like, advantage=bind(number_advantage, number="advantage"))

    def read(boundary: Boundary | None) -> Mapping[str, np.ndarray]:
        operands = () if boundary is None else (boundary,)
        found = lab.map(own, told, like=alone, operands=operands)
        found["margin"] = found["margin"][:, : mask_NA.shape[1]]
        return {name: _scattered(x, live, len(rows)) for name, x in found.items()}

    how = {"refinements": refinements, "low": low, "high": high}
    coefficient_NA = discriminant_coefficients(read, advantage_N, mask_NA, **how)
    return [_told(*pair) for pair in zip(rows, coefficient_NA, strict=True)]


def _with_number(row: Row, advantage: float) -> Row:
    return dataclasses.replace(row, numbers={**row.numbers, "advantage": advantage})


def _scattered(x: np.ndarray, where: Sequence[int], count: int) -> np.ndarray:
    whole = np.zeros((count, *x.shape[1:]), x.dtype)
    whole[where] = x
    return whole


def _told(row: Row, coefficient_A: np.ndarray) -> Row:
    own = coefficient_A[: len(row.answer_ids)].astype(np.float32)
    told = dataclasses.replace(row, by_token={**row.by_token, "coefficient": own})
    return tallied(told, coefficient_spread=float(np.ptp(own)))
