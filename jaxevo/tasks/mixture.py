"""Several sources as one, in exact proportions."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxevo.rewards.named import Verify
from jaxevo.tasks.draw import draw_order
from jaxevo.types import Task, TaskSource, Verdict

PART = "part"  # of a task's `info`: the name of the part that it comes from
MIXED = "mixed"  # the verifier that gives the reward where those of the parts have other names
LONGEST_PERIOD = 10_000


def mixture(parts: Sequence[TaskSource], weights: Sequence[int], *, seed: int = 0) -> TaskSource:
    """A source that mixes parts: of every `sum(weights)` problems, `weights[k]` are part k's.

    The order within each such period is drawn from (seed, period); each part is walked in its own
    order without gaps, so `train(i)` depends on seed and i alone. Held-out problems take turns
    until each part's are through.

    Args:
      parts: two or more sources with different names, none of them a mixture.
      weights: whole numbers, at least 1.
      seed: >= 0.

    Returns:
      a source whose tasks have the part's name in `info["part"]`, as have the tasks of its `parts`.
      A task is scored by the verifiers of its part: the first of each under their common name or
      `mixed`, others where all parts have them.

    Raises:
      ValueError: for fewer than two parts, equal names, a mixture as a part, weights out of range,
        and rewards that not all parts weigh alike.
    """
    names = [part.name for part in parts]
    if len(parts) < 2:
        raise ValueError(f"a mixture needs at least two parts, got {len(parts)}.")
    for part in parts:
        if names.count(part.name) > 1:
            raise ValueError(
                f"two parts of the mixture are called {part.name!r}; name each once, with a "
                "weight, or rename a file."
            )
        if part.parts:
            raise ValueError(
                f"part {part.name!r} is a mixture itself; name its parts instead: "
                f"{', '.join(p.name for p in part.parts)}."
            )
    if min(weights) < 1:
        raise ValueError(f"weights of a mixture are whole numbers of at least 1, got {weights}.")
    least = math.gcd(*weights)
    shares = tuple(weight // least for weight in weights)
    if sum(shares) > LONGEST_PERIOD:
        raise ValueError(f"weights of a mixture sum to {sum(shares)}, above {LONGEST_PERIOD}.")
    marked = tuple(_marked(part) for part in parts)
    turns = _turns([part.held_out_size for part in parts])
    verifiers, rewards = _verifiers(parts)
    return TaskSource(
        name="mix:"
        + ",".join(
            name if share == 1 else f"{share}*{name}"
            for name, share in zip(names, shares, strict=True)
        ),
        train=_Mixed(marked, shares, seed),
        held_out=functools.partial(_held_out, marked, turns),
        held_out_size=len(turns),
        verifiers=verifiers,
        weights=rewards,
        parts=marked,
    )


@dataclasses.dataclass(frozen=True)
class _Mixed:
    parts: tuple[TaskSource, ...] = dataclasses.field(repr=False)
    shares: tuple[int, ...]
    seed: int

    def __call__(self, index: int) -> Task:
        index = operator.index(index)
        if index < 0:
            raise IndexError(f"training problems are counted from 0, got index {index}.")
        pattern = np.repeat(np.arange(len(self.parts)), self.shares)
        period, place = divmod(index, len(pattern))
        parts = pattern[draw_order(len(pattern), self.seed, period)]
        part = int(parts[place])
        before = int(np.count_nonzero(parts[:place] == part))
        return self.parts[part].train(period * self.shares[part] + before)


def _turns(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(part, index) of the held-out problems: the first of each part, the second of each, ..."""
    return [(k, i) for i in range(max(sizes)) for k, size in enumerate(sizes) if i < size]


def _held_out(parts: tuple[TaskSource, ...], turns: Sequence[tuple[int, int]], index: int) -> Task:
    if not 0 <= operator.index(index) < len(turns):
        raise IndexError(f"held-out index {index} is outside 0..{len(turns) - 1}.")
    part, own = turns[index]
    return parts[part].held_out(own)


def _marked(part: TaskSource) -> TaskSource:
    return dataclasses.replace(
        part,
        train=functools.partial(_mark, part.train, part.name),
        held_out=functools.partial(_mark, part.held_out, part.name),
    )


def _mark(tasks: Callable[[int], Task], name: str, index: int) -> Task:
    task = tasks(index)
    uid = task.uid if task.uid.startswith(f"{name}/") else f"{name}/{task.uid}"
    return dataclasses.replace(task, uid=uid, info={**task.info, PART: name})


# ---------------------------------------------------------------------------- verifiers
def _verifiers(parts: Sequence[TaskSource]) -> tuple[dict[str, Verify], dict[str, float]]:
    """Those of the mixture, each of which asks the part's own one, and the weights of the parts."""
    firsts = {next(iter(part.verifiers)) for part in parts}
    first = firsts.pop() if len(firsts) == 1 else MIXED
    shared = [n for n in parts[0].verifiers if all(n in part.verifiers for part in parts)]
    rewards = dict(parts[0].weights)
    for part in parts:
        if dict(part.weights) != rewards or not set(part.weights) <= set(shared):
            raise ValueError(
                f"part {part.name!r} weighs {dict(part.weights)}, but {parts[0].name!r} weighs "
                f"{rewards}; give all parts of a mixture the same weight.NAME=."
            )
    firsts_by_part = {part.name: next(iter(part.verifiers.values())) for part in parts}
    found: dict[str, Verify] = {first: functools.partial(_by_part, firsts_by_part)}
    for name in (n for n in shared if n != first):
        own = {part.name: part.verifiers[name] for part in parts}
        found[name] = functools.partial(_by_part, own)
    return found, rewards


def _by_part(own: Mapping[str, Verify], task: Task, text: str) -> Verdict:
    return own[task.info[PART]](task, text)
