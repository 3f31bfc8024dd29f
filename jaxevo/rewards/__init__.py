"""Verifiers `(task, text) -> Verdict` and other sources of reward."""

from jaxevo.rewards.control import random_reward
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.integer import last_integer, numbers, strict_integer
from jaxevo.rewards.shaping import overlong_penalty, signed

__all__ = [
    "exact_match",
    "last_integer",
    "numbers",
    "overlong_penalty",
    "random_reward",
    "signed",
    "strict_integer",
]
