"""Attempts cut into numbered segments, of which an annotator names those that matter (TRACE).

What an attempt says could be meant for the annotator; as with a judge (`judging.neutral`), nothing
in it stands outside of its delimiters.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxevo.collect.answers import answers_sizes
from jaxevo.collect.judging import neutral, question_text, replies
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.table import tallied
from jaxevo.types import Bound, Message, Row, Sizes, Task, TrainState

Route = Literal["right", "wrong"]
Range = tuple[int, int]  # first token, and the one behind the last

MOST = 64  # segments of an attempt
LABEL = 80  # characters of a label
PROMPT = """\
Below are a problem, its reference answer, and an attempt cut into numbered segments. The attempt \
is {outcome}. Name the segments {wanted}, the most important first, and the kind of {what} in \
a few words. The words must fit other problems too: no numbers, no results, no quotes.

<problem>
{question}
</problem>
<reference>
{reference}
</reference>
<attempt>
{attempt}
</attempt>

Answer with JSON and nothing else: {{"segments": [ids], "type": "..."}}"""
WORDS = {
    "right": {"outcome": "right", "wanted": "that decide it", "what": "step they take"},
    "wrong": {"outcome": "wrong", "wanted": "where it goes wrong", "what": "mistake they make"},
}
_SENTENCE = re.compile(rb"(?<=[.!?])[ \t]+")


class Annotation(NamedTuple):
    """Indices of segments, the most important first, and the kind of step or mistake."""

    segments: tuple[int, ...]
    label: str


# ---------------------------------------------------------------------------- segments
def segment_ranges(ids: Sequence[int], tokenizer: Any, *, most: int = MOST) -> list[Range]:
    """Where an answer's segments stand among its tokens.

    Segments are its lines, those of one line alone its sentences; of a character model its tokens.
    A token belongs to the segment in which its first byte stands; special tokens to none. Blank
    segments join the one before them; neighbours are joined until there are at most `most`.

    Args:
      ids: as they were sampled, not encoded anew.
      tokenizer: its `token_bytes`.
      most: segments.
    """
    pieces = [tokenizer.token_bytes(int(token)) for token in ids]
    starts = [0, *itertools.accumulate(len(piece) for piece in pieces)]
    cuts = _cuts(b"".join(pieces)) if tokenizer.chat else starts[1:-1]
    own = [bisect.bisect_right(cuts, start) for start in starts[:-1]]
    ranges: list[Range] = []
    for _, tokens in itertools.groupby(
        (n for n, piece in enumerate(pieces) if piece), key=lambda n: own[n]
    ):
        found = list(tokens)
        if ranges and not b"".join(pieces[found[0] : found[-1] + 1]).strip():
            ranges[-1] = (ranges[-1][0], found[-1] + 1)
        else:
            ranges.append((found[0], found[-1] + 1))
    each = -(-len(ranges) // most)
    parts = [ranges[n : n + each] for n in range(0, len(ranges), max(each, 1))]
    return [(part[0][0], part[-1][1]) for part in parts]


def _cuts(text: bytes) -> list[int]:
    """Where lines begin, but for the first; of a single line, sentences."""
    lines = [match.end() for match in re.finditer(rb"\n", text.rstrip())]
    return lines or [match.end() for match in _SENTENCE.finditer(text)]


def span_mask(
    chosen: Sequence[int], ranges: Sequence[Range], tokens: int, *, coverage: float
) -> np.ndarray:
    """The tokens of the chosen segments, at most ⌊coverage · tokens⌋ of them, [tokens] bool.

    Segments are taken in the given order; the first that has too many tokens is cut, and ends it.
    """
    mask, free = np.zeros(tokens, bool), int(coverage * tokens)
    for start, stop in (ranges[index] for index in chosen):
        taken = min(stop - start, free)
        mask[start : start + taken] = True
        free -= taken
        if taken < stop - start:
            break
    return mask


# ---------------------------------------------------------------------------- annotators
def read_annotation(reply: str, count: int, *, forbidden: str = "") -> Annotation | None:
    """The annotation in a reply's first JSON object, None where it cannot be used.

    Ids are those of the prompt, from 1; each must be one of `count`. A label that holds the
    forbidden text, the reference, would tell the teacher more than it may know.

    >>> read_annotation('{"segments": [3, 1], "type": "a missing case"}', 3)
    Annotation(segments=(2, 0), label='a missing case')
    """
    start = reply.find("{")
    try:
        said, _ = json.JSONDecoder().raw_decode(reply[max(start, 0) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    ids, label = said.get("segments"), said.get("type")
    if not isinstance(ids, list) or not ids or not isinstance(label, str):
        return None
    label = " ".join(label.split())[:LABEL]
    known = all(type(n) is int and 1 <= n <= count for n in ids)
    if not known or not label or (forbidden and forbidden in label):
        return None
    return Annotation(tuple(dict.fromkeys(n - 1 for n in ids)), label)


def annotation_task(row: Row, tokenizer: Any, ranges: Sequence[Range], route: Route) -> Task:
    """The task of naming an attempt's segments."""
    ids = [int(token) for token in row.answer_ids]
    texts = [tokenizer.text(ids[start:stop]).strip() for start, stop in ranges]
    shown = {
        "question": question_text(row.task.messages, True),
        "reference": row.task.answer,
        "attempt": neutral("\n".join(f"[{n}] {t}" for n, t in enumerate(texts, 1)), chat=True),
    }
    text = PROMPT.format(**WORDS[route], **shown)
    return Task(f"annotate/{row.task.uid}", (Message("user", text),), "")


