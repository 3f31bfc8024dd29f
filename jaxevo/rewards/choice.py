"""Verifier for multiple-choice tasks."""

from __future__ import annotations

import re
import string

from jaxevo.rewards.exact import shown
from jaxevo.types import Task, Verdict

LETTERS = string.ascii_uppercase
DEFAULT = 5  # choices of a task that does not list them

_SAID = re.compile(
    r"""
      \\boxed\ ?\{\s?(?:\\(?:text|textbf|mathrm|mathbf)\ ?\{)?\s?\(?([A-Za-z])(?:\s?\}|[.):])
    | \b(?i:answer)(?:\s(?i:is)\b)?>?[:=]?[*_]{0,3}[:=]?\s{0,2}
      (?:(?i:option|choice)\s)?[*_]{0,3}[(\["'$]{0,2}([A-Z])(?![\w’-]|'\w)
    | (?<!\w)[(\[]([A-Za-z])[)\]]
    | (?<![\w*])\*\*([A-Za-z])(?:[.):]?\*\*|[.):]\s)
    | ^[ \t]{0,8}([A-Z])(?:[.):](?!\w)|[ \t]*$)
    """,
    re.VERBOSE | re.MULTILINE,
)
_HEDGE = re.compile(
    r"""
      [)\]"'$*_]{0,5} \s? (?:\bor\b|\band\b|[/&]) \s? (?:(?i:option|choice)\s)?
      [(\["'$*_]{0,5} ([A-Z]) (?![\w’-]|'\w|\s(?:is|are|was|were)\b) [)\]"'$*_]{0,5}
    """,
    re.VERBOSE,
)
_WHOLE = re.compile(r"[(\[]?([A-Za-z])[)\].:]{0,2}")


def choice(task: Task, text: str) -> Verdict:
    """Passes when the last letter that the text chooses is the task's answer.

    A letter is chosen by `\\boxed{B}` (also `\\boxed{\\text{B}}`, `\\boxed{(B)}` and
    `\\boxed{B. oak}`), by "answer is B", "answer: B", "answer B" or `<answer>B` (also in brackets,
    quotes, dollars or asterisks, or with "option" or "choice" before it), by `(B)` or `[B]`, by
    `**B**`, `**B.**` or `**B) oak**`, and by `B.`, `B)` or `B:` at the start of a line, or `B`
    alone on it. Small letters count in boxes, brackets and asterisks, and where the letter is the
    whole text; elsewhere `a` is a word. Letters beyond the task's choices are not read. Whichever
    of these comes last counts; where it goes on with another letter ("A or B", "(A)/(B)"), nothing
    is chosen.

    Args:
      task: its `answer` is a letter in one of these forms, or a choice word for word;
        `info["choices"]`, if there, lists the choices (at most 26), else they are A to E.
      text: the answer of a model, of any length and content.

    Returns:
      pass (score 1, no feedback) or fail (score 0, with what was read and what is right); error
      when the task's own answer or choices cannot be used.
    """
    choices = task.info.get("choices")
    if choices is not None and not (isinstance(choices, list) and 1 <= len(choices) <= 26):
        reason = f'info["choices"] of task {task.uid} is no list of 1 to 26 choices.'
        return Verdict("error", 0.0, reason)
    letters = LETTERS[: DEFAULT if choices is None else len(choices)]
    right = _own_answer(task.answer, choices or [], letters)
    if not right:
        reason = f"task {task.uid} has the answer {task.answer[:80]!r}, which is none of {letters}."
        return Verdict("error", 0.0, reason)
    read = chosen(text, letters)
    if read == right:
        return Verdict("pass", 1.0)
    truth = f"the right answer is {right}"
    if choices is not None:
        truth += f" ({shown(str(choices[LETTERS.index(right)]))})"
    if not read:
        return Verdict("fail", 0.0, f"No choice was found in your answer; {truth}.")
    return Verdict("fail", 0.0, f"Your answer was {read}, but {truth}.")


def chosen(text: str, letters: str = LETTERS[:DEFAULT]) -> str:
    """The last of the letters that a text chooses, as in `choice`; "" without one.

    >>> chosen("Not (A). The answer is **B**, a metal.")
    'B'
    """
    if whole := _WHOLE.fullmatch(text.strip()):
        return whole[1].upper() if whole[1].upper() in letters else ""
    last, start = "", 0
    while match := _SAID.search(text, start):
        letter, start = (match[match.lastindex or 0]).upper(), match.end()
        last = letter if letter in letters else last
        while hedge := _HEDGE.match(text, start):
            start = hedge.end()
            if hedge[1] in letters and hedge[1] != last:
                last = ""
    return last


def _own_answer(answer: str, choices: list[object], letters: str) -> str:
    if letter := chosen(answer, letters):
        return letter
    return LETTERS[choices.index(answer)] if answer in choices else ""
