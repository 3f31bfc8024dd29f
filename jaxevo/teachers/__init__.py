"""Teachers: what they see that the policy does not, and how they follow it."""

from jaxevo.teachers.contexts import CHAT, PLAIN, Context, Wording, cut_middle, reprompt
from jaxevo.teachers.follow import copy, ema, every
from jaxevo.teachers.weights import Teacher, Weights, teacher

__all__ = [
    "CHAT",
    "PLAIN",
    "Context",
    "Teacher",
    "Weights",
    "Wording",
    "copy",
    "cut_middle",
    "ema",
    "every",
    "reprompt",
    "teacher",
]
