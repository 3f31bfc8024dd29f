"""Drafts of which the best is shown with the problem; what is learnt answers that (iGRPO)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxevo.collect.answers import answers_sizes
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.table import by_group, tallied
from jaxevo.rewards.repetition import shared_grams
from jaxevo.tasks.told import CHAT_DRAFT, PLAIN_DRAFT, most_that_fits, with_text
from jaxevo.types import Message, Row, Sizes, Task, TrainState

RIGHT = 0.5  # least accuracy of what is counted as right


def draft_then_refine(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    drafts: int,
    layout: str | None = None,
    draft_tokens: int | None = None,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P problems, `drafts` drafts each; G answers each to the problem with its best draft.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      drafts: N of a problem, rows of role `draft`, which nobody learns from.
      layout: how a draft is shown, see `with_draft`.
      draft_tokens: longest draft that is shown whole, None for the run's longest answer.
      objective: learns from the answers, a group each problem.

    Returns:
      the answers, whose prompt has the draft. `info["tally"]` of drafts has draft_right, that of
      answers see `refinements`.
    """
    del state, memory
    best = best_drafts(lab, lab.tasks(), drafts=drafts)
    return {objective: refinements(lab, best, layout=layout, draft_tokens=draft_tokens)}


def best_drafts(lab: Lab, tasks: Sequence[Task], *, drafts: int) -> list[Row]:
    """The draft of the highest reward of each task; of equals that of higher accuracy, then the
    first."""
    tried = lab.attempt(tasks, samples=drafts, role="draft")
    tried = lab.record([tallied(row, draft_right=row.accuracy >= RIGHT) for row in tried])
    return [best_of(group) for group in by_group(tried).values()]


def best_of(rows: Sequence[Row]) -> Row:
    """See `best_drafts`."""
    return max(rows, key=lambda row: (row.reward, row.accuracy))


def refinements(
    lab: Lab,
    best: Sequence[Row],
    *,
    layout: str | None = None,
    draft_tokens: int | None = None,
) -> list[Row]:
    """G answers to the task of each draft, with the draft in its prompt, verified.

    Args:
      lab: whose answers they are.
      best: a verified draft of each problem.
      layout, draft_tokens: as in `with_draft`, None for the tokenizer's own, and for the run's
        longest answer.

    Returns:
      rows in order. Of `info["tally"]`, best_draft_right and refined_right say what was right;
      kept is the latter where the draft was right, corrected where it was not; copied whether the
      answer is the draft again, draft_overlap the share of its n-grams that the draft has
      (`shared_grams`); draft_cut whether the draft was shown in part; dead_group whether all
      answers to the problem have one reward.
    """
    most = lab.config.new_tokens if draft_tokens is None else draft_tokens
    layout = layout_of(lab.tokenizer) if layout is None else layout
    texts = [lab.answer_text(row).strip() for row in best]
    shown = [
        with_draft(row.task, text, lab.tokenizer, layout=layout, most=most)
        for row, text in zip(best, texts, strict=True)
    ]
    groups = by_group(lab.attempt([task for task, _ in shown])).values()
    refined = []
    for draft, text, (_, cut), group in zip(best, texts, shown, groups, strict=True):
        dead = len({row.reward for row in group}) == 1
        for row in group:
            told = _of_draft(lab, row, draft, text)
            refined.append(tallied(row, **told, draft_cut=cut, dead_group=dead))
    return lab.record(refined)


def _of_draft(lab: Lab, row: Row, draft: Row, text: str) -> dict[str, float]:
    answer = lab.answer_text(row).strip()
    own, source = (side.split() if lab.tokenizer.chat else side for side in (answer, text))
    right, before = row.accuracy >= RIGHT, draft.accuracy >= RIGHT
    return {
        "best_draft_right": before,
        "refined_right": right,
        "kept" if before else "corrected": right,
        "copied": answer == text,
        "draft_overlap": shared_grams(own, source),
    }


# ---------------------------------------------------------------------------- what is shown
def layout_of(tokenizer: Any) -> str:
    """How chat models, or character-level ones, are shown a draft."""
    return CHAT_DRAFT if tokenizer.chat else PLAIN_DRAFT


def with_draft(
    task: Task, draft: str, tokenizer: Any, *, layout: str, most: int
) -> tuple[Task, bool]:
    """The task with a draft of its answer in the last user message, and whether that was cut.

    Args:
      layout: with the fields {question} and {draft}.
      most: tokens over those of question and layout; a longer draft loses its beginning. Where not
        even an empty one has room, as tokens may join in other ways, the task stays as it was.
    """
    limit = len(tokenizer.render(task.messages)) + layout_tokens(tokenizer, layout) + most

    def told(keep: int) -> Task:
        return with_text(task, layout, draft=draft[len(draft) - keep :])

    def fits(keep: int) -> bool:
        return len(tokenizer.render(told(keep).messages)) <= limit

    keep = most_that_fits(fits, len(draft))
    return (task, bool(draft)) if keep is None else (told(keep), keep < len(draft))


def layout_tokens(tokenizer: Any, layout: str) -> int:
    """Tokens that a layout adds to those of a question and a draft that join nothing in it."""
    letter = "a" if tokenizer.chat else ""  # line breaks join before nothing, but not before it
    lengths = [
        len(tokenizer.render((Message("user", text),)))
        for text in (layout.format(question=letter, draft=letter), letter)
    ]
    return lengths[0] - lengths[1] - len(tokenizer.encode(letter))


def refinement_sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    layout: str | None = None,
    draft_tokens: int | None = None,
    objective: str = "policy",
) -> Sizes:
    """P problems x G answers, whose prompts hold a draft of up to `draft_tokens`."""
    layout = layout_of(tokenizer) if layout is None else layout
    most = rollout.new_tokens if draft_tokens is None else draft_tokens
    context = prompt_tokens + layout_tokens(tokenizer, layout) + most
    return answers_sizes(rollout, context, tokenizer, objective=objective)
