"""Privileged contexts: what a teacher is told that the policy was not.

A context is `(row, siblings, tokenizer, **options) -> Context | None`: the prompt under which a
view re-scores the row's answer, or None for a row that has none. The attempt is the continuation
that is scored; of the contexts here, `own_attempt` alone shows it before.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Literal, Protocol, TypeVar

import numpy as np

from jaxevo.rewards.integer import numbers
from jaxevo.tasks.told import most_that_fits, with_text
from jaxevo.types import Message, Row, Task

Cut = TypeVar("Cut", str, list[int])


class Tokenizer(Protocol):
    """What contexts need of a tokenizer."""

    @property
    def chat(self) -> bool:
        """False for character-level models, which know digits and signs only."""
        ...

    @property
    def eos_ids(self) -> Sequence[int]:
        """Tokens that end a turn."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, nothing added."""
        ...

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        ...

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Prompt ids of a chat, up to where the assistant begins to speak."""
        ...

    def turn(self, text: str) -> list[int]:
        """Ids of an assistant's whole turn: a text, read literally, and the token that ends it."""
        ...


@dataclasses.dataclass(frozen=True)
class Context:
    """A teacher's prompt. cut: privileged text was shortened to fit."""

    ids: list[int]
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class Wording:
    """The words of a re-prompt: the last user message becomes `layout`.

    layout has {question}, {solution} and {feedback}; the latter two are the sections below, or
    empty. solution and feedback have {text}. mark stands where text was cut. letters: characters
    that the texts may hold, None for all; others are dropped, and of feedback only integers stay.
    """

    layout: str
    solution: str
    feedback: str
    mark: str
    letters: str | None = None


CHAT = Wording(
    layout="{question}{solution}{feedback}\n\nSolve the original question correctly.",
    solution="\n\nA correct solution:\n\n{text}",
    feedback="\n\nFeedback from your unsuccessful earlier attempt:\n\n{text}",
    mark="…",
)
CRITIQUE = Wording(
    layout=(
        "{question}{solution}{feedback}\n\nNow solve the problem step by step in your own words, "
        "up to the answer."
    ),
    solution="\n\nA solution to reason along:\n\n{text}",
    feedback="",
    mark="…",
)
PATH = Wording(
    layout="{question}{solution}{feedback}\n\nSearch for yourself, then answer the question.",
    solution="\n\nThe question was built by these searches, in order:\n\n{text}",
    feedback="",
    mark="…",
)
PLAIN = Wording(
    layout="{solution}{feedback}{question}",
    solution="[{text}]",
    feedback="({text})",
    mark="?",
    letters="0123456789+-*=[]()? ",
)


@dataclasses.dataclass(frozen=True)
class Phrases:
    """What follows an attempt that was right, or wrong, before it is revised in the same turn."""

    right: str
    wrong: str


CHAT_PHRASES = Phrases(
    right="\n\nThat is right. Let me say it in other words.\n\n",
    wrong="\n\nWait, that is not right. Let me start again.\n\n",
)
PLAIN_PHRASES = Phrases(right="=", wrong="?")


def phrases_of(tokenizer: Tokenizer) -> Phrases:
    """The phrases of chat models, or of character-level ones."""
    return CHAT_PHRASES if tokenizer.chat else PLAIN_PHRASES


def outcome_phrase(
    row: Row, tokenizer: Tokenizer, *, success: float = 0.5, phrases: Phrases | None = None
) -> list[int]:
    """Ids of the phrase for a verified attempt; `success` is the least accuracy of a right one."""
    phrases = phrases_of(tokenizer) if phrases is None else phrases
    return tokenizer.encode(phrases.right if row.accuracy >= success else phrases.wrong)


def without_end(ids: Sequence[int] | np.ndarray, tokenizer: Tokenizer) -> list[int]:
    """The ids without the end-of-turn token behind them."""
    own = [int(i) for i in ids]
    return own[:-1] if own and own[-1] in tokenizer.eos_ids else own


