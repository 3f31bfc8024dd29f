"""A teacher that has been told what kind of step or mistake matters, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from jaxevo.teachers.contexts import PLAIN, Context, Tokenizer, Wording, only, with_sections
from jaxevo.types import Row

RIGHT = Wording(
    layout="{question}{solution}{feedback}",
    solution="",
    feedback="\n\nHint: what matters most here is {text}.",
    mark="…",
)
WRONG = Wording(
    layout="{question}{solution}{feedback}",
    solution="",
    feedback="\n\nHint: a common mistake here is {text}.",
    mark="…",
)


def label_given(
    row: Row,
    siblings: Sequence[Row],
    tokenizer: Tokenizer,
    *,
    success: float = 0.5,
    max_prompt_tokens: int,
) -> Context | None:
    """The prompt with the row's type label, `info["label"]`, in its last user message (TRACE).

    Neither the segments that the label is about nor the reference are shown.

    Args:
      row: whose attempt is scored.
      siblings: not read.
      tokenizer: how the prompt becomes ids; character models are shown `(label)question`.
      success: least accuracy of an attempt that is right, whose label is no mistake.
      max_prompt_tokens: there is no context where the prompt has more.

    Returns:
      A context, or None for a row without a label.

    References:
      arXiv 2605.10194 (TRACE).
    """
    del siblings
    wording = (RIGHT if row.accuracy >= success else WRONG) if tokenizer.chat else PLAIN
    label = only(str(row.info.get("label", "")), wording.letters)
    if not label:
        return None
    told = with_sections(row, wording, solution="", feedback=label)
    ids = list(tokenizer.render(told.messages))
    return Context(ids) if len(ids) <= max_prompt_tokens else None
