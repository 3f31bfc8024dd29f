"""Regular expressions, in a worker, for one may take exponential time."""

from __future__ import annotations

import functools
import re

_compiled = functools.lru_cache(maxsize=64)(re.compile)


def matches(pattern: str, text: str) -> bool:
    """Whether the pattern matches the whole text."""
    return _compiled(pattern).fullmatch(text) is not None
