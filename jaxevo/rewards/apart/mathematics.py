"""math-verify, in a worker: its time-outs are off, for the pool stops what takes too long."""

from __future__ import annotations

import importlib
import re
from typing import Any, Literal

_math = importlib.import_module("math_verify")  # of the extra `math`
_OFF: Any = {"parsing_timeout": None, "raise_on_error": True}
_DELIMITERS = ("$", "\\(", "\\[", "\\boxed")
_WORD = re.compile(r"[^\W\d_]{3}")

Found = Literal["equal", "different", "no gold", "no answer"]


def compare(gold: str, text: str) -> tuple[Found, str]:
    """How a text's answer stands to the right one, and what was read in the text."""
    right = _gold(gold)
    if not right:
        return "no gold", ""
    answer = _read(text)
    if not answer:
        return "no answer", ""
    equal = _math.verify(right, answer, timeout_seconds=None, raise_on_error=True)
    return ("equal" if equal else "different"), str(answer[0])[:200]


def _gold(gold: str) -> list[Any]:
    """The right answer, which may stand without the dollars that math-verify looks for.

    Between dollars a word would be read as a product of its letters.
    """
    bare = not any(mark in gold for mark in _DELIMITERS)
    as_latex = bare and ("\\" in gold or not _WORD.search(gold))
    return (as_latex and _read(f"${gold.strip()}$")) or _read(gold)


def _read(text: str) -> list[Any]:
    return _math.parse(text, fallback_mode="no_fallback", **_OFF)


_read("$1$")  # builds the parser's tables, which takes longer than most answers
