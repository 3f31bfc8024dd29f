"""Verifier for tasks whose answer is a short text."""

from __future__ import annotations

from jaxevo.types import Task, Verdict

_SHOWN = 250  # characters of either side in the feedback


def exact_match(task: Task, text: str) -> Verdict:
    """Passes when text and answer agree up to letter case and white space.

    Both are stripped, runs of white space become one space, and letters are case-folded.

    Returns:
      pass (score 1, no feedback) or fail (score 0, with what was read and what is right, cut at
      250 characters each); error when the task's own answer is empty.
    """
    right, read = _normal(task.answer), _normal(text)
    if not right:
        return Verdict("error", 0.0, f"task {task.uid} has an empty answer.")
    if read == right:
        return Verdict("pass", 1.0)
    truth = f'the right answer is "{shown(task.answer)}".'
    if not read:
        return Verdict("fail", 0.0, f"Your answer was empty; {truth}")
    return Verdict("fail", 0.0, f'Your answer was "{shown(text)}", but {truth}')


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def shown(text: str) -> str:
    """A text as feedback quotes it: in one line, cut at 250 characters."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
