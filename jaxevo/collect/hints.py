"""Problems that are asked again with a hint, which the policy writes from the reference (SAGE).

What is learnt are the answers to the hinted prompt, as they were sampled: nothing takes the hint
out again. Evaluation asks without hints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxevo.collect.answers import answers_sizes
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.table import by_group, tallied
from jaxevo.tasks.hints import LEVELS, Hints, hint_task, hinted, read_hints, reference, reveals
from jaxevo.tasks.told import most_that_fits
from jaxevo.teachers.contexts import CHAT, PLAIN, cut_middle
from jaxevo.types import Message, Row, Sizes, Task, TaskSource, TrainState


@dataclasses.dataclass(frozen=True)
class HintOptions:
    """What waves of hinted problems have in common.

    levels: highest level of hint that is shown, 1 to 3. attempts: generations for the hints of a
    problem at most, further ones where none could be read. success: least accuracy of an answer
    that is right. context_tokens: longest prompt with a hint; a level that would exceed it is left
    out. writer_tokens: longest prompt of the hints' writer; longer solutions lose their middle.
    """

    levels: int = LEVELS
    attempts: int = 3
    success: float = 0.5
    context_tokens: int = 256
    writer_tokens: int = 1024

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= LEVELS:
            raise ValueError(f"levels={self.levels}, but there are hints of the levels 1 to 3.")
        if self.attempts < 1:
            raise ValueError(f"attempts={self.attempts} must be at least 1.")


# ---------------------------------------------------------------------------- where all failed
def hint_on_failure(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    how: HintOptions,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P problems, G answers each; where none is right, G answers with a hint take their place.

    The hints of such a problem are written once; then it is asked with the first level, and with
    the next one as long as no answer is right. After the last level the rows stay as they are.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      how: see `HintOptions`.
      objective: learns from the rows.

    Returns:
      rows of P groups, in order, each of one level. Every row that was sampled has in
      `info["tally"]` right_L and resolved_L, whether it, and whether any of its group, was right at
      level L, and with a hint hint_reveals, whether that said the answer; hints have hint_unread.
      Those returned also have hint_level, hinted and, where a hint was wanted, hint_missing.
    """
    del state, memory
    tasks = lab.tasks()
    groups = dict(enumerate(_attempted(lab, [Asked(task) for task in tasks], how)))
    level = dict.fromkeys(groups, 0)
    failed = [p for p, group in groups.items() if not _solved(group, how)]
    wanted = frozenset(failed)
    hints = dict(zip(failed, write_hints(lab, [tasks[p] for p in failed], how), strict=True))
    for shown in range(1, how.levels + 1):
        asked = {p: with_hint(lab, tasks[p], hints[p], shown, how) for p in failed}
        asked = {p: one for p, one in asked.items() if one.level}
        groups |= zip(asked, _attempted(lab, list(asked.values()), how), strict=True)
        level |= dict.fromkeys(asked, shown)
        failed = [p for p in failed if not _solved(groups[p], how)]
    rows = [
        _kept(row, level[p], wanted=p in wanted) for p, group in groups.items() for row in group
    ]
    return {objective: lab.record(rows)}


def _solved(group: Sequence[Row], how: HintOptions) -> bool:
    return any(row.accuracy >= how.success for row in group)


def _kept(row: Row, level: int, *, wanted: bool) -> Row:
    missing = {"hint_missing": level == 0} if wanted else {}
    return tallied(row, hint_level=level, hinted=level > 0, **missing)


# ---------------------------------------------------------------------------- by what happened
@dataclasses.dataclass(frozen=True)
class HintLevels:
    """By problem (`Task.uid`): what its last visit was like.

    levels: of the hint that it was asked with, 0 for none. rates: share of its answers that were
    right. hints: the last ones that could be read.
    """

    levels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    hints: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


def next_level(
    level: int, rate: float, *, raise_below: float, lower_above: float, levels: int = LEVELS
) -> int:
    """A level more after a share of right answers of at most `raise_below`, one less after one
    above `lower_above`, within [0, levels].

    >>> next_level(1, 0.05, raise_below=0.1, lower_above=0.35)
    2
    """
    step = (rate <= raise_below) - (rate > lower_above)
    return min(max(level + step, 0), levels)


def hint_by_level(
    lab: Lab,
    state: TrainState,
    memory: HintLevels,
    *,
    how: HintOptions,
    raise_below: float,
    lower_above: float,
    objective: str = "policy",
) -> dict[str, list[Row]]:
    """P problems, G answers each, asked once: with a hint of the level that their past calls for.

    A problem's first visit has none. Hints are written anew at each visit of level 1 or more; where
    none can be read the last ones are shown, and where they cannot be shown the problem is asked
    without.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      how: see `HintOptions`.
      raise_below, lower_above: as in `next_level`.
      objective: learns from the rows.

    Returns:
      as `hint_on_failure`; for `remember_levels`, `info` has hint_level, the one really used, and
      hints, those read now or None.
    """
    del state
    bounds = {"raise_below": raise_below, "lower_above": lower_above, "levels": how.levels}
    tasks = lab.tasks()
    wanted = [_wanted(memory, task.uid, bounds) for task in tasks]
    needy = [p for p, level in enumerate(wanted) if level]
    new = dict(zip(needy, write_hints(lab, [tasks[p] for p in needy], how), strict=True))
    asked = []
    for p, task in enumerate(tasks):
        hints = new.get(p) or memory.hints.get(task.uid)
        asked.append(with_hint(lab, task, hints, wanted[p], how))
    rows = []
    for p, group in enumerate(_attempted(lab, asked, how)):
        level, read = asked[p].level, new.get(p)
        said = {"hint_level": level, "hints": None if read is None else list(read)}
        kept = [_kept(row, level, wanted=wanted[p] > 0) for row in group]
        rows += [dataclasses.replace(row, info={**row.info, **said}) for row in kept]
    return {objective: lab.record(rows)}


