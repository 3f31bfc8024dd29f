"""Verifiers `(task, text) -> Verdict` and other sources of reward."""

from jaxevo.rewards.control import random_reward
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.integer import last_integer, numbers, strict_integer
from jaxevo.rewards.process import infer_values

__all__ = [
    "exact_match",
    "infer_values",
    "last_integer",
    "numbers",
    "random_reward",
    "strict_integer",
]
