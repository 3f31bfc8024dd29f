"""Procedural puzzles: letters of a word, the largest of three numbers, three digits in order.

Worked turns precede the question. SmolLM2-135M-Instruct is right in 24 % of max3, 24 % of sort3 and
9 % of letter-count (24 problems, 4 answers each, temperature 1; in 67, 54 and 29 % of the problems
at least once). As many letters occur never, once and more often, so that a constant answer is right
in about a third. About a quarter of the problems is held out by a fixed hash, which does not know
in which order the numbers of one are shown; 256 of more are asked.
"""

from __future__ import annotations

import dataclasses
import itertools
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jaxevo.names import did_you_mean
from jaxevo.rewards.integer import last_integer, numbers, strict_integer
from jaxevo.rewards.named import Verify
from jaxevo.tasks.draw import fixed_hash, hashed_split, task_source
from jaxevo.types import Message, Task, TaskSource, Verdict

TRIPLES = 4096  # of two-digit numbers, out of 704,880

# Each has a letter more than once.
_WORDS = """
apple abbey alarm alley alpaca amazing anagram animal annual arrow attic avocado award baboon
ballet balloon banana banner barrel beetle berry better billion bitter bloom bobbin boggle book
bottle bubble buffalo bullet butter button cabbage cactus cannon canyon carrot cattle cello cellar
channel cheese cherry chess circle civic classic coconut coffee collar comma common copper cookie
cotton cricket cuckoo curry cycle daddy dagger dinner dollar door dressed drill eagle eleven
engine error essay even event farmer feather fellow ferry fiddle filling foggy fossil freedom
funnel galaxy gallery garage ginger giraffe glass goose gossip grammar green hammer happy harbor
hello helmet hidden hippo hollow horizon horror hubbub jelly kayak kettle kitten ladder lantern
letter level lily llama loop lottery mammal matter middle mirror missing moon muffin mummy museum
narrow needle noodle noon nothing onion otter paddle palace panda papaya paper parrot pebble
pepper pillow pizza poppy potato pretty puddle pumpkin pupil puppy puzzle queen rabbit raccoon
radar raffle reader refer ribbon river robot roof rotor rubber ruffle saddle salad sausage scissor
season seesaw shell sister sleepy slipper snooze soccer sorry spoon squeeze street success suffix
summer sunny supper swallow sweet tablet tattoo teepee tennis teeth thirst ticket tissue toffee
tomato tooth tractor traffic trumpet tunnel turtle usual valley vanilla vessel village violin
volley waffle wedding weekend wheel willow window winner witness woollen worry yellow zipper
"""


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """One family: `items` are what problems are made of, `shots` the items of worked turns.

    question, answer: of an item, in words. plain: the question for character-level models, None
    where their alphabet has no form for it. same: items with equal values are on one side.
    """

    items: Callable[[], Iterator[Any]]
    question: Callable[[Any], str]
    answer: Callable[[Any], str]
    shots: tuple[Any, ...]
    same: Callable[[Any], str]
    verifiers: Mapping[str, Verify]
    plain: Callable[[Any], str] | None = None


def puzzle(name: str, *, seed: int = 0) -> TaskSource:
    """A source of puzzles: `letter-count`, `max3` or `sort3`.

    Args:
      name: of `PUZZLES`.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source whose tasks carry `info["plain"]` where character-level models can be asked.

    Raises:
      ValueError: for an unknown name or a negative seed.
    """
    if name not in PUZZLES:
        raise ValueError(f"no puzzle {name!r}. {did_you_mean(name, PUZZLES)}")
    kind = PUZZLES[name]
    shown = {kind.same(shot) for shot in kind.shots}
    items = [item for item in kind.items() if kind.same(item) not in shown]
    sides = hashed_split(items, lambda item: f"{name} {kind.same(item)}")
    train, held_out = ([_task(name, kind, item) for item in side] for side in sides)
    return task_source(name, (train, held_out), verifiers=kind.verifiers, seed=seed)


def last_numbers(task: Task, text: str) -> Verdict:
    """Passes when the last numbers of the text are those of the task's answer, in their order.

    >>> last_numbers(Task("t", (), "2 5 7"), "7, 2, 5 in order: 2, 5, 7.").status
    'pass'
    """
    right = task.answer.split()
    read = list(numbers(text))[-len(right) :]
    if read == right:
        return Verdict("pass", 1.0)
    said = f"Your answer was {', '.join(n[:40] for n in read)}" if read else "There was no number"
    return Verdict("fail", 0.0, f"{said}, but the right answer is {', '.join(right)}.")


def _task(name: str, kind: Puzzle, item: Any) -> Task:
    turns = []
    for shot in kind.shots:
        turns += [
            Message("user", kind.question(shot)),
            Message("assistant", _said(kind.answer(shot))),
        ]
    question = kind.question(item)
    plain = {} if kind.plain is None else {"plain": kind.plain(item)}
    shown = " ".join(map(str, item))
    return Task(f"{name}/{shown}", (*turns, Message("user", question)), kind.answer(item), plain)


def _said(answer: str) -> str:
    return ", ".join(answer.split())


def _letters() -> Iterator[tuple[str, str]]:
    """Words with a letter that they have more than once, one that they have once, and none."""
    for word in _WORDS.split():
        by_count: dict[int, list[str]] = {}
        for letter in string.ascii_lowercase:
            by_count.setdefault(min(word.count(letter), 2), []).append(letter)
        for letters in by_count.values():
            yield word, min((fixed_hash(f"{word} {letter}"), letter) for letter in letters)[1]


def _triples() -> Iterator[tuple[int, ...]]:
    """Fixed triples of different two-digit numbers, no two of the same numbers."""
    seen = set()
    for draw in itertools.count():
        value = fixed_hash(f"max3 {draw}")
        triple = tuple(10 + (value >> shift) % 90 for shift in (0, 16, 32))
        if len(set(triple)) == 3 and tuple(sorted(triple)) not in seen:
            seen.add(tuple(sorted(triple)))
            yield triple
        if len(seen) == TRIPLES:
            return


def _in_any_order(item: tuple[int, ...]) -> str:
    return " ".join(map(str, sorted(item)))


def _listed(item: tuple[int, ...]) -> str:
    return ", ".join(map(str, item))


_INTEGER: Mapping[str, Verify] = {"last_integer": last_integer, "strict_integer": strict_integer}

PUZZLES = {
    "letter-count": Puzzle(
        items=_letters,
        question=lambda item: f'How many times does the letter {item[1]} occur in "{item[0]}"?',
        answer=lambda item: str(item[0].count(item[1])),
        shots=(("pepper", "p"), ("lemon", "m"), ("kitten", "t")),
        same=lambda item: f"{item[0]} {item[1]}",
        verifiers=_INTEGER,
    ),
    "max3": Puzzle(
        items=_triples,
        question=lambda item: f"Which of these numbers is the largest: {_listed(item)}?",
        answer=lambda item: str(max(item)),
        shots=((31, 78, 52), (64, 19, 27)),
        same=_in_any_order,
        verifiers=_INTEGER,
        plain=lambda item: f"[{' '.join(map(str, item))}]?",
    ),
    "sort3": Puzzle(
        items=lambda: itertools.permutations(range(10), 3),
        question=lambda item: f"Sort these digits from smallest to largest: {_listed(item)}",
        answer=lambda item: " ".join(map(str, sorted(item))),
        shots=((8, 1, 4), (3, 9, 0)),
        same=_in_any_order,
        verifiers={"last_numbers": last_numbers},
        plain=lambda item: f"[{' '.join(map(str, item))}]=",
    ),
}
