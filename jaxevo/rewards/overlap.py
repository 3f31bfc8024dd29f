"""Verifiers for answers that may be worded otherwise: what they share with the right one."""

from __future__ import annotations

import re
import string
from collections import Counter

from jaxevo.rewards.exact import shown
from jaxevo.types import Task, Verdict

ORDERS = range(1, 7)  # characters of an n-gram
RECALL = 2.0  # beta: how many times as much recall counts as precision
_ANSWER = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_CALL_END = re.compile(r"\]|</search>")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def chrf(task: Task, text: str) -> Verdict:
    """Scores a translation by the character n-grams that it shares with the task's answer (chrF).

    With P and R the means over n = 1..6 of the shares of the text's and of the answer's n-grams
    that the other has, F = (1 + β²)·P·R / (β²·P + R), β = 2, in [0, 1]. White space is left out, as
    are orders for which either is too short; as in sacrebleu, without words.

    Returns:
      pass for F = 1; else fail, with F as the score and the right answer; error when the task's
      own answer is empty.

    References:
      Popović 2015, chrF: character n-gram F-score for automatic MT evaluation.
    """
    read, right = ("".join(side.split()) for side in (text, task.answer))
    shares = []
    for order in ORDERS:
        own, wanted = (_grams(side, order) for side in (read, right))
        if own and wanted:
            both = (own & wanted).total()
            shares.append((both / own.total(), both / wanted.total()))
    precision = sum(share for share, _ in shares) / max(len(shares), 1)
    recall = sum(share for _, share in shares) / max(len(shares), 1)
    return _verdict(task, right, _f(precision, recall, RECALL))


def token_f1(task: Task, text: str) -> Verdict:
    """Scores an answer by the words that it shares with the task's answer, as SQuAD does.

    F = 2·P·R / (P + R) in [0, 1] of the words that both hold, counted as often as both do; letters
    are made small, ASCII punctuation and the articles a, an, the are left out.

    Returns:
      pass for F = 1; else fail, with F as the score and the right answer; error when nothing is
      left of the task's own answer.

    References:
      Rajpurkar et al., arXiv 1606.05250, section 6.1.
    """
    own, wanted = Counter(_words(text)), Counter(_words(task.answer))
    both = (own & wanted).total()
    precision, recall = both / max(own.total(), 1), both / max(wanted.total(), 1)
    return _verdict(task, " ".join(wanted), _f(precision, recall, 1.0))


def short_answer(task: Task, text: str) -> Verdict:
    """Passes when the text's final answer has the words of the task's answer, and no others.

    The final answer is what stands between the last `<answer>` and `</answer>`, or else behind the
    last call of a tool, which ends with `]` or `</search>`. Words are those of `token_f1`; their
    order counts.

    References:
      Rajpurkar et al., arXiv 1606.05250, exact match.
    """
    given = _ANSWER.findall(text)
    own = _words(given[-1] if given else _CALL_END.split(text)[-1])
    wanted = _words(task.answer)
    return _verdict(task, " ".join(wanted), float(own == wanted))


def _f(precision: float, recall: float, beta: float) -> float:
    if precision + recall == 0:
        return 0.0
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def _grams(text: str, order: int) -> Counter[str]:
    return Counter(text[start : start + order] for start in range(len(text) - order + 1))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _verdict(task: Task, right: str, score: float) -> Verdict:
    if not right:
        return Verdict("error", 0.0, f"task {task.uid} has an empty answer.")
    if score == 1.0:
        return Verdict("pass", 1.0)
    return Verdict("fail", score, f"The right answer is {shown(task.answer)}.")
