"""Verifiers `(task, text) -> Verdict` and other sources of reward."""

from jaxevo.rewards.choice import choice, chosen
from jaxevo.rewards.control import random_reward
from jaxevo.rewards.decomposed import decomposed
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.form import boxed, characters, last_boxed, regex, tags, words
from jaxevo.rewards.integer import last_integer, last_number, numbers, strict_integer
from jaxevo.rewards.mathematics import mathematics
from jaxevo.rewards.named import verifier
from jaxevo.rewards.novelty import copied
from jaxevo.rewards.numeric import numeric
from jaxevo.rewards.process import infer_values
from jaxevo.rewards.repetition import repeated
from jaxevo.rewards.shaping import overlong_penalty, signed
from jaxevo.rewards.unit_tests import unit_tests
from jaxevo.rewards.vote import agreement, bell, consistency, majority, undecided

__all__ = [
    "agreement",
    "bell",
    "boxed",
    "characters",
    "choice",
    "chosen",
    "consistency",
    "copied",
    "decomposed",
    "exact_match",
    "infer_values",
    "last_boxed",
    "last_integer",
    "last_number",
    "majority",
    "mathematics",
    "numbers",
    "numeric",
    "overlong_penalty",
    "random_reward",
    "regex",
    "repeated",
    "signed",
    "strict_integer",
    "tags",
    "undecided",
    "unit_tests",
    "verifier",
    "words",
]
