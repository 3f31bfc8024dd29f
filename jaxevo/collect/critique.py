"""Attempts written in steps, and critiques that follow them step by step.

Steps are tagged, `<step 1>...</step 1>` and so on, then `<answer>...</answer>`; those of models of
characters end with `=`, and what comes behind the last one is the answer. A critique has the same
form: steps that were right are copied word for word, and others are changed.

References: arXiv 2606.11173.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from jaxevo.collect.edits import similarity
from jaxevo.collect.judging import replies
from jaxevo.collect.lab import Lab
from jaxevo.collect.table import tallied
from jaxevo.tasks.told import solutions_of
from jaxevo.teachers.contexts import without_thoughts
from jaxevo.types import Bound, Message, Row, Task, TrainState

Kind: TypeAlias = Literal["preamble", "step", "answer", "tail"]

_STEP = re.compile(rb"<step ([0-9]{1,4})>.*?</step \1>", re.DOTALL)
_ANSWER = re.compile(rb"<answer>.*?</answer>", re.DOTALL)

CHAT = """\
Check an attempt at a problem step by step.

<problem>
{question}
</problem>

A right solution:
<solution>
{solution}
</solution>

The attempt:
<attempt>
{attempt}
</attempt>

Write the attempt once more, in the same steps: <step 1>...</step 1> and so on, then \
<answer>...</answer>. Copy each step that is right word for word. Change only what is wrong or \
missing, and keep to the attempt's notation."""
PLAIN = "{question}({solution})[{attempt}]?"


# ---------------------------------------------------------------------------- steps
@dataclasses.dataclass(frozen=True)
class Part:
    """A stretch of an answer's bytes; white space behind a tag belongs to it."""

    kind: Kind
    raw: bytes

    @property
    def text(self) -> str:
        """In words, with white space collapsed."""
        return " ".join(self.raw.decode(errors="replace").split())


def read_steps(answer: bytes, *, chat: bool) -> list[Part] | None:
    """The parts of an answer, which put together are the answer: preamble, steps, answer, tail.

    Args:
      answer: its bytes, UTF-8 or not.
      chat: tagged steps; else those that end with `=`.

    Returns:
      None where there is no step, where steps are not numbered 1, 2, ..., or where not exactly one
      answer follows them. Preamble and tail are left out where they are empty.

    >>> [part.raw for part in read_steps(b"15+9=24", chat=False)]
    [b'15+9=', b'24']
    """
    if not chat:
        pieces = re.findall(rb"[^=]*=|[^=]+\Z", answer)
        kinds: list[Kind] = [*_times("step", len(pieces) - 1), "answer"]
        if len(pieces) < 2 or pieces[-1].endswith(b"="):
            return None
        return [Part(kind, piece) for kind, piece in zip(kinds, pieces, strict=True)]
    steps, answers = list(_STEP.finditer(answer)), list(_ANSWER.finditer(answer))
    numbered = [int(step[1]) for step in steps] == list(range(1, len(steps) + 1))
    if not steps or not numbered or len(answers) != 1 or answers[0].start() < steps[-1].end():
        return None
    end = answers[0].end()
    end += len(answer[end:]) - len(answer[end:].lstrip())
    starts = [0, *(step.start() for step in steps), answers[0].start(), end, len(answer)]
    kinds = ["preamble", *_times("step", len(steps)), "answer", "tail"]
    cuts = zip(kinds, starts[:-1], starts[1:], strict=True)
    return [Part(kind, answer[start:stop]) for kind, start, stop in cuts if stop > start]


def _times(kind: Kind, count: int) -> list[Kind]:
    return [kind] * count


def changed_parts(own: Sequence[Part], other: Sequence[Part]) -> list[bool | None]:
    """Whether each part of an attempt is another one in its critique; None for preamble and tail.

    The nth step is compared with the nth, the answer with the answer; a step without a partner is
    changed.
    """
    told = [part.text for part in other if part.kind == "step"]
    answer = next((part.text for part in other if part.kind == "answer"), None)
    found, count = list[bool | None](), 0
    for part in own:
        if part.kind == "step":
            found.append(count >= len(told) or part.text != told[count])
            count += 1
        else:
            found.append(part.text != answer if part.kind == "answer" else None)
    return found


def part_marks(
    ids: Sequence[int], tokenizer: Any, parts: Sequence[Part], marks: Sequence[bool | None]
) -> np.ndarray:
    """A number for each token: 1 or 0 as its part is marked, NaN where that is None.

    A token belongs to the part that its first byte is in, one without bytes to none.
    """
    ends = np.cumsum([len(part.raw) for part in parts])
    out, start = np.full(len(ids), np.nan, np.float32), 0
    for n, token in enumerate(ids):
        size = len(tokenizer.token_bytes(token))
        if size:
            mark = marks[int(np.searchsorted(ends, start, side="right"))]
            out[n] = np.nan if mark is None else mark
        start += size
    return out


