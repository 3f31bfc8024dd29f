"""Verifiers by name: what a command line, a task file or a mixture asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from jaxevo.names import did_you_mean
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.integer import last_integer, strict_integer
from jaxevo.types import Task, Verdict

Verify: TypeAlias = Callable[[Task, str], Verdict]

VERIFIERS: Mapping[str, Verify] = {
    verify.__name__: verify for verify in (exact_match, last_integer, strict_integer)
}


def verifier(name: str) -> Verify:
    """The verifier of this name.

    Raises:
      ValueError: for an unknown name.
    """
    if name not in VERIFIERS:
        raise ValueError(f"no verifier {name!r}. {did_you_mean(name, VERIFIERS)}")
    return VERIFIERS[name]
