"""Attempts that are revised in the same turn, after a phrase that tells their outcome (SD-Zero)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxevo.collect.answers import answers_sizes
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.table import by_group, tallied
from jaxevo.teachers.contexts import Phrases, outcome_phrase, phrases_of, without_end
from jaxevo.types import Row, Segment, Size, Sizes, Source, TrainState


def revisions(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    copies: int = 3,
    most: int = 3,
    right_share: float = 0.5,
    success: float = 0.5,
    phrases: Phrases | None = None,
    objective: str = "revise",
) -> dict[str, list[Row]]:
    """P problems, G attempts each, `copies` revisions of each attempt; those that are right remain.

    A revision goes on in the turn of its attempt, whose end-of-turn token is left out, behind the
    phrase for the attempt's outcome. Kept are revisions that ended by themselves and that the first
    verifier passes.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      copies: revisions of an attempt.
      most: revisions kept of one problem, the first sampled.
      right_share: largest share, in [0, 1], of kept revisions whose attempt was right already;
        the last ones are left out.
      success: least accuracy of what is right.
      phrases: what stands between, None for the tokenizer's own.
      objective: learns from the rows.

    Returns:
      rows of an attempt and the phrase, both `forced`, and the revision, whose reward is the row's;
      `by_token["revision"]` is 1 at the revision's tokens; `info["tally"]` says whether attempt and
      revision were right.
    """
    del state, memory
    drafts = lab.attempt(lab.tasks())
    tried = revised(lab, drafts, copies=copies, success=success, phrases=phrases)
    fixed = [row for row in tried if row.accuracy >= success and row.info["finish"] != "length"]
    kept = [row for group in by_group(fixed).values() for row in group[:most]]
    return {objective: _not_too_many_right(kept, right_share)}


def revised(
    lab: Lab,
    drafts: Sequence[Row],
    *,
    copies: int,
    success: float = 0.5,
    phrases: Phrases | None = None,
) -> list[Row]:
    """`copies` revisions of each verified attempt, in order and verified; see `revisions`."""
    begun = lab.fork([_opened(row, lab.tokenizer) for row in drafts], copies)
    between: list[tuple[Source, list[int]]] = [
        ("forced", outcome_phrase(row, lab.tokenizer, success=success, phrases=phrases))
        for row in begun
    ]
    # What is forced is not verified again: a verifier reads the policy's own words.
    judged = lab.verify(lab.extend(begun, between, keep=False))
    pairs = zip(begun, judged, strict=True)
    return lab.record([_revision(attempt, row, success) for attempt, row in pairs])


def _opened(row: Row, tokenizer: Any) -> Row:
    """The attempt as something given, without the end of its turn."""
    *before, last = row.segments
    given = Segment(np.array(without_end(last.ids, tokenizer), np.int32), "forced")
    return dataclasses.replace(row, segments=(*before, given))


def _revision(attempt: Row, row: Row, success: float) -> Row:
    marks = [np.full(len(s.ids), s.source == "policy", np.float32) for s in row.answer]
    marked = dataclasses.replace(row, by_token={"revision": np.concatenate(marks)})
    return tallied(
        marked,
        attempt_right=float(attempt.accuracy >= success),
        revision_right=float(row.accuracy >= success),
    )


def _not_too_many_right(rows: Sequence[Row], share: float) -> list[Row]:
    """At most that share of the rows began with a right attempt."""
    wrong = sum(not row.info["tally"]["attempt_right"] for row in rows)
    room = len(rows) if share >= 1.0 else int(wrong * share / (1.0 - share) + 1e-9)
    kept = []
    for row in rows:
        if row.info["tally"]["attempt_right"]:
            if room == 0:
                continue
            room -= 1
        kept.append(row)
    return kept


def revision_sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    copies: int,
    most: int,
    phrases: Phrases | None = None,
) -> Sizes:
    """Room for `most` revisions of each of P problems, and for P problems x G answers."""
    P, G, A = rollout.prompts, rollout.samples, rollout.new_tokens
    phrases = phrases_of(tokenizer) if phrases is None else phrases
    between = max(len(tokenizer.encode(text)) for text in (phrases.right, phrases.wrong))
    kept, answer = min(most, G * copies), 2 * A + between
    whole = Size(P * kept, answer=answer, group=kept, slots=prompt_tokens + kept * (answer - 1))
    plain = answers_sizes(rollout, prompt_tokens, tokenizer)
    return Sizes(prompt_tokens + A + between, {"revise": whole, **plain.objectives})
