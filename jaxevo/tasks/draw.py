"""How a list of tasks becomes a `TaskSource`: seeded epochs, fixed held-out tasks, fixed hashes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from jaxevo.types import Task, TaskSource, Verdict

Item = TypeVar("Item")
HELD_OUT_LIMIT = 256


def task_source(
    name: str,
    tasks: tuple[Sequence[Task], Sequence[Task]],
    *,
    verifiers: Mapping[str, Callable[[Task, str], Verdict]],
    seed: int = 0,
) -> TaskSource:
    """A source over tasks in memory.

    Args:
      name: the source's name.
      tasks: (train, held out). `train(i)` walks the first: every run of `len(train)` indices from a
        multiple of it is a new permutation drawn from (seed, epoch). `held_out(i)` is plain access.
      verifiers: name -> verify(task, text); the first gives the reward.
      seed: >= 0; orders the training problems only.

    Raises:
      ValueError: for a negative seed or no training tasks.
    """
    train, held_out = (tuple(side) for side in tasks)
    if not train:
        raise ValueError(f"task source {name} has no training tasks; it needs at least one.")
    if seed < 0:
        raise ValueError(f"task source {name} needs a seed >= 0, got {seed}.")
    return TaskSource(
        name=name,
        train=_Epochs(train, seed),
        held_out=_HeldOut(held_out),
        held_out_size=len(held_out),
        verifiers=dict(verifiers),
    )


def fixed_hash(text: str) -> int:
    """A 64-bit hash that is the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def hashed_split(
    items: Iterable[Item], key: Callable[[Item], str]
) -> tuple[list[Item], list[Item]]:
    """Items as (train, held out): those whose key hashes into a fixed quarter, at most 256.

    The held-out ones are in the order of their hashes; further ones of the quarter are left out.
    """
    train, kept_back = [], []
    for item in items:
        value = fixed_hash(key(item))
        if value % 4:
            train.append(item)
        else:
            kept_back.append((value, len(kept_back), item))
    return train, [item for _, _, item in sorted(kept_back)[:HELD_OUT_LIMIT]]


@dataclasses.dataclass(frozen=True)
class _Epochs:
    items: tuple[Task, ...] = dataclasses.field(repr=False)
    seed: int

    def __call__(self, index: int) -> Task:
        index = operator.index(index)
        if index < 0:
            raise IndexError(f"training problems are counted from 0, got index {index}.")
        epoch, place = divmod(index, len(self.items))
        return self.items[draw_order(len(self.items), self.seed, epoch)[place]]


@dataclasses.dataclass(frozen=True)
class _HeldOut:
    items: tuple[Task, ...] = dataclasses.field(repr=False)

    def __call__(self, index: int) -> Task:
        if not 0 <= operator.index(index) < len(self.items):
            raise IndexError(f"held-out index {index} is outside 0..{len(self.items) - 1}.")
        return self.items[index]


@functools.lru_cache(maxsize=32)
def draw_order(size: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of 0..size-1 that belongs to a seed and an epoch."""
    # Raw Philox words are the same in every NumPy; `Generator.permutation` does not promise that.
    words = np.random.Philox(np.random.SeedSequence(seed, spawn_key=(epoch,))).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order
