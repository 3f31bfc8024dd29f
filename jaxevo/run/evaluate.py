"""Held-out evaluation: sample, verify, count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxevo.collect.lab import Lab
from jaxevo.run.statistics import majority_at_k, mean_interval, pass_at_k
from jaxevo.types import Row, Task


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Scores of n answers to each of P problems: scorer -> [P, n]; and the answer texts [P][n]."""

    scores: dict[str, np.ndarray]
    texts: list[list[str]]
    rows: list[Row]

    def means(self) -> dict[str, float]:
        """Mean score by scorer."""
        return {name: float(score_PG.mean()) for name, score_PG in self.scores.items()}


def evaluate(
    lab: Lab, tasks: Sequence[Task], *, samples: int, report: Callable[[int], Any] | None = None
) -> Evaluation:
    """Samples `samples` answers to every task and scores them with all verifiers of the source.

    The problems are sampled in waves of the run's P prompts x G answers, so that the sampler's
    compiled program is the one that training uses; surplus answers are dropped.

    Args:
      lab: instruments with published weights; its verifiers are used without a control arm.
      tasks: held-out problems.
      samples: answers per problem, at least 1.
      report: called with the number of problems done after each wave.
    """
    P, G = lab.config.prompts, lab.config.samples
    passes = -(-samples // G)
    rows_PG: list[list[Row]] = [[] for _ in tasks]
    for start in range(0, len(tasks), P):
        wave = list(tasks[start : start + P])
        filled = wave + [wave[-1]] * (P - len(wave))
        for _ in range(passes):
            rows = lab.sample(filled)
            for p in range(len(wave)):
                rows_PG[start + p] += rows[p * G : (p + 1) * G]
        if report is not None:
            report(start + len(wave))
    judged = [lab.verify(rows[:samples]) for rows in rows_PG]
    names = list(lab.source.verifiers)
    scores = {
        name: np.array([[row.info["verdicts"][name] for row in rows] for rows in judged])
        for name in names
    }
    texts = [[lab.answer_text(row) for row in rows] for rows in judged]
    return Evaluation(scores, texts, [row for rows in judged for row in rows])


def statistics(
    result: Evaluation, *, k: Sequence[int]
) -> dict[str, dict[str, tuple[float, float, float]]]:
    """pass@k (unbiased) and maj@k by scorer, each as (mean over problems, low, high) at 95 %.

    The votes of maj@k are the answer texts, white space at the ends aside.
    """
    table: dict[str, dict[str, tuple[float, float, float]]] = {}
    for name, score_PG in result.scores.items():
        right_PG, n = score_PG >= 1.0, score_PG.shape[1]
        rows = table[name] = {}
        for size in k:
            each_P = pass_at_k(n, right_PG.sum(axis=1), size)
            rows[f"pass@{size}"] = _interval(each_P)
        for size in (s for s in k if s > 1):
            votes = [
                majority_at_k([t.strip() or None for t in texts], right_G.tolist(), size)
                for texts, right_G in zip(result.texts, right_PG, strict=True)
            ]
            rows[f"maj@{size}"] = _interval(votes)
    return table


def _interval(value_P: Any) -> tuple[float, float, float]:
    interval = mean_interval([[float(v)] for v in value_P])
    return interval.mean, interval.low, interval.high
