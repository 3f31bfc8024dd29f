"""Procedural sums, differences and products of small integers.

A quarter of the unordered operand sets is held out, chosen by a fixed hash: 3+5 and 5+3 are on the
same side, the split is the same for every seed, and `add2` and `add2-shots` share it. Of more than
256 held-out problems, 256 fixed ones are asked.

The wordings are those whose base rates are known for SmolLM2-135M-Instruct: a one-digit sum with
"Reply with just the number." takes 23 prompt tokens without a system turn, and two worked turns
that echo the sum ("23 + 14 = 37") lift two-digit sums from 5 % to 22 % at temperature 1. The
problems that the worked turns show are never asked.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Literal

from jaxevo.names import did_you_mean
from jaxevo.rewards.integer import last_integer, strict_integer
from jaxevo.tasks.draw import HELD_OUT_LIMIT, fixed_hash, task_source
from jaxevo.types import Message, Task, TaskSource

JUST_THE_NUMBER = "What is {tight}? Reply with just the number."
BARE_QUESTION = "What is {spaced}?"

_SIGNS = {"add": "+", "sub": "-", "mul": "*"}


@dataclasses.dataclass(frozen=True)
class Spec:
    """One family of problems: `terms` operands from `low` to `high`, asked in `question`'s words.

    shots: operands of worked chat turns that precede the question.
    """

    kind: Literal["add", "sub", "mul"]
    low: int
    high: int
    terms: int = 2
    question: str = JUST_THE_NUMBER
    shots: tuple[tuple[int, ...], ...] = ()


SPECS = {
    "add1": Spec("add", 2, 9),
    "add2": Spec("add", 10, 99),
    "add2-shots": Spec("add", 10, 99, question=BARE_QUESTION, shots=((23, 14), (58, 31))),
    "add3": Spec("add", 2, 9, terms=3),
    "sub1": Spec("sub", 1, 9),
    "sub2": Spec("sub", 10, 99),
    "mul1": Spec("mul", 2, 9),
}


def arithmetic(name: str, *, seed: int = 0) -> TaskSource:
    """A source of arithmetic problems.

    Args:
      name: `add1`, `add2`, `add2-shots`, `add3`, `sub1`, `sub2` (no negative results) or `mul1`.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source whose tasks carry `info`: expression "7+8", operands [7, 8], kind "add" and plain
      "7+8=" (the prompt of character-level models, see `plain`). Its verifiers are
      `last_integer`, which gives the reward, and `strict_integer`.

    Raises:
      ValueError: for an unknown name or a negative seed.
    """
    if name not in SPECS:
        raise ValueError(f"no arithmetic task {name!r}. {did_you_mean(name, SPECS)}")
    spec = SPECS[name]
    problems, kept_back = _problems(spec), _held_out_sets(spec)
    train = [operands for operands in problems if tuple(sorted(operands)) not in kept_back]
    held_out = [operands for operands in problems if tuple(sorted(operands)) in kept_back]
    held_out.sort(key=lambda operands: fixed_hash(_expression(spec.kind, operands)))
    return task_source(
        name,
        (
            [_task(name, operands) for operands in train],
            [_task(name, operands) for operands in held_out[:HELD_OUT_LIMIT]],
        ),
        verifiers={"last_integer": last_integer, "strict_integer": strict_integer},
        seed=seed,
    )


def plain(source: TaskSource) -> TaskSource:
    """The same source for character-level models: each task goes through `plain_task`."""
    parts = (dataclasses.replace(plain(part), name=part.name) for part in source.parts)
    return dataclasses.replace(
        source,
        name=f"{source.name}-plain",
        train=functools.partial(_plain_at, source.train),
        held_out=functools.partial(_plain_at, source.held_out),
        parts=tuple(parts),
    )


def plain_task(task: Task) -> Task:
    """The task with one user message, `info["plain"]` ("7+8="), in place of its chat.

    Worked solutions are those in characters, `info["plain_solutions"]`; none in words are left.

    Raises:
      ValueError: for a task without `info["plain"]`.
    """
    text = task.info.get("plain")
    if not isinstance(text, str):
        raise ValueError(
            f"task {task.uid} has no info['plain'], which character-level models need as prompt. "
            "Use one that `jaxevo tasks` lists for character models."
        )
    info = {name: x for name, x in task.info.items() if name not in ("solution", "solutions")}
    if "plain_solutions" in info:
        info["solutions"] = info["plain_solutions"]
    return dataclasses.replace(task, messages=(Message("user", text),), info=info)


def _plain_at(tasks: Callable[[int], Task], index: int) -> Task:
    return plain_task(tasks(index))


def _problems(spec: Spec) -> list[tuple[int, ...]]:
    shown = {tuple(sorted(shot)) for shot in spec.shots}
    values = range(spec.low, spec.high + 1)
    return [
        operands
        for operands in itertools.product(values, repeat=spec.terms)
        if tuple(sorted(operands)) not in shown and _result(spec.kind, operands) >= 0
    ]


def _held_out_sets(spec: Spec) -> set[tuple[int, ...]]:
    # Over all sets, those of worked turns included, so that shots do not move the split.
    values = range(spec.low, spec.high + 1)
    sets = list(itertools.combinations_with_replacement(values, spec.terms))
    sets.sort(key=lambda operands: fixed_hash(f"{spec.kind} {operands}"))
    return set(sets[: len(sets) // 4])


def _result(kind: str, operands: tuple[int, ...]) -> int:
    if kind == "add":
        return sum(operands)
    return operands[0] - sum(operands[1:]) if kind == "sub" else math.prod(operands)


def _expression(kind: str, operands: tuple[int, ...], *, space: str = "") -> str:
    return f"{space}{_SIGNS[kind]}{space}".join(map(str, operands))


def _task(name: str, operands: tuple[int, ...]) -> Task:
    spec = SPECS[name]
    expression = _expression(spec.kind, operands)
    messages: list[Message] = []
    for shot in spec.shots:
        worked = f"{_expression(spec.kind, shot, space=' ')} = {_result(spec.kind, shot)}"
        messages += [Message("user", _question(spec, shot)), Message("assistant", worked)]
    return Task(
        uid=f"{name}/{expression}",
        messages=(*messages, Message("user", _question(spec, operands))),
        answer=str(_result(spec.kind, operands)),
        info={
            "expression": expression,
            "operands": list(operands),
            "kind": spec.kind,
            "plain": f"{expression}=",
        },
    )


def _question(spec: Spec, operands: tuple[int, ...]) -> str:
    return spec.question.format(
        tight=_expression(spec.kind, operands),
        spaced=_expression(spec.kind, operands, space=" "),
    )
