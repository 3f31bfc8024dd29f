"""Verifier for tasks whose answer is a number of any kind, compared without rounding."""

from __future__ import annotations

import math
import re
from collections import deque
from fractions import Fraction

from jaxevo.rewards.integer import SIGN, WHOLE, shown_number
from jaxevo.types import Task, Verdict

TOLERANCE = 1e-6
LARGEST = 1000  # digits, and powers of ten, of a number that is compared

_INTEGER = r"([-−+]?[0-9]+)"
_UNDER = r"((?=0*+[1-9])[0-9]++)"  # a denominator, not 0
_POWER = rf"10\ ?\^\ ?\{{?{_INTEGER}\}}?"
_NUMBER = re.compile(
    SIGN
    + rf"""(?:
        \\[dt]?frac\ ?\{{\ ?{_INTEGER}\ ?\}}\ ?\{{\ ?{_UNDER}\ ?\}}
      | (?<!/){WHOLE}\ ?/\ ?{_UNDER}(?![.,][0-9]|/)
      | {_POWER}
      | (?:{WHOLE}(\.[0-9]+)?|(?<![0-9])(\.[0-9]+))
        (?:[eE]{_INTEGER}|\ ?(?:×|\*|x|\\times|\\cdot)\ ?{_POWER})?
    )(\ ?\\?%)?""",
    re.VERBOSE,
)


def numeric(task: Task, text: str) -> Verdict:
    """Passes when the last number of the text is the task's answer, within a tolerance.

    |read − right| ≤ tolerance · |right|, in exact fractions; an answer of 0 must be 0.

    Read are whole and decimal numbers as in `integer.numbers` (commas between groups of three
    digits, a minus where it is a sign) and `.5`; powers of ten (`1.5e-3`, `1.5 × 10^-3`, with `x`,
    `*`, `\\times` or `\\cdot` too, and `10^6` alone); fractions (`3/4`, `\\frac{3}{4}`), but not
    `1 3/4`, which ends in 3/4; and a percent sign, which divides by 100: 75% answers 0.75 and 3/4,
    not 75. ASCII digits only. A number of more than 1000 digits or beyond 10^1000 answers nothing.

    Args:
      task: its `answer` is one number in these forms and nothing else; `info["tolerance"]`, if
        there, is the relative tolerance, >= 0, in place of 1e-6.
      text: the answer of a model, of any length and content.

    Returns:
      pass (score 1, no feedback) or fail (score 0, with what was read and what is right); error
      when the task's own answer is no such number, or its tolerance none.
    """
    match = _NUMBER.fullmatch(task.answer.strip())
    right = None if match is None else _value(match)
    if right is None:
        reason = f"task {task.uid} has the answer {task.answer[:80]!r}, which is no number."
        return Verdict("error", 0.0, reason)
    tolerance = task.info.get("tolerance", TOLERANCE)
    if not _usable(tolerance):
        reason = f'info["tolerance"] of task {task.uid} is {tolerance!r}, but must be >= 0.'
        return Verdict("error", 0.0, reason[:300])
    truth = f"the right answer is {shown_number(task.answer.strip())}."
    last = next(iter(deque(_NUMBER.finditer(text), maxlen=1)), None)
    if last is None:
        return Verdict("fail", 0.0, f"No number was found in your answer; {truth}")
    read = _value(last)
    # A float's shortest decimal form is what was meant: 0.1 is 1/10.
    if read is not None and abs(read - right) <= Fraction(repr(tolerance)) * abs(right):
        return Verdict("pass", 1.0)
    return Verdict("fail", 0.0, f"Your answer was {shown_number(last[0])}, but {truth}")


def _value(match: re.Match[str]) -> Fraction | None:
    """The number that was read, None for one that is too large to compare."""
    if len(match[0]) > LARGEST:
        return None
    sign, over, under, top, bottom, power, whole, *rest, percent = match.groups()
    decimals, bare, short, long = rest
    exponent = _integer(power or short or long or "0")
    if abs(exponent) > LARGEST:
        return None
    if under or bottom:
        value = Fraction(_integer(over or top), _integer(under or bottom))
    else:
        digits = "1" if power else _digits(whole or "0") + (decimals or bare or "")
        value = Fraction(digits) * Fraction(10) ** exponent
    if percent:
        value /= 100
    return -value if sign else value


def _integer(text: str) -> int:
    return int(_digits(text))


def _digits(text: str) -> str:
    return text.replace(",", "").replace("−", "-")


def _usable(tolerance: object) -> bool:
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float):
        return False
    return 0.0 <= tolerance < math.inf
