"""Whether a question is more than a copy of the one that it was written after."""

from __future__ import annotations

import difflib
import re

SHORTEST = 5  # characters; shorter questions have too little to compare
THRESHOLDS = ((100, 0.88), (200, 0.78), (400, 0.68))  # (characters below, text ratio above)
LONGEST_THRESHOLD = 0.60
SKELETON, SKELETON_TEXT, SKELETON_WORDS = 0.90, 0.45, 0.40

_MATH = re.compile(r"(?<!\\)\$(.*?)(?<!\\)\$|\\\((.*?)\\\)|\\\[(.*?)\\\]", re.DOTALL)
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega"
).replace(" ", "|")
_VARIABLE = re.compile(rf"\\(?:{_GREEK})(?![a-zA-Z])|(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_DROPPED = re.compile(r"[^\w\s+\-*/=<>^|(){}\[\]\\,.]")
_TOKEN = re.compile(r"\\?[a-z]+|\d+|[+\-=<>^|/(){}\[\]_]")
_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """a an and are as at be by for from in is it of on or that the this to with
        answer calculate compute consider determine evaluate express find following given let
        problem prove result show solution solutions solve state value values write
        integer integers number numbers""",
    )
)


def copied(reference: str, question: str) -> float:
    """f, how much of a near copy a question is, in [0, 1]; 0 when it is none.

    It is a near copy when its text ratio τ is above a threshold that falls with the length of the
    shorter text (f = τ), or when its skeleton's ratio is above 0.90 and (τ > 0.45 or the Jaccard
    index of their words > 0.40) (f = the skeleton's ratio). Texts under 5 characters never are.

    References:
      arXiv 2601.22628, its official code. There a skeleton also turns every number into a
      variable, and LaTeX is normalised before; here numbers stay numbers.
    """
    if min(len(reference.strip()), len(question.strip())) < SHORTEST:
        return 0.0
    text = text_ratio(reference, question)
    shorter = min(len(_clean(reference)), len(_clean(question)))
    if text > next((ratio for below, ratio in THRESHOLDS if shorter < below), LONGEST_THRESHOLD):
        return text
    form = skeleton_ratio(reference, question)
    alike = text > SKELETON_TEXT or word_overlap(reference, question) > SKELETON_WORDS
    return form if form > SKELETON and alike else 0.0


def text_ratio(left: str, right: str) -> float:
    """2 M / T of `difflib.SequenceMatcher` on lower-case texts with single spaces, in [0, 1]."""
    return difflib.SequenceMatcher(None, _clean(left), _clean(right)).ratio()


def skeleton_ratio(left: str, right: str) -> float:
    """The same ratio of the mathematics in two texts, each number N and each variable V.

    Mathematics stands between dollars, \\(...\\) or \\[...\\]; where one text has none, both are
    taken whole.
    """
    parts = _mathematics(left), _mathematics(right)
    one, other = parts if all(parts) else (left, right)
    return difflib.SequenceMatcher(None, _skeleton(one), _skeleton(other)).ratio()


def word_overlap(left: str, right: str) -> float:
    """Jaccard index of the sets of words, numbers and signs, stop-words left out; 0 if one is
    empty."""
    sets = [set(_TOKEN.findall(_clean(text))) - _STOP_WORDS for text in (left, right)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1]) if all(sets) else 0.0


def _clean(text: str) -> str:
    return _DROPPED.sub("", " ".join(text.lower().split())).strip()


def _mathematics(text: str) -> str:
    return " ".join("".join(found) for found in _MATH.findall(text))


def _skeleton(text: str) -> str:
    named = _VARIABLE.sub("V", text)
    return "".join(re.sub(r"\d+", "N", named).split())
