"""Errors about names that are not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(got: str, choices: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the closest choice, if any, and all of them."""
    choices = list(choices)
    close = difflib.get_close_matches(got, choices, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"Choose from {', '.join(choices)}.{guess}"
