"""Teachers: what they see that the policy does not, and how they follow it."""

from jaxevo.teachers.contexts import (
    CHAT,
    PLAIN,
    Context,
    Phrases,
    Wording,
    cut_middle,
    own_attempt,
    reprompt,
)
from jaxevo.teachers.follow import copy, during, ema, every
from jaxevo.teachers.weights import Teacher, Weights, teacher

__all__ = [
    "CHAT",
    "PLAIN",
    "Context",
    "Phrases",
    "Teacher",
    "Weights",
    "Wording",
    "copy",
    "cut_middle",
    "during",
    "ema",
    "every",
    "own_attempt",
    "reprompt",
    "teacher",
]
