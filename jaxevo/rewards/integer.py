"""Verifiers for tasks whose answer is one integer.

Numbers are compared as text, never through `int`: Python refuses strings of more than 4300 digits,
and a model may well write one.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

from jaxevo.types import Task, Verdict

SIGN = r"(?:(?<![0-9A-Za-z)\]])([-−]))?"  # after a digit, letter or bracket it is an operator
WHOLE = r"([0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_NUMBER = re.compile(SIGN + WHOLE + r"(\.[0-9]+)?")
_SHOWN_DIGITS = 40


def numbers(text: str) -> Iterator[str]:
    """The decimal numbers of a text in their shortest form, in order; takes linear time.

    ASCII digits only. Commas are read between groups of three digits. A minus (`-` or `−`) is a
    sign when it stands directly before a digit and not directly after a digit, a letter or a
    closing bracket: `3-5` holds 3 and 5, `3 -5` and `3--5` hold 3 and -5.

    >>> list(numbers("007, -1,234.50 and 3-5 = -2."))
    ['7', '-1234.5', '3', '5', '-2']
    """
    return map(_shortest, _NUMBER.finditer(text))


def last_number(text: str) -> str:
    """The last of `numbers`, "" when there is none: what a text answers, for comparing answers."""
    return next(iter(deque(numbers(text), maxlen=1)), "")


def last_integer(task: Task, text: str) -> Verdict:
    """Passes when the last number of the text is the task's answer.

    A decimal fraction counts as a number, so `7.5` does not answer 5, and `15.0` answers 15.

    Args:
      task: its `answer` is an integer; `info["expression"]`, if there, is named in the feedback.
      text: the answer of a model, of any length and content.

    Returns:
      pass (score 1, no feedback) or fail (score 0, with what was read and what is right); error
      when the task's own answer is no integer.
    """
    right = _own_answer(task)
    if right is None:
        return _no_integer(task)
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    if last is None:
        return Verdict("fail", 0.0, f"No number was found in your answer; {_truth(task, right)}.")
    read = _shortest(last)
    if read == right:
        return Verdict("pass", 1.0)
    return Verdict("fail", 0.0, f"Your answer was {shown_number(read)}, but {_truth(task, right)}.")


def strict_integer(task: Task, text: str) -> Verdict:
    """Passes when the text, stripped of white space, is the task's answer and nothing else.

    No sentence, no commas, no leading zeros: it tells learning the form from learning the task.
    Arguments and result as in `last_integer`.
    """
    loose = last_integer(task, text)
    if loose.status != "pass" or text.strip() == _own_answer(task):
        return loose
    truth = _truth(task, _own_answer(task) or "")
    return Verdict("fail", 0.0, f"Your answer holds more than the bare number; {truth}.")


def _own_answer(task: Task) -> str | None:
    match = _NUMBER.fullmatch(task.answer.strip())
    number = None if match is None else _shortest(match)
    return None if number is None or "." in number else number


def _no_integer(task: Task) -> Verdict:
    reason = f"task {task.uid} has the answer {task.answer[:80]!r}, which is no integer."
    return Verdict("error", 0.0, reason)


def _shortest(match: re.Match[str]) -> str:
    sign, whole, fraction = match.groups()
    digits = whole.replace(",", "").lstrip("0") or "0"
    decimals = (fraction or "").rstrip("0").rstrip(".")
    number = digits + decimals
    return f"-{number}" if sign and number != "0" else number


def _truth(task: Task, right: str) -> str:
    expression = task.info.get("expression")
    subject = "the right answer is" if expression is None else f"{expression} ="
    return f"{subject} {shown_number(right)}"


def shown_number(number: str) -> str:
    """A number as feedback quotes it: of more than 40 characters the first 20."""
    if len(number) <= _SHOWN_DIGITS:
        return number
    return f"{number[: _SHOWN_DIGITS // 2]}… ({len(number)} characters)"
