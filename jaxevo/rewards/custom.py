"""The user's own function as a verifier."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import Any, get_args

import numpy as np

from jaxevo.rewards.apart.worker import load, one_line
from jaxevo.types import Task, Verdict, VerdictStatus

ROUNDING = 1e-6  # of a score that is a sum of parts


@dataclasses.dataclass(frozen=True)
class Custom:
    """`score(task, text)` as a verifier: it may return a Verdict, a number in [0, 1] or a bool.

    A number passes at 1. What it raises, and values of another kind or range, are an error with one
    line; nothing that it does ends a run. It runs in the run's own process, on several threads at a
    time.
    """

    name: str
    score: Callable[[Task, str], Any]

    def __call__(self, task: Task, text: str) -> Verdict:
        try:
            return _verdict(self.score(task, text))
        except Exception as fault:
            return Verdict("error", 0.0, f"{self.name} on task {task.uid}: {one_line(fault)}")


def custom(name: str) -> Custom:
    """The verifier of `my_rewards:score` or `path/to/file.py:score`.

    The working directory, or the file's folder, goes to the front of the import path, as Python
    does for `python -m my_rewards` and for `python path/to/file.py`.

    Raises:
      ValueError: where no function is found: one line with module, function and reason.
    """
    module = name.rpartition(":")[0]
    folder = str(Path(module).resolve().parent) if module.endswith(".py") else os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    score = load(name)
    try:
        inspect.signature(score).bind("task", "text")
    except TypeError as fault:
        raise ValueError(f"it is called as score(task, text), but {fault}.") from None
    except ValueError:  # a function of C that does not say what it takes
        pass
    return Custom(name, score)


def _verdict(value: Any) -> Verdict:
    if isinstance(value, bool | np.bool_):
        return Verdict("pass", 1.0) if value else Verdict("fail", 0.0)
    if isinstance(value, Real):
        score = _in_range(float(value))
        value = Verdict("pass" if score == 1.0 else "fail", score)
    if not isinstance(value, Verdict):
        kind = type(value).__name__
        raise TypeError(f"it returned a {kind}; return a Verdict, a number in [0, 1] or a bool.")
    if value.status not in get_args(VerdictStatus) or not isinstance(value.feedback, str):
        raise ValueError(f"it returned {value!r}; the status is pass, fail or error.")
    if isinstance(value.score, bool) or not isinstance(value.score, Real):
        raise TypeError(f"it returned the score {value.score!r}, which is no number.")
    score = _in_range(float(value.score))
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"it returned the score {value.score}, which is not in [0, 1].")
    return dataclasses.replace(value, score=score)


def _in_range(score: float) -> float:
    """0 or 1 where a sum of parts misses it by its rounding, as 0.8 + 0.1 + 0.1 does."""
    for end in (0.0, 1.0):
        if abs(score - end) <= ROUNDING:
            return end
    return score
