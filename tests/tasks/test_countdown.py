"""Countdown: every problem can be solved, and an answer is judged by exact arithmetic."""

import time
from fractions import Fraction

import pytest

from jaxevo.tasks.countdown import GIVEN, LONGEST, countdown, evaluated, reaches
from jaxevo.types import Task

TASK = Task("t", (), "", {"numbers": [3, 5, 8], "target": 1})


@pytest.mark.parametrize("name", GIVEN)
def test_own_solutions_pass_and_no_problem_is_on_both_sides(name):
    source = countdown(name)
    train = [source.train(i) for i in range(len(source.train.items))]
    held_out = [source.held_out(i) for i in range(source.held_out_size)]
    for task in train + held_out:
        assert reaches(task, task.answer).status == "pass"
        assert len(task.info["numbers"]) == GIVEN[name]
        assert str(task.info["target"]) in task.messages[0].content
    sides = [{(*sorted(t.info["numbers"]), t.info["target"]) for t in s} for s in (train, held_out)]
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [len(train), 256]
    assert held_out[0] == countdown(name, seed=5).held_out(0)


@pytest.mark.parametrize(
    ("text", "status", "feedback"),
    [
        ("(3 + 5) / 8", "pass", ""),
        ("(3+5)/8 = 1", "pass", ""),
        ("First 3 * 5 = 15, no. So: (5 + 3) ÷ 8 = 1", "pass", ""),
        ("8/(5+3)", "pass", ""),
        ("3 + 5 - 8", "fail", '"3 + 5 - 8" is 0, not 1'),
        ("3 / 5 + 8", "fail", "is 43/5, not 1"),
        ("8 / 8", "fail", "does not use each of 3, 5, 8 exactly once"),
        ("3 + 5 / 8 + 3", "fail", "does not use each of 3, 5, 8 exactly once"),
        ("8 / (3 - 3)", "fail", "divides by 0"),
        ("(3 + 5 / 8", "fail", "cannot be read"),
        ("3 ** 5 / 8", "fail", "holds more than whole numbers"),
        ("3 // 5 - 8", "fail", "holds more than whole numbers"),
        ("-3 + 5 * 8", "fail", "is 43, not 1"),
        ("1", "fail", "no expression"),
        ("__import__('os')", "fail", "no expression"),
        ("", "fail", "no expression"),
        ("1+" * LONGEST + "1", "fail", f"more than {LONGEST} characters"),
        ("(" * 99 + "3-5-8" + ")" * 90, "fail", "cannot be read"),
        ("9**9**9**9", "fail", "holds more than whole numbers"),
    ],
)
def test_answers(text, status, feedback):
    verdict = reaches(TASK, text)
    assert verdict.status == status
    assert verdict.score == (1.0 if status == "pass" else 0.0)
    assert feedback in verdict.feedback


def test_long_answers_are_read_in_linear_time():
    start = time.perf_counter()
    assert reaches(TASK, "8/(5+3) = 1, or " + "(" * 300_000).status == "pass"
    assert reaches(TASK, "(" * 300_000 + "1+1").feedback.startswith("Your expression has more than")
    assert time.perf_counter() - start < 2  # 300,000 squared would take hours


def test_values_are_exact():
    assert evaluated("1/3 + 1/3 + 1/3") == (Fraction(1), [1, 3, 1, 3, 1, 3])


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match=r"no countdown 'countdown5'"):
        countdown("countdown5")
