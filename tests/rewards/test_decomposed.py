import numpy as np
import pytest

from jaxevo.envs.scene import quadrant, questions, scene_reward
from jaxevo.rewards import decomposed
from jaxevo.types import Message, Task

SUM = Task("7+8", (Message("user", "7+8="),), "15")  # odd: left; from 10 on: above


def test_the_worked_number():
    assert decomposed((0.9, 0.8, 0.2), (0.7, 0.9)) == pytest.approx(0.7118052, abs=1e-7)


def test_a_group_without_questions_is_refused():
    with pytest.raises(ValueError, match="no quality question"):
        decomposed((0.5,), ())


def test_every_quadrant_has_its_number():
    assert [quadrant(n) for n in (4, 9, 10, 15)] == [(1, -1), (-1, -1), (1, 1), (-1, 1)]


def test_near_misses_lie_strictly_between_all_wrong_and_all_right():
    right, left = np.array([-1.0, 1.0]), np.array([1.0, -1.0])
    best, worst = scene_reward(SUM, "15", right), scene_reward(SUM, "14", left)
    for text, point in (("14", right), ("15", np.array([1.0, 1.0])), ("15", left)):
        assert worst < scene_reward(SUM, text, point) < best
    (x, y), (number,) = questions(SUM, "15", np.array([-0.5, 0.0]))
    assert x == pytest.approx(1 / (1 + np.exp(-2 * 2.0 * 0.5)))
    assert (y, number) == (0.5, 0.95)
