"""Verifiers of an answer's form and length; none looks at the task."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable

from jaxevo.rewards.exact import shown
from jaxevo.rewards.pool import APART, POOL, WorkerError
from jaxevo.types import Task, Verdict

SECONDS = 1.0  # for matching one text

_BOX = "\\boxed{"


def boxed(task: Task, text: str) -> Verdict:
    """Passes when the text holds exactly one `\\boxed{...}`, closed and not empty.

    Braces inside are counted in pairs; those after a backslash are characters.

    Returns:
      pass (score 1, no feedback) or fail (score 0, with what is wrong).
    """
    count = text.count(_BOX)
    if count != 1:
        return _wrong(f"Your answer holds {count} \\boxed{{...}}, but must hold exactly one.")
    inside = _closed(text.partition(_BOX)[2])
    if inside is None:
        return _wrong("Your \\boxed{ is not closed.")
    return Verdict("pass", 1.0) if inside.strip() else _wrong("Your \\boxed{} is empty.")


def last_boxed(text: str) -> str:
    r"""What the last `\boxed{...}` of a text holds, "" where there is none or it is not closed.

    >>> last_boxed(r"First \boxed{1}, better \boxed{ \frac{1}{2} }.")
    '\\frac{1}{2}'
    """
    _, box, rest = text.rpartition(_BOX)
    return (_closed(rest) or "").strip() if box else ""


def _closed(text: str) -> str | None:
    """The text up to the brace that closes one before it, None without that."""
    depth = 1
    for brace in re.finditer(r"(?s:\\.)|[{}]", text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[: brace.start()]
    return None


def tags(arguments: str) -> Callable[[Task, str], Verdict]:
    """Passes when each `<tag>...</tag>` stands once, in order, with white space alone outside.

    Args:
      arguments: the tags' names, joined by commas: `think,answer`.

    Raises:
      ValueError: for names that are missing, not made of letters, digits, `-` and `_`, or twins.
    """
    names = tuple(arguments.split(","))
    if not all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) for name in names):
        raise ValueError("it takes names of tags joined by commas, such as tags:think,answer.")
    if len(set(names)) < len(names):
        raise ValueError("it names a tag twice; each stands once in an answer.")
    return functools.partial(_tags, names=names)


def _tags(task: Task, text: str, *, names: tuple[str, ...]) -> Verdict:
    marks = [mark for name in names for mark in (f"<{name}>", f"</{name}>")]
    for mark in marks:
        if (count := text.count(mark)) != 1:
            return _wrong(f"Your answer holds {mark} {count} times, but must hold it once.")
    places = [text.index(mark) for mark in marks]
    if places != sorted(places):
        order = " ".join(f"<{name}>...</{name}>" for name in names)
        return _wrong(f"The tags of your answer must stand in this order: {order}.")
    ends = [place + len(mark) for place, mark in zip(places, marks, strict=True)]
    outside = "".join(
        text[a:b] for a, b in zip([0, *ends[1::2]], [*places[::2], None], strict=True)
    )
    if outside.strip():
        return _wrong(f"Your answer has text outside of its tags: {shown(outside)}")
    return Verdict("pass", 1.0)


def regex(arguments: str) -> Callable[[Task, str], Verdict]:
    """Passes when the pattern (Python's `re`, without flags) matches the whole text.

    It runs in a worker process and has a second; a pattern that takes longer is an error.

    Args:
      arguments: the pattern: `(?s).*####\\s*-?\\d+\\s*`.

    Raises:
      ValueError: for an empty pattern, or one that is none.
    """
    if not arguments:
        raise ValueError("it takes a pattern, such as regex:[0-9]+.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a set such as [[a] may come to mean something else
            re.compile(arguments)
    except (re.error, Warning, OverflowError, RecursionError) as fault:
        raise ValueError(f"its pattern {arguments!r} cannot be used: {fault}.") from None
    return functools.partial(_regex, pattern=arguments)


def _regex(task: Task, text: str, *, pattern: str) -> Verdict:
    try:
        found = POOL.call(f"{APART / 'patterns.py'}:matches", pattern, text, seconds=SECONDS)
    except WorkerError as fault:
        reason = f"matching {shown(pattern)} with the answer to task {task.uid}: {fault}"
        return Verdict("error", 0.0, reason)
    if found:
        return Verdict("pass", 1.0)
    return _wrong(f"Your answer must match {shown(pattern)} from beginning to end.")


def words(arguments: str) -> Callable[[Task, str], Verdict]:
    """Passes when the text has a number of words, parted by white space, in this range.

    Args:
      arguments: the least and the most, both allowed: `10-50`.

    Raises:
      ValueError: for anything but two whole numbers, the first not above the second.
    """
    low, high = _range(arguments, "words")
    return functools.partial(_words, low=low, high=high)


def _words(task: Task, text: str, *, low: int, high: int) -> Verdict:
    return _within(len(text.split()), low, high, "words")


def characters(arguments: str) -> Callable[[Task, str], Verdict]:
    """Passes when the text has a number of characters in this range, white space at its ends aside.

    Args:
      arguments: as in `words`. A character is a Unicode code point.

    Raises:
      ValueError: as in `words`.
    """
    low, high = _range(arguments, "characters")
    return functools.partial(_characters, low=low, high=high)


def _characters(task: Task, text: str, *, low: int, high: int) -> Verdict:
    return _within(len(text.strip()), low, high, "characters")


def _range(arguments: str, unit: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", arguments)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"it takes the least and the most, such as {unit}:10-50.")
    return int(match[1]), int(match[2])


def _within(count: int, low: int, high: int, unit: str) -> Verdict:
    if low <= count <= high:
        return Verdict("pass", 1.0)
    return _wrong(f"Your answer has {count} {unit}, but must have {low} to {high}.")


def _wrong(feedback: str) -> Verdict:
    return Verdict("fail", 0.0, feedback)
