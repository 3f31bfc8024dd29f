"""Rewards from what several answers to one question agree on; nobody knows the right answer.

Answers are compared as text, in whatever normal form the caller gives them; an empty one says that
nothing could be read, and cannot win.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def majority(answers: Sequence[str]) -> str:
    """The most frequent answer that is not empty, the first seen of equals; "" without any.

    >>> majority(["7", "", "8", "8", "", ""])
    '8'
    """
    counts = Counter(answer for answer in answers if answer)
    return counts.most_common(1)[0][0] if counts else ""


def agreement(answers: Sequence[str]) -> np.ndarray:
    """r_i = 1[answer_i = majority], [n] float64; all 0 when every answer is empty.

    References: arXiv 2504.16084 (TTRL).
    """
    winner = majority(answers)
    return np.array([float(answer == winner != "") for answer in answers])


def consistency(answers: Sequence[str]) -> float:
    """s, the share of all answers that are the majority, in [0, 1].

    It is 0 when more answers are empty than agree.

    Raises:
      ValueError: without answers.
    """
    if not answers:
        raise ValueError("consistency got no answers; it needs at least one.")
    agreeing = agreement(answers).sum()
    return float(agreeing / len(answers)) if agreeing >= list(answers).count("") else 0.0


def bell(share: float, *, sharpness: float = 1.2) -> float:
    """(4 s (1 − s))^sharpness: 1 at s = 0.5, and 0 for a question that is sure or hopeless.

    Args:
      share: s, in [0, 1].
      sharpness: above 1 narrows the bell.

    Raises:
      ValueError: for a share outside [0, 1].

    References: arXiv 2601.22628.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"bell needs a share in [0, 1], got {share}.")
    return (4.0 * share * (1.0 - share)) ** sharpness


def undecided(rewards: Sequence[float], *, low: float = 0.25, high: float = 0.75) -> bool:
    """Whether the mean reward of a group lies in [low, high]; what lies outside teaches little.

    References: arXiv 2601.22628, where the filter of arXiv 2503.14476 takes a band.
    """
    return low <= float(np.mean(rewards)) <= high