def own_attempt(
    row: Row,
    siblings: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    success: float = 0.5,
    phrases: Phrases | None = None,
    max_prompt_tokens: int,
) -> Context | None:
    """The prompt, the row's own attempt and the phrase for its outcome: [x, y, P_r] (SD-Zero).

    Under it the attempt is scored a second time, as if the reviser were to write it again. Ids are
    spliced, so that what is shown is what was sampled; the first copy has no end-of-turn token.

    Args:
      row: a verified row, whose answer is shown and scored.
      siblings: not read.
      tokenizer: its `eos_ids`, and the ids of the phrase.
      success: least accuracy of an attempt that is said to be right.
      phrases: what is said, None for the tokenizer's own.
      max_prompt_tokens: a longer context loses tokens from the middle of the attempt.

    Returns:
      A context, or None when not one token of the attempt has room.

    References:
      arXiv 2604.12002 (SD-Zero).
    """
    del siblings
    said = outcome_phrase(row, tokenizer, success=success, phrases=phrases)
    attempt = without_end(row.answer_ids, tokenizer)
    room = max_prompt_tokens - len(row.prompt_ids) - len(said)
    if room < 1:
        return None
    cut = len(attempt) > room
    if cut:
        head, tail = _ends(attempt, room)
        attempt = head + tail
    return Context([*_list(row.prompt_ids), *attempt, *said], cut=cut)


def reprompt(
    row: Row,
    siblings: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    use_solution: bool = True,
    use_feedback: Literal["without_solution", "always", "never"] = "without_solution",
    success: float = 0.5,
    failed_only: bool = False,
    max_prompt_tokens: int | None = None,
) -> Context | None:
    """The original prompt with a solution and/or feedback in its last user message (SDPO's x̃).

    The solution is the answer of the first other row of the group with accuracy >= `success`, its
    <think>...</think> removed; a sibling whose answer is empty after that is passed over. The
    feedback is the verifier's text on the row's own attempt, which is empty when it passed.

    Args:
      row: the row whose answer will be scored.
      siblings: rows of its group; the row itself may be among them.
      tokenizer: `chat` decides between the wordings `CHAT` and `PLAIN`.
      use_solution: show a solution.
      use_feedback: show feedback when no solution is shown, always, or never.
      success: least accuracy (`Row.accuracy`) of a solution.
      failed_only: None for a row that is a solution itself (SRPO, arXiv 2604.02288).
      max_prompt_tokens: a longer prompt loses the middle of its privileged texts, never of the
        question or the closing instruction. None sets no limit.

    Returns:
      A context, or None when the row has neither solution nor feedback, or when its prompt exceeds
      the limit even with one character of each.

    Raises:
      ValueError: for an unknown `use_feedback`, or a task without a user message.

    References:
      arXiv 2601.20802 (SDPO) and its official code, which truncates the prompt on the right.
    """
    if use_feedback not in ("without_solution", "always", "never"):
        raise ValueError(
            f"use_feedback={use_feedback!r}; choose without_solution, always or never."
        )
    if failed_only and row.accuracy >= success:
        return None
    wording = CHAT if tokenizer.chat else PLAIN
    solution = _solution(row, siblings, tokenizer, success) if use_solution else ""
    wanted = use_feedback == "always" or (use_feedback == "without_solution" and not solution)
    feedback = _feedback(row, wording) if wanted else ""
    if not solution and not feedback:
        return None

    return told(
        row, tokenizer, wording, solution=solution, feedback=feedback, most=max_prompt_tokens
    )


def critique(
    row: Row, siblings: Sequence[Row], tokenizer: Tokenizer, *, max_prompt_tokens: int | None = None
) -> Context | None:
    """The original prompt with the row's feedback as a solution to reason along.

    The feedback is an attempt's critique, step by step, or a worked solution: whatever the wave has
    put there (`jaxevo.collect.critique`).

    Args:
      row: the row whose answer will be scored.
      siblings: not read.
      tokenizer: `chat` decides between the wordings `CRITIQUE` and `PLAIN`.
      max_prompt_tokens: a longer prompt loses the middle of the critique. None sets no limit.

    Returns:
      A context, or None when the row has no feedback, or when its prompt exceeds the limit even
      with one character of it.

    Raises:
      ValueError: for a task without a user message.

    References:
      arXiv 2606.11173; the transition sentence as in OPSD, arXiv 2601.18734.
    """
    del siblings
    wording = CRITIQUE if tokenizer.chat else PLAIN
    text = only(row.feedback.strip(), wording.letters)
    if not text:
        return None
    return told(row, tokenizer, wording, solution=text, most=max_prompt_tokens)


