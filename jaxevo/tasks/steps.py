"""Sums of four numbers, worked out in steps that a program can tell apart.

Two worked turns show the form: a line `<step 1>7+8=15</step 1>` for each step, then
`<answer>28</answer>`. Character-level models write the rest of the sum after each step instead:
`7+8+9+4=` is answered by `15+9+4=24+4=28`. Each problem knows two worked solutions, from the left
and from the right. About a quarter of the problems is held out by a fixed hash, which does not know
in which order the numbers of one are shown; 256 of them are asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from jaxevo.rewards.integer import last_integer
from jaxevo.tasks.draw import hashed_split, task_source
from jaxevo.types import Message, Task, TaskSource

LOW, HIGH, TERMS = 2, 9, 4
SHOTS = ((6, 3, 8, 5), (9, 4, 2, 7))


def steps(name: str, *, seed: int = 0) -> TaskSource:
    """The source `steps4`.

    Args:
      name: of the source.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source whose tasks carry `info`: expression, operands, plain (see `arithmetic.plain`), and
      solutions, worked ones of equal answers, in `plain_solutions` for character-level models.

    Raises:
      ValueError: for a negative seed.
    """
    shown = {tuple(sorted(shot)) for shot in SHOTS}
    items = itertools.product(range(LOW, HIGH + 1), repeat=TERMS)
    asked = [item for item in items if tuple(sorted(item)) not in shown]
    sides = hashed_split(asked, lambda item: f"steps {sorted(item)}")
    train, held_out = ([_task(name, item) for item in side] for side in sides)
    verifiers = {"last_integer": last_integer}
    return task_source(name, (train, held_out), verifiers=verifiers, seed=seed)


def _task(name: str, operands: Sequence[int]) -> Task:
    expression = "+".join(map(str, operands))
    turns = [Message(role, text) for shot in SHOTS for role, text in _turns(shot)]
    orders = (operands, operands[::-1])
    return Task(
        uid=f"{name}/{expression}",
        messages=(*turns, Message("user", _question(operands))),
        answer=str(sum(operands)),
        info={
            "expression": expression,
            "operands": list(operands),
            "plain": f"{expression}=",
            "solutions": [tagged_sum(order) for order in orders],
            "plain_solutions": [plain_sum(order) for order in orders],
        },
    )


def _turns(operands: Sequence[int]) -> tuple[tuple[str, str], ...]:
    return (("user", _question(operands)), ("assistant", tagged_sum(operands)))


def _question(operands: Sequence[int]) -> str:
    return f"What is {'+'.join(map(str, operands))}? Add up step by step."


def tagged_sum(operands: Sequence[int]) -> str:
    """A sum from the left in tagged steps.

    >>> tagged_sum((7, 8, 9))
    '<step 1>7+8=15</step 1>\\n<step 2>15+9=24</step 2>\\n<answer>24</answer>'
    """
    sums = list(itertools.accumulate(operands))
    lines = [
        f"<step {n}>{before}+{term}={after}</step {n}>"
        for n, (before, term, after) in enumerate(
            zip(sums[:-1], operands[1:], sums[1:], strict=True), start=1
        )
    ]
    return "\n".join([*lines, f"<answer>{sums[-1]}</answer>"])


def plain_sum(operands: Sequence[int]) -> str:
    """A sum from the left, in what is left of it after each step.

    >>> plain_sum((7, 8, 9, 4))
    '15+9+4=24+4=28'
    """
    sums = list(itertools.accumulate(operands))[1:]
    rests = ("+".join(map(str, (done, *operands[n:]))) for n, done in enumerate(sums, start=2))
    return "=".join(rests)
