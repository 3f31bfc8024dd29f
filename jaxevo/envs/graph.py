"""A fixed graph to search in: two-digit numbers, each of which leads to one other."""

from __future__ import annotations

import functools

import numpy as np

LOW, HIGH = 10, 99
SEED = 20260414  # of the graph, which is the same for every run
HELD_OUT = 0.25  # share of the numbers that nothing starts at in training
QUESTION = "Each number leads to another. Which number is {hops} steps after {start}?"


@functools.cache
def leads() -> dict[str, str]:
    """Where each number leads; following them all from any one is one round trip."""
    order = _shuffled(0)
    return dict(zip(order, (*order[1:], order[0]), strict=True))


@functools.cache
def starts() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The numbers as (train, held out)."""
    order = _shuffled(1)
    cut = round(HELD_OUT * len(order))
    return order[cut:], order[:cut]


def after(start: str, hops: int) -> str:
    """Where one is after so many hops."""
    for _ in range(hops):
        start = leads()[start]
    return start


def _shuffled(which: int) -> tuple[str, ...]:
    # Raw Philox words are the same in every NumPy; `Generator.permutation` does not promise that.
    numbers = [str(number) for number in range(LOW, HIGH + 1)]
    words = np.random.Philox(np.random.SeedSequence(SEED, spawn_key=(which,)))
    return tuple(numbers[n] for n in np.argsort(words.random_raw(len(numbers)), kind="stable"))