def _wanted(memory: HintLevels, uid: str, bounds: Mapping[str, Any]) -> int:
    """The level for a problem's visit now."""
    if uid not in memory.levels:
        return 0
    return next_level(memory.levels[uid], memory.rates[uid], **bounds)


def remember_levels(
    memory: HintLevels, experience: Mapping[str, Sequence[Row]], *, success: float = 0.5
) -> HintLevels:
    """The `grow` of `hint_by_level`; `success` is the least accuracy of a right answer."""
    levels, rates, hints = dict(memory.levels), dict(memory.rates), dict(memory.hints)
    for group in by_group(row for rows in experience.values() for row in rows).values():
        uid, info = group[0].task.uid, group[0].info
        levels[uid] = info["hint_level"]
        rates[uid] = sum(row.accuracy >= success for row in group) / len(group)
        if info["hints"] is not None:
            hints[uid] = info["hints"]
    return HintLevels(levels, rates, hints)


# ---------------------------------------------------------------------------- hints
def write_hints(lab: Lab, tasks: Sequence[Task], how: HintOptions) -> list[Hints | None]:
    """Hints for each task from its reference; None where there is none, or none could be read."""
    asked = [_writer_task(lab, task, how.writer_tokens) for task in tasks]
    found: list[Hints | None] = [None] * len(tasks)
    for _ in range(how.attempts):
        left = [n for n, task in enumerate(asked) if task is not None and found[n] is None]
        if not left:
            break
        told = [task for n in left if (task := asked[n]) is not None]
        rows = lab.sample(told, samples=1, role="hint")
        for n, row in zip(left, rows, strict=True):
            found[n] = read_hints(lab.answer_text(row), chat=lab.tokenizer.chat)
        lab.record(
            [tallied(r, hint_unread=found[n] is None) for n, r in zip(left, rows, strict=True)]
        )
    return found


def _writer_task(lab: Lab, task: Task, limit: int) -> Task | None:
    """The task of writing hints, the solution without its middle where it is too long; None
    without a solution, or without room for any of it."""
    chat = lab.tokenizer.chat
    solution, mark = reference(task, chat=chat), (CHAT if chat else PLAIN).mark

    def told(keep: int) -> Task:
        return hint_task(task, cut_middle(solution, keep, mark=mark), chat=chat)

    def fits(keep: int) -> bool:
        return len(lab.tokenizer.render(told(keep).messages)) <= limit

    keep = most_that_fits(fits, len(solution))
    return told(keep) if keep else None


@dataclasses.dataclass(frozen=True)
class Asked:
    """A task as it is asked: with a hint of this level, or at level 0 without."""

    task: Task
    level: int = 0
    hint: str = ""


def with_hint(
    lab: Lab, task: Task, hints: Sequence[str] | None, level: int, how: HintOptions
) -> Asked:
    """The task with the hint of a level; without it where there is none, or no room for it."""
    hint = hints[level - 1] if hints and level else ""
    if not hint:
        return Asked(task)
    told = hinted(task, hint, chat=lab.tokenizer.chat)
    if len(lab.tokenizer.render(told.messages)) > how.context_tokens:
        return Asked(task)
    return Asked(told, level, hint)


def _attempted(lab: Lab, asked: Sequence[Asked], how: HintOptions) -> list[list[Row]]:
    """G verified answers to each, with their tallies."""
    if not asked:
        return []
    groups = []
    found = by_group(lab.attempt([one.task for one in asked])).values()
    for one, group in zip(asked, found, strict=True):
        told = {f"resolved_{one.level}": _solved(group, how)}
        if one.level:
            told["hint_reveals"] = reveals(one.hint, one.task.answer)
        right = f"right_{one.level}"
        groups.append(
            [tallied(row, **told, **{right: row.accuracy >= how.success}) for row in group]
        )
    lab.record([row for group in groups for row in group])
    return groups


# ---------------------------------------------------------------------------- recipe
def hint_sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    how: HintOptions,
    objective: str = "policy",
) -> Sizes:
    """P problems x G answers, with hints in their prompts, and the prompts of the hints' writer.

    Raises:
      ValueError: for limits that leave no room for any question.
    """
    empty, chat = Task("", (Message("user", ""),), ""), tokenizer.chat
    forms = {
        "context_tokens": (how.context_tokens, hinted(empty, "", chat=chat)),
        "writer_tokens": (how.writer_tokens, hint_task(empty, "", chat=chat)),
    }
    for name, (limit, task) in forms.items():
        form = len(tokenizer.render(task.messages))
        if form >= limit:
            raise ValueError(
                f"{name}={limit}, but the form of such a prompt alone has {form} tokens, and "
                f"questions up to {prompt_tokens}. Allow for more."
            )
    longest = max(prompt_tokens, how.context_tokens)
    return answers_sizes(
        rollout, longest, tokenizer, asked_tokens=how.writer_tokens, objective=objective
    )


def needs_references(source: TaskSource) -> None:
    """A `Recipe.needs`: hints are written from a solution or an answer.

    Raises:
      ValueError: for a source whose first problem, of each part of a mixture, has neither.
    """
    for part in source.parts or (source,):
        if not reference(part.train(0), chat=True):
            raise ValueError(
                f"hints are written from a problem's solution or answer, but task {part.name!r} "
                "has none. Choose one with right answers."
            )