def _answer_bytes(row: Row, tokenizer: Any) -> bytes:
    return b"".join(tokenizer.token_bytes(int(token)) for token in row.answer_ids)


# ---------------------------------------------------------------------------- critics
def first_solution(lab: Lab, rows: Sequence[Row]) -> list[str]:
    """The task's first solution, whatever the attempt: what a critique is to be compared with."""
    del lab
    return [solutions_of(row.task)[0] for row in rows]


def closest_solution(lab: Lab, rows: Sequence[Row]) -> list[str]:
    """Of the task's solutions that with most of the attempt's steps: a critic that is a program.

    Of several the one that reads most like the attempt. A step that is right in a way that no
    solution has it is changed.
    """
    return [_closest(row, lab.tokenizer) for row in rows]


def _closest(row: Row, tokenizer: Any) -> str:
    answer = _answer_bytes(row, tokenizer)
    own = read_steps(answer, chat=tokenizer.chat) or []

    def likeness(solution: str) -> tuple[int, float]:
        other = read_steps(solution.encode(), chat=tokenizer.chat) or []
        alike = similarity(answer.decode(errors="replace"), solution)
        return changed_parts(own, other).count(False), alike

    return max(solutions_of(row.task), key=likeness)


def model_critique(
    lab: Lab,
    rows: Sequence[Row],
    *,
    prompt_tokens: int,
    params: str = "reference",
    new_tokens: int | None = None,
) -> list[str]:
    """What a parameter set writes, greedily, when it is shown problem, solution and attempt.

    Its thoughts are left out, and what it says before and after the steps.

    Args:
      prompt_tokens: longest prompt of a critic; `answers_sizes(asked_tokens=)` declares it.
      params: who writes.
      new_tokens: longest critique, None for the run's limit.

    Returns:
      texts; "" where the prompt would be too long, or no steps can be read in what was written.
    """
    tasks = [_critic_task(lab, row) for row in rows]
    how = {"role": "critic", "params": params, "new_tokens": new_tokens, "temperature": 0.0}
    said = replies(lab, tasks, prompt_tokens=prompt_tokens, **how)
    return [_steps_alone(text or "", chat=lab.tokenizer.chat) for text in said]


def _critic_task(lab: Lab, row: Row) -> Task:
    chat = lab.tokenizer.chat
    text = (CHAT if chat else PLAIN).format(
        question=row.task.messages[-1].content,
        solution=solutions_of(row.task)[0],
        attempt=lab.answer_text(row),
    )
    return Task(f"critique/{row.task.uid}", (Message("user", text),), "")


def _steps_alone(text: str, *, chat: bool) -> str:
    parts = read_steps(without_thoughts(text).encode(), chat=chat) or []
    return b"".join(p.raw for p in parts if p.kind in ("step", "answer")).decode()


# ---------------------------------------------------------------------------- the wave
def critiqued(
    lab: Lab, state: TrainState, memory: Any, *, critic: Bound, objective: str = "policy"
) -> dict[str, list[Row]]:
    """P problems, G attempts each, verified; those whose steps can be read get a critique.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      critic: `(lab, rows) -> texts`, "" for none.
      objective: learns from the rows.

    Returns:
      rows whose feedback is the critique, "" without one; `by_token["changed"]` is 1 at tokens of
      steps that it changed, 0 at those that it copied, NaN elsewhere. `info["tally"]` says whether
      steps could be read, whether there is a critique and, where there is, which share of steps and
      answer it copied.
    """
    del state, memory
    return {objective: with_critiques(lab, lab.attempt(lab.tasks()), critic=critic)}


def with_critiques(lab: Lab, rows: Sequence[Row], *, critic: Bound) -> list[Row]:
    """Verified attempts with what a critic says of those whose steps can be read: `critiqued`."""
    chat = lab.tokenizer.chat
    parts = [read_steps(_answer_bytes(row, lab.tokenizer), chat=chat) for row in rows]
    readable = [row for row, own in zip(rows, parts, strict=True) if own is not None]
    said = iter(critic(lab, readable) if readable else ())
    return lab.record(
        [
            _with_critique(lab, row, own, "" if own is None else next(said))
            for row, own in zip(rows, parts, strict=True)
        ]
    )


def _with_critique(lab: Lab, row: Row, parts: Sequence[Part] | None, text: str) -> Row:
    tally = {"steps_read": float(parts is not None), "critiqued": float(bool(text))}
    marks = np.full(len(row.answer_ids), np.nan, np.float32)
    if parts is not None and text:
        changed = changed_parts(parts, read_steps(text.encode(), chat=lab.tokenizer.chat) or ())
        marks = part_marks(row.answer_ids.tolist(), lab.tokenizer, parts, changed)
        tally["copied"] = changed.count(False) / (len(changed) - changed.count(None))
    by_token = {**row.by_token, "changed": marks}
    return tallied(dataclasses.replace(row, feedback=text, by_token=by_token), **tally)
