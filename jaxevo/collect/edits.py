"""Edits of conversations: a failed call is overwritten by the attempt that came after it.

Rows and segments are values, so that an edit makes new ones and the row before it still stands.
What an edit has put into another context has no log-prob any more (`Segment.logp` None).

References: arXiv 2601.15141, similarity-aware adaptive rollback.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from typing import Any, Literal, TypeAlias

import numpy as np

from jaxevo.types import Row, Segment

Marks: TypeAlias = tuple[str, str]  # the texts that begin and end a call
Repair: TypeAlias = Literal["shallow", "deep"]
Turn: TypeAlias = tuple[Segment, ...]  # what the policy wrote from one reply to the next


def last_turn(row: Row) -> Turn:
    """What the policy wrote since somebody else's last word; several segments after an edit."""
    count = 0
    for segment in reversed(row.segments):
        if segment.source != "policy":
            break
        count += 1
    return row.segments[len(row.segments) - count :]


def call_text(turn: Turn, tokenizer: Any, marks: Marks) -> str | None:
    """The text between the marks of a turn's call, decoded.

    Returns:
      None without the mark that ends a call; all up to it, itself included, when the call was
      never begun.
    """
    begin, end = marks
    text = tokenizer.text(_ids(turn))
    stop = text.find(end)
    if stop < 0:
        return None
    start = text.find(begin, 0, stop)
    return text[: stop + len(end)] if start < 0 else text[start + len(begin) : stop]


def split_turn(turn: Turn, tokenizer: Any, begin: str) -> tuple[Turn, Turn] | None:
    """A turn's reasoning and its call, which starts with the first token of the mark `begin`.

    A token that holds the mark's first byte together with text before it belongs to the call.

    Returns:
      None when the turn has no such mark, so that it cannot be split.
    """
    pieces = [tokenizer.token_bytes(token) for token in _ids(turn)]
    offset = b"".join(pieces).find(begin.encode())
    if offset < 0:
        return None
    ends = itertools.accumulate(len(piece) for piece in pieces)
    cut = next(n for n, end in enumerate(ends) if end > offset)
    reasoning, call, start = [], [], 0
    for segment in turn:
        here = min(max(cut - start, 0), len(segment.ids))
        reasoning += [part(segment, 0, here)] if here else []
        call += [part(segment, here, len(segment.ids))] if here < len(segment.ids) else []
        start += len(segment.ids)
    return tuple(reasoning), tuple(call)


def _ids(turn: Turn) -> list[int]:
    return [int(token) for segment in turn for token in segment.ids]


def part(segment: Segment, start: int, stop: int) -> Segment:
    """Tokens start to stop of a segment, with all that is known of them."""

    def cut(x: np.ndarray | None) -> np.ndarray | None:
        return None if x is None else x[start:stop]

    return dataclasses.replace(
        segment,
        ids=segment.ids[start:stop],
        logp=cut(segment.logp),
        log_kept=cut(segment.log_kept),
        entropy=cut(segment.entropy),
    )


def moved(segment: Segment) -> Segment:
    """The segment in another context than the one it was sampled in: what the sampler thought of
    its tokens is stale. `log_kept` stays, since it tells that they come from a cut distribution."""
    return dataclasses.replace(segment, logp=None, entropy=None)


def similarity(old: str, new: str) -> float:
    """2·M / (length of both), M the characters in matching blocks (`difflib.SequenceMatcher`).

    >>> round(similarity("print(sum(range(10))", "print(sum(range(10)))"), 4)
    0.9756
    """
    return difflib.SequenceMatcher(None, old, new).ratio()


def repair_kind(old: str, new: str, *, similar: float = 0.5) -> Repair:
    """What a new call repairs: the call alone (shallow: similarity >= `similar`), or the reasoning
    before it as well (deep).

    Args:
      old: the failed call's text. new: that of the call after it; decoded, without reasoning.
      similar: least similarity in [0, 1] of a shallow repair.
    """
    return "shallow" if similarity(old, new) >= similar else "deep"


def splice(row: Row, new: Turn, kind: Repair, *, tokenizer: Any, begin: str) -> tuple[Row, Repair]:
    """The row with its last turn overwritten by a later one.

    shallow: the old reasoning, which keeps its log-probs, and the new call; deep: the whole new
    turn. Turns that cannot be split make the repair deep.

    Args:
      row: ends with the turn that failed; sample on from the result only after `Lab.fork`.
      new: the later turn of the policy.
      kind, tokenizer, begin: as in `repair_kind` and `split_turn`.

    Returns:
      the new row, and what was done.
    """
    old = last_turn(row)
    before = row.segments[: len(row.segments) - len(old)]
    one, other = split_turn(old, tokenizer, begin), split_turn(new, tokenizer, begin)
    if kind == "shallow" and one is not None and other is not None:
        turn = (*one[0], *map(moved, other[1]))
    else:
        kind, turn = "deep", tuple(map(moved, new))
    return dataclasses.replace(row, segments=(*before, *turn)), kind
