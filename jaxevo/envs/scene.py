"""A drawing so small that it can be judged exactly: one point in the plane.

A problem's number names a quadrant: even ones lie on the right, those from 10 on above. The policy
writes the number and then draws a point. Two questions are about what was asked for (is the point
on the right side along x, along y), one about how well it was thought out (is the number right).
"""

from __future__ import annotations

import math

import numpy as np

from jaxevo.rewards import decomposed, last_integer
from jaxevo.types import Task

SURE = 0.95  # probability that the judge gives to a right text


def quadrant(number: int) -> tuple[int, int]:
    """Signs along x (+ for even numbers) and y (+ for numbers from 10 on)."""
    return 1 - 2 * (number % 2), 1 if number >= 10 else -1


def questions(
    task: Task, text: str, point: np.ndarray, *, sharpness: float = 2.0
) -> tuple[tuple[float, float], tuple[float]]:
    """A judge's probabilities of yes: (right side along x and y), (right number).

    Args:
      task: whose answer is the number.
      text: what was thought.
      point: [2], what was drawn.
      sharpness: of the judge: yes with 1 / (1 + exp(-2 sharpness · distance to the border)).
    """
    right = last_integer(task, text).score
    sides = (
        0.5 + 0.5 * math.tanh(sharpness * sign * float(at))
        for sign, at in zip(quadrant(int(task.answer)), point, strict=True)
    )
    x, y = sides
    return (x, y), (SURE if right else 1 - SURE,)


def scene_reward(task: Task, text: str, point: np.ndarray) -> float:
    """`decomposed` reward of the questions, in [0, 1]."""
    return decomposed(*questions(task, text, point))
