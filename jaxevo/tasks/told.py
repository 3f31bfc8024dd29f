"""Problems that are told together with a text: an earlier draft, a hint; and their solutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jaxevo.types import Task

CHAT_DRAFT = """\
{question}

A draft of an answer, which may be wrong:

{draft}

Take the draft for guidance, not for the truth. Correct what is wrong in it, do not repeat it word \
for word, and give a better answer to the question."""
PLAIN_DRAFT = "{question}{draft}?"


def solutions_of(task: Task) -> list[str]:
    """Its worked solutions, `info["solutions"]` and `info["solution"]`, or its answer alone.

    What is no text there, or an empty one, is none.
    """
    known = (*task.info.get("solutions", ()), task.info.get("solution"))
    return [x.strip() for x in known if isinstance(x, str) and x.strip()] or [task.answer]


def with_text(task: Task, layout: str, **texts: str) -> Task:
    """The task with another last user message: `layout`, where {question} is what it said before.

    Args:
      texts: what the layout's other fields are.

    Raises:
      ValueError: for a task without a user message.
    """
    messages = list(task.messages)
    last = max((n for n, m in enumerate(messages) if m.role == "user"), default=None)
    if last is None:
        raise ValueError(
            f"task {task.uid} has no user message, but a text needs one to be put into."
        )
    content = layout.format(question=messages[last].content, **texts)
    messages[last] = dataclasses.replace(messages[last], content=content)
    return dataclasses.replace(task, messages=tuple(messages))


def most_that_fits(fits: Callable[[int], bool], most: int) -> int | None:
    """The largest n in [0, most] for which `fits(n)`; None where not even 0 does.

    Of two that differ the smaller one fits if the larger does.
    """
    if fits(most):
        return most
    if not fits(0):
        return None
    low, high = 0, most  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
