"""Countdown: reach a target from given numbers with + - * / and brackets, each number once.

The problems are fixed and all can be solved; a quarter of them is held out by a fixed hash of
numbers and target.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

from jaxevo.names import did_you_mean
from jaxevo.tasks.draw import fixed_hash, hashed_split, task_source
from jaxevo.types import Message, Task, TaskSource, Verdict

GIVEN = {"countdown": 3, "countdown4": 4}  # how many numbers
PROBLEMS = 4096
HIGHEST, TARGET = 20, 100  # the largest given number, and the largest target
LONGEST = 200  # characters of an expression that are read

_SIGNS = "+-*/"
_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_TYPED = str.maketrans("×÷−", "*/-")
_RUN = re.compile(r"[0-9+\-*/() ]+")


def countdown(name: str = "countdown", *, seed: int = 0) -> TaskSource:
    """A source of countdown problems.

    Args:
      name: `countdown` (three numbers from 1 to 20, target at most 100) or `countdown4` (four).
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source whose tasks carry `info`: numbers and target. A task's answer is one of the
      right expressions.

    Raises:
      ValueError: for an unknown name or a negative seed.
    """
    if name not in GIVEN:
        raise ValueError(f"no countdown {name!r}. {did_you_mean(name, GIVEN)}")
    problems = list(itertools.islice(_problems(GIVEN[name]), PROBLEMS))
    sides = hashed_split(problems, lambda problem: f"countdown {_same(problem)}")
    train, held_out = ([_task(name, *problem) for problem in side] for side in sides)
    return task_source(name, (train, held_out), verifiers={"reaches": reaches}, seed=seed)


def reaches(task: Task, text: str) -> Verdict:
    """Passes when the last expression of the text has the target's value and uses each number once.

    Exact rational arithmetic over a parsed expression of + - * / and brackets; nothing is executed.
    What stands behind an equals sign is not read, unless it is an expression as well.

    Args:
      task: `info` has numbers and target.
      text: the answer of a model, of any length and content.

    Returns:
      pass, or fail with what is wrong.
    """
    given, target = task.info["numbers"], task.info["target"]
    runs = _RUN.findall(text.translate(_TYPED))
    trimmed = [run.lstrip("+-*/) ").rstrip("+-*/( ") for run in runs]
    found = [e for e in trimmed if set(e) & set(_SIGNS)]
    if not found:
        return Verdict("fail", 0.0, "There was no expression in your answer.")
    said = found[-1]
    if len(said) > LONGEST:
        return Verdict("fail", 0.0, f"Your expression has more than {LONGEST} characters.")
    try:
        value, used = evaluated(said)
    except ValueError as fault:
        return Verdict("fail", 0.0, f'Your expression "{said}" {fault}.')
    if Counter(used) != Counter(given):
        needed = ", ".join(map(str, given))
        return Verdict("fail", 0.0, f'"{said}" does not use each of {needed} exactly once.')
    if value != target:
        return Verdict("fail", 0.0, f'"{said}" is {value}, not {target}.')
    return Verdict("pass", 1.0)


def evaluated(expression: str) -> tuple[Fraction, list[int]]:
    """The value of an expression, and the numbers in it.

    >>> evaluated("(1 + 2) / 6")
    (Fraction(1, 2), [1, 2, 6])

    Raises:
      ValueError: for anything but whole numbers, + - * / and brackets, and for a division by 0.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("cannot be read") from None
    used: list[int] = []
    try:
        return _value(tree, used), used
    except ZeroDivisionError:
        raise ValueError("divides by 0") from None


def _value(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _value(node.left, used), _value(node.right, used)
        return _OPERATIONS[type(node.op)](left, right)
    raise ValueError("holds more than whole numbers, + - * / and brackets")


def _problems(given: int) -> Iterator[tuple[tuple[int, ...], int, str]]:
    """Fixed problems (numbers, target, solution), no two with the same numbers and target."""
    seen = set()
    for draw in itertools.count():
        value = fixed_hash(f"countdown {given} {draw}")
        numbers = tuple(1 + (value >> 8 * n) % HIGHEST for n in range(given))
        signs = [_SIGNS[(value >> 40 + 2 * n) % 4] for n in range(given - 1)]
        solution = str(numbers[0])
        for sign, number in zip(signs, numbers[1:], strict=True):
            solution = (
                f"({solution}) {sign} {number}"
                if " " in solution
                else (f"{solution} {sign} {number}")
            )
        reached, _ = evaluated(solution)
        shown = tuple(sorted(numbers, key=lambda n: fixed_hash(f"{draw} {n}")))
        if reached.denominator == 1 and 0 < reached <= TARGET:
            problem = shown, int(reached), solution
            if _same(problem) not in seen:
                seen.add(_same(problem))
                yield problem


def _same(problem: tuple[tuple[int, ...], int, str]) -> str:
    return f"{sorted(problem[0])} {problem[1]}"


def _task(name: str, numbers: tuple[int, ...], target: int, solution: str) -> Task:
    listed = ", ".join(map(str, numbers[:-1])) + f" and {numbers[-1]}"
    question = (
        f"Use each of the numbers {listed} exactly once, with + - * / and brackets, to make "
        f"{target}. Reply with just the expression."
    )
    tight = " ".join(map(str, numbers))
    return Task(
        uid=f"{name}/{tight}={target}",
        messages=(Message("user", question),),
        answer=solution,
        info={"numbers": list(numbers), "target": target},
    )
