"""Teachers: what they see that the policy does not, and how they follow it."""

from jaxevo.teachers.contexts import (
    CHAT,
    CRITIQUE,
    PATH,
    PLAIN,
    Context,
    Phrases,
    Wording,
    critique,
    cut_middle,
    own_attempt,
    path_given,
    reprompt,
)
from jaxevo.teachers.follow import copy, during, ema, every
from jaxevo.teachers.weights import Teacher, Weights, teacher

__all__ = [
    "CHAT",
    "CRITIQUE",
    "PATH",
    "PLAIN",
    "Context",
    "Phrases",
    "Teacher",
    "Weights",
    "Wording",
    "copy",
    "critique",
    "cut_middle",
    "during",
    "ema",
    "every",
    "own_attempt",
    "path_given",
    "reprompt",
    "teacher",
]
