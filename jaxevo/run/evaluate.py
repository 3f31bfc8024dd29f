"""Held-out evaluation: sample, verify, count."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxevo.collect.lab import Lab
from jaxevo.rewards.integer import last_number
from jaxevo.run.statistics import Interval, bootstrap_interval, majority_at_k, pass_at_k
from jaxevo.tasks.mixture import PART
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

    def by_problem(self) -> dict[str, list[float]]:
        """Mean score of each problem by scorer, five decimals."""
        return {
            name: [round(float(x), 5) for x in score_PG.mean(axis=1)]
            for name, score_PG in self.scores.items()
        }

    def of_part(self, name: str) -> Evaluation:
        """That of the problems of one part of a mixture."""
        samples = len(self.texts[0])
        by_problem = [self.rows[p * samples : (p + 1) * samples] for p in range(len(self.texts))]
        own = [p for p, rows in enumerate(by_problem) if rows[0].task.info[PART] == name]
        return Evaluation(
            {scorer: score_PG[own] for scorer, score_PG in self.scores.items()},
            [self.texts[p] for p in own],
            [row for p in own for row in by_problem[p]],
        )


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
        name: np.array([[row.info["verdicts"][name].score for row in rows] for rows in judged])
        for name in names
    }
    texts = [[lab.answer_text(row) for row in rows] for rows in judged]
    return Evaluation(scores, texts, [row for rows in judged for row in rows])


def statistics(
    result: Evaluation, *, k: Sequence[int], seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Accuracy, pass@k (unbiased) and maj@k by scorer, with 95 % bootstrap intervals over problems.

    accuracy is the mean score, pass@k and maj@k count answers of score 1. What answers vote for in
    maj@k is `votes`; a tie goes to each of the tied answers with equal chance.
    """
    table: dict[str, dict[str, Interval]] = {}
    for name, score_PG in result.scores.items():
        right_PG, n = score_PG >= 1.0, score_PG.shape[1]
        values: dict[str, Any] = {"accuracy": score_PG.mean(axis=1)}
        for size in k:
            values[f"pass@{size}"] = pass_at_k(n, right_PG.sum(axis=1), size)
        votes_PG = votes(result.texts, right_PG)
        for size in (s for s in k if s > 1):
            values[f"maj@{size}"] = [
                majority_at_k(votes_G, right_G.tolist(), size)
                for votes_G, right_G in zip(votes_PG, right_PG, strict=True)
            ]
        table[name] = {what: bootstrap_interval(v, seed=seed) for what, v in values.items()}
    return table


def votes(texts: Sequence[Sequence[str]], right_PG: np.ndarray) -> list[list[str | None]]:
    """What each answer votes for: its last number, or its text where it has none; None if empty.

    A scorer that calls answers with the same last number right and wrong reads more than that
    number, so all of its votes are whole texts, white space at the ends aside.
    """
    numbers = [[last_number(t) or t.strip() or None for t in texts_G] for texts_G in texts]
    for votes_G, right_G in zip(numbers, right_PG, strict=True):
        ballots = {(vote, bool(flag)) for vote, flag in zip(votes_G, right_G, strict=True)}
        if len(ballots) > len(set(votes_G)):
            return [[t.strip() or None for t in texts_G] for texts_G in texts]
    return numbers
