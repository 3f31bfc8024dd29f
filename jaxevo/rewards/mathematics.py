"""Verifier for answers that are mathematical expressions."""

from __future__ import annotations

from jaxevo.rewards.exact import shown
from jaxevo.rewards.pool import APART, POOL, WorkerError
from jaxevo.types import Task, Verdict

PACKAGE, EXTRA = "math_verify", "math"
SECONDS = 5.0  # for reading both sides and comparing them


def mathematics(task: Task, text: str) -> Verdict:
    """Passes when the text's expression equals the task's answer (math-verify).

    Of the text math-verify reads what follows "final answer is", else \\boxed{...}, else, about in
    this order, what follows "answer is" and the like, and the last expression, in LaTeX (`$...$`,
    `\\(...\\)`, `\\[...\\]`) or plain. Several boxes one after the other are one set. The task's
    answer may be any of these, or LaTeX without dollars (`\\frac{1}{2}`); when it holds a word and
    no backslash it is read as text (`18 dollars`). Equal are 1/2, 0.5 and 50%, sets in any order,
    `x = 5` and 5, expressions whose difference simplifies to 0; numbers agree to 6 decimals.

    It runs in a worker process (`jaxevo.rewards.pool`) and has 5 seconds.

    Returns:
      pass (score 1, no feedback) or fail (score 0, with what was read and what is right); error
      when the task's answer holds no mathematics, time was up or the worker crashed.
    """
    try:
        found, read = POOL.call(f"{APART / 'mathematics.py'}:compare", task.answer, text,
                                seconds=SECONDS)  # fmt: skip
    except WorkerError as fault:
        return Verdict("error", 0.0, f"comparing with the answer of task {task.uid}: {fault}")
    if found == "no gold":
        reason = f"task {task.uid} has the answer {task.answer[:80]!r}, which is no mathematics."
        return Verdict("error", 0.0, reason)
    if found == "equal":
        return Verdict("pass", 1.0)
    truth = f"the right answer is {shown(task.answer)}."
    if found == "no answer":
        return Verdict("fail", 0.0, f"No mathematical expression was found; {truth}")
    return Verdict("fail", 0.0, f"Your answer was read as {shown(read)}, but {truth}")