def by_model(
    lab: Lab,
    rows: Sequence[Row],
    ranges: Sequence[Sequence[Range]],
    *,
    route: Route,
    params: str,
    prompt_tokens: int,
    new_tokens: int | None = None,
) -> list[Annotation | None]:
    """What a parameter set says of each row; None also where the prompt would be too long.

    Its replies are logged as rows with role "annotator".
    """
    tasks = [
        annotation_task(row, lab.tokenizer, own, route)
        for row, own in zip(rows, ranges, strict=True)
    ]
    how = {"params": params, "role": "annotator", "new_tokens": new_tokens}
    said = replies(lab, tasks, prompt_tokens=prompt_tokens, **how)
    return [
        None if text is None else read_annotation(text, len(own), forbidden=row.task.answer)
        for row, own, text in zip(rows, ranges, said, strict=True)
    ]


def by_digits(row: Row, tokenizer: Any, ranges: Sequence[Range]) -> Annotation | None:
    """What a rule says of a character model's attempt, whose tokens are characters.

    The segments with the digits of its last number; of a wrong one with those that are not the
    answer's, from the left. The label is `=` for a right number, `+` for one that is too small, `-`
    for one too large.
    """
    text = "".join(tokenizer.text([int(token)]) or " " for token in row.answer_ids)
    found, truth = list(re.finditer("[0-9]+", text)), row.task.answer.strip()
    if not found or not truth.isdecimal():
        return None
    said, start = found[-1][0], found[-1].start()
    pairs = itertools.zip_longest(said, truth[: len(said)])
    label, places = "=", list(range(start, start + len(said)))
    if said != truth:
        label = "+" if (len(said), said) < (len(truth), truth) else "-"
        places = [start + n for n, (own, right) in enumerate(pairs) if own != right]
    firsts = [first for first, _ in ranges]
    chosen = tuple(dict.fromkeys(bisect.bisect_right(firsts, place) - 1 for place in places))
    return Annotation(chosen, label) if chosen else None


# ---------------------------------------------------------------------------- the wave
def annotated(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    wave: Bound,
    route: Route = "wrong",
    annotator: str = "policy",
    success: float = 0.5,
    coverage: float = 0.25,
    number: str = "fade",
    prompt_tokens: int,
    new_tokens: int | None = None,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """The rows of another wave, with the tokens that matter as `by_token["span"]`, 1 or 0.

    Annotated are rows on the route alone, right or wrong ones; where nothing can be read, a row has
    no span. Character models, which write no JSON, are annotated by a rule (`by_digits`).

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      wave: a `Recipe.collect` with its options; its rows are verified and have `numbers[number]`,
        with 0 of which nothing is annotated.
      route: key segments of right attempts, or error segments of wrong ones.
      annotator: the parameter set that annotates.
      success: least accuracy of a right attempt.
      coverage: largest share of an attempt's tokens in its span.
      number: see `wave`.
      prompt_tokens, new_tokens: longest prompt of the annotator, and reply; None for the run's.
      objective: whose rows they are.

    Returns:
      the rows; those with a span have `info["label"]`; `info["tally"]` of annotated ones has
      `annotated` (whether one could be read) and `span_share` of their tokens.
    """
    rows = wave(lab, state, memory)[objective]
    wanted = [
        row
        for row in rows
        if row.numbers[number] and (row.accuracy >= success) == (route == "right")
    ]
    tokenizer = lab.tokenizer
    ranges = [segment_ranges(row.answer_ids.tolist(), tokenizer) for row in wanted]
    if tokenizer.chat:
        limits = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens}
        found = by_model(lab, wanted, ranges, route=route, params=annotator, **limits)
    else:
        pairs = zip(wanted, ranges, strict=True)
        found = [by_digits(row, tokenizer, own) for row, own in pairs]
    marked = {
        row.uid: _marked(row, own, annotation, coverage)
        for row, own, annotation in zip(wanted, ranges, found, strict=True)
    }
    return {objective: lab.record([marked.get(row.uid) or _bare(row) for row in rows])}


def _bare(row: Row) -> Row:
    none = np.zeros(len(row.answer_ids), np.float32)
    return dataclasses.replace(row, by_token={**row.by_token, "span": none})


def _marked(
    row: Row, ranges: Sequence[Range], annotation: Annotation | None, coverage: float
) -> Row:
    count, row = len(row.answer_ids), _bare(row)
    chosen = () if annotation is None else annotation.segments
    span = span_mask(chosen, ranges, count, coverage=coverage)
    tally = {"annotated": float(annotation is not None), "span_share": float(span.mean())}
    info = dict(row.info)
    if annotation is not None and span.any():
        info["label"] = annotation.label
    by_token = {**row.by_token, "span": span.astype(np.float32)}
    return tallied(dataclasses.replace(row, by_token=by_token, info=info), **tally)


def annotated_sizes(
    rollout: RolloutConfig, longest: int, tokenizer: Any, *, prompt_tokens: int
) -> Sizes:
    """P problems x G answers in one turn, and an annotator's prompts of up to `prompt_tokens`."""
    asked = prompt_tokens if tokenizer.chat else 0  # a rule asks nobody
    return answers_sizes(rollout, longest, tokenizer, asked_tokens=asked)