def path_given(
    row: Row, siblings: Sequence[Row], tokenizer: Tokenizer, *, max_prompt_tokens: int | None = None
) -> Context | None:
    """The original prompt with the path by which the task was built (`info["path"]`).

    A path is a list of steps, each a call of a tool and its reply. The row's answer is scored as it
    was sampled, what tools have said in it included.

    Args:
      row: the row whose answer will be scored.
      siblings: not read.
      tokenizer: `chat` decides between the wordings `PATH` and `PLAIN`.
      max_prompt_tokens: a longer prompt loses the middle of the path. None sets no limit.

    Returns:
      A context, of an empty path the row's own prompt; None for a task without a path, or when its
      prompt exceeds the limit even with one character of it.

    Raises:
      ValueError: for a task without a user message.
    """
    del siblings
    path = row.task.info.get("path")
    if path is None:
        return None
    wording = PATH if tokenizer.chat else PLAIN
    text = only(("\n" if tokenizer.chat else "").join(path), wording.letters)
    if text:
        return told(row, tokenizer, wording, solution=text, most=max_prompt_tokens)
    own = _list(row.prompt_ids)
    return None if max_prompt_tokens is not None and len(own) > max_prompt_tokens else Context(own)


def told(
    row: Row,
    tokenizer: Tokenizer,
    wording: Wording,
    *,
    solution: str,
    feedback: str = "",
    most: int | None,
) -> Context | None:
    """The prompt with these sections, whose middle is left out as far as it must be.

    most: longest prompt in tokens, None for any.
    """

    def prompt(keep: int) -> list[int]:
        parts = [cut_middle(text, keep, mark=wording.mark) for text in (solution, feedback)]
        task = with_sections(row, wording, solution=parts[0], feedback=parts[1])
        return list(tokenizer.render(task.messages))

    longest = max(len(solution), len(feedback))
    if most is None:
        return Context(prompt(longest))
    keep = most_that_fits(lambda keep: len(prompt(keep)) <= most, longest)
    return Context(prompt(keep), cut=keep < longest) if keep else None


def cut_middle(text: str, keep: int, *, mark: str = "…") -> str:
    """At most `keep` characters of a text, from its two ends, with `mark` where some are missing.

    >>> cut_middle("0123456789", 5)
    '012…89'
    """
    if len(text) <= keep:
        return text
    head, tail = _ends(text, keep)
    return head + mark + tail


def _ends(whole: Cut, keep: int) -> tuple[Cut, Cut]:
    """`keep` characters or ids of something longer, from its beginning and its end."""
    tail = keep // 2
    return whole[: keep - tail], whole[len(whole) - tail :]


def _solution(row: Row, siblings: Sequence[Row], tokenizer: Tokenizer, success: float) -> str:
    letters = None if tokenizer.chat else PLAIN.letters
    for other in siblings:
        if other.uid == row.uid or other.group != row.group or other.accuracy < success:
            continue
        text = only(without_thoughts(tokenizer.text(_list(other.answer_ids))), letters)
        if text:
            return text
    return ""


def _feedback(row: Row, wording: Wording) -> str:
    if wording.letters is None:
        return row.feedback.strip()
    return " ".join(number for number in numbers(row.feedback) if "." not in number)


def with_sections(row: Row, wording: Wording, *, solution: str, feedback: str) -> Task:
    """The row's task in a wording with its sections, "" for none.

    Raises:
      ValueError: for a task without a user message.
    """
    return with_text(
        row.task,
        wording.layout,
        solution=wording.solution.format(text=solution) if solution else "",
        feedback=wording.feedback.format(text=feedback) if feedback else "",
    )


def without_thoughts(text: str) -> str:
    """A text without its <think>...</think>, stripped of white space."""
    text = re.sub(r"<think>.*?(?:</think>|\Z)", "", text, flags=re.DOTALL)
    return text.rpartition("</think>")[2].strip()  # a prompt may have opened the thought


def only(text: str, letters: str | None) -> str:
    """The text without characters that are not among the letters; None leaves it as it is."""
    return text if letters is None else "".join(c for c in text if c in letters).strip()


def _list(ids: np.ndarray) -> list[int]:
    return [int(i) for i in ids]
