"""An answer, and the instruction to make a better one of it, or a worse one (T-REG)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

from jaxevo.teachers.contexts import PLAIN, Context, Tokenizer, Wording, only, told, without_end
from jaxevo.types import Row

Instruction = Literal["better", "worse"]
ASKED = {
    "better": "Make it more helpful, more correct, more coherent and more concise.",
    "worse": "Make it less helpful, less correct, less coherent and more verbose.",
}
CHAT = {
    name: Wording(
        layout="{question}{solution}\n\nRewrite this answer. " + asked,
        solution="\n\nAn answer to this:\n\n{text}",
        feedback="",
        mark="…",
    )
    for name, asked in ASKED.items()
}
PLAIN_SIGNS = {"better": "+", "worse": "-"}  # character models: [37]+12+35= and [37]-12+35=
SIGNED = {
    name: dataclasses.replace(PLAIN, layout="{solution}" + sign + "{question}")
    for name, sign in PLAIN_SIGNS.items()
}


def rewrite(
    row: Row,
    siblings: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    instruction: Instruction,
    max_prompt_tokens: int,
) -> Context | None:
    """The prompt with the row's own answer and the instruction to rewrite it.

    Under it the answer is scored as if it were the revision.

    Args:
      row: whose answer is shown and scored.
      siblings: not read.
      tokenizer: `chat` decides between the wordings `CHAT` and `SIGNED`.
      instruction: better or worse.
      max_prompt_tokens: a longer prompt loses the middle of the answer.

    Returns:
      A context, or None for an empty answer, or when its prompt exceeds the limit even with one
      character of it.

    Raises:
      ValueError: for a task without a user message.

    References:
      arXiv 2412.02685 (T-REG), whose instructions say the same in other words.
    """
    del siblings
    wording = (CHAT if tokenizer.chat else SIGNED)[instruction]
    text = only(tokenizer.text(without_end(row.answer_ids, tokenizer)).strip(), wording.letters)
    return told(row, tokenizer, wording, solution=text, most=max_prompt_tokens) if text else None
