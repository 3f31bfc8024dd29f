"""Verifiers `(task, text) -> Verdict` and other sources of reward."""

from jaxevo.rewards.control import random_reward
from jaxevo.rewards.decomposed import decomposed
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.integer import last_integer, last_number, numbers, strict_integer
from jaxevo.rewards.novelty import copied
from jaxevo.rewards.process import infer_values
from jaxevo.rewards.repetition import repeated
from jaxevo.rewards.shaping import overlong_penalty, signed
from jaxevo.rewards.vote import agreement, bell, consistency, majority, undecided

__all__ = [
    "agreement",
    "bell",
    "consistency",
    "copied",
    "decomposed",
    "exact_match",
    "infer_values",
    "last_integer",
    "last_number",
    "majority",
    "numbers",
    "overlong_penalty",
    "random_reward",
    "repeated",
    "signed",
    "strict_integer",
    "undecided",
]
