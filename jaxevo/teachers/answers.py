"""A teacher that has been given an answer, right or wrong, before the row's own attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxevo.rewards.form import last_boxed
from jaxevo.rewards.integer import last_number
from jaxevo.teachers.contexts import PLAIN, Context, Tokenizer, only, with_sections
from jaxevo.types import Row

WrongAnswer = Literal["parsed", "lowest"]
SHOWN = 50  # characters of an attempt in which no answer is found


def answer_given(
    row: Row,
    siblings: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    which: Literal["right", "wrong"],
    choose: WrongAnswer = "parsed",
    success: float = 0.5,
    alone: bool = False,
    number: str = "mix",
    max_prompt_tokens: int,
) -> Context | None:
    """The prompt and, at the start of the assistant's turn, a space and an answer (CEPO).

    The right answer is the task's; the wrong one, the same for the whole group, comes from a row
    that was rejected (`wrong_answer`). Character models are shown either before the question, in
    the form that they know of solutions (`PLAIN`).

    Args:
      row: a verified row, whose attempt is scored.
      siblings: rows of its group, itself among them.
      tokenizer: how answers become ids.
      which: answer to show.
      choose, success: as in `wrong_answer`.
      alone: whether the right answer is shown where there is no wrong one.
      number: of `Row.numbers`: rows where it is 0 need no teacher.
      max_prompt_tokens: there is no context where prompt and answer have more.

    Returns:
      A context, or None: for rows that need no teacher, among them those of groups whose rewards
      are all equal, which have no advantage, and where an answer is missing or too long.

    References:
      arXiv 2605.19436 (CEPO) and its official code, which appends the answer's tokens as well.
    """
    dead = len({other.reward for other in siblings}) == 1
    if dead or row.numbers.get(number) == 0.0:
        return None
    right = row.task.answer.strip()
    wrong = wrong_answer(row, siblings, tokenizer, choose=choose, success=success)
    if which == "right" and not wrong and not alone:
        return None
    text = right if which == "right" else wrong
    if tokenizer.chat:
        ids = [*(int(i) for i in row.prompt_ids), *tokenizer.turn(f" {text}")[:-1]]
    else:
        text = only(text, PLAIN.letters)
        told = with_sections(row, PLAIN, solution=text, feedback="")
        ids = list(tokenizer.render(told.messages))
    return Context(ids) if text and len(ids) <= max_prompt_tokens else None


def wrong_answer(
    row: Row,
    siblings: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    choose: WrongAnswer = "parsed",
    success: float = 0.5,
) -> str:
    r"""What a rejected row of the group answered, "" where none was rejected.

    parsed takes the first answer (the content of the last `\boxed{}`, else the last number) that is
    not the task's own, and where no rejected row has one the beginning of the first that says
    anything. lowest is the official code's rule: of the row with the lowest reward, the first of
    equals, the content of its box, or the word None where it has none.

    Args:
      row: of the group.
      siblings: all rows of it.
      tokenizer: how ids become text.
      choose: which of the two.
      success: least accuracy (`Row.accuracy`) of a row that is not rejected.

    Raises:
      ValueError: for an unknown rule.
    """
    if choose not in ("parsed", "lowest"):
        raise ValueError(f'the wrong answer is "parsed" or "lowest", got {choose!r}.')
    rejected = [o for o in siblings if o.group == row.group and o.accuracy < success]
    if not rejected:
        return ""
    if choose == "lowest":
        worst = min(rejected, key=lambda other: other.reward)
        return last_boxed(_text(worst, tokenizer)) or "None"
    texts = [_text(other, tokenizer) for other in rejected]
    found = [last_boxed(text) or last_number(text) for text in texts]
    other_ones = [answer for answer in found if answer and answer != row.task.answer.strip()]
    beginnings = [text.strip()[:SHOWN] for text in texts]
    return next(filter(None, [*other_ones, *beginnings]), "")


def _text(row: Row, tokenizer: Tokenizer) -> str:
    return tokenizer.text([int(i) for i in row.answer_ids])
