"""Verifiers `(task, text) -> Verdict` and other sources of reward."""

from jaxevo.rewards.control import random_reward
from jaxevo.rewards.decomposed import decomposed
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.integer import last_integer, numbers, strict_integer

__all__ = [
    "decomposed",
    "exact_match",
    "last_integer",
    "numbers",
    "random_reward",
    "strict_integer",
]
