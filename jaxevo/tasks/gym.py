"""Problems and scorers of reasoning-gym (extra `gym`)."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import threading
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import urlencode

from jaxevo.names import did_you_mean
from jaxevo.tasks.draw import task_source
from jaxevo.tasks.extras import optional
from jaxevo.types import Message, Task, TaskSource, Verdict

Item: TypeAlias = dict[str, Any]  # question, answer and metadata

OPTIONS = ("size", "held_out", "system")  # all others are the set's own
TRAIN_SEED, HELD_OUT_SEED = 0, 2**20  # an item's seed is that of its set plus its index
DRAWS = 20  # how many times as many items are looked at for held-out ones

_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def gym_source(
    name: str,
    *,
    size: int = 500,
    held_out: int = 64,
    system: str | None = None,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> TaskSource:
    """A data set of reasoning-gym, scored by its own scorer.

    The problems are the same for every seed; no held-out question is asked in training.

    Args:
      name: of the data set, such as `chain_sum`.
      size: training problems, at least 1.
      held_out: held-out problems, at least 0.
      system: a system turn put before every question.
      config: the data set's own options.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      a source whose verifier `gym` reads what stands between the last <answer> tags, or without
      them the whole text. `info` has the item's metadata.

    Raises:
      ValueError: reasoning-gym is not installed; an unknown data set or option, or a value that it
        refuses; fewer different problems than are asked for.
    """
    make = _maker(name, dict(config or {}))
    train = make(TRAIN_SEED, size)
    apart = _apart(train, make, held_out, name)
    label = f"rg:{name}" + (f"?{urlencode(config)}" if config else "")
    entries = {f"{label}/{n}": item for n, item in enumerate(train)}
    entries |= {f"{label}/held-out/{n}": item for n, item in enumerate(apart)}
    tasks = {uid: _task(uid, item, system) for uid, item in entries.items()}
    return task_source(
        label,
        (list(tasks.values())[:size], list(tasks.values())[size:]),
        verifiers={"gym": _Scorer(make.dataset(TRAIN_SEED, 1), entries)},
        seed=seed,
    )


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes the items of a data set: `count` of them, their seeds from `start` on."""

    name: str
    options: Mapping[str, Any]

    def dataset(self, start: int, count: int) -> Any:
        library = optional("reasoning_gym", extra="gym", why=f"rg:{self.name}")
        return library.create_dataset(self.name, size=count, seed=start, **self.options)

    def __call__(self, start: int, count: int) -> list[Item]:
        try:
            made = self.dataset(start, count)
            return [made[index] for index in range(count)]
        except Exception as fault:  # the sets check their options by assertions and in other ways
            said = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
            raise ValueError(
                f"rg:{self.name} refuses its options {self.options}: {said}."
            ) from None


def _maker(name: str, options: dict[str, Any]) -> _Maker:
    """What makes a data set's items, if there is such a set with such options."""
    sets = optional("reasoning_gym.factory", extra="gym", why=f"rg:{name}").DATASETS
    if name not in sets:
        close = difflib.get_close_matches(name, sets, n=1)
        guess = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"reasoning-gym has no data set {name!r}.{guess}")
    _, config = sets[name]
    known = [f.name for f in dataclasses.fields(config) if f.name not in ("seed", "size")]
    for option in options:
        if option not in known:
            raise ValueError(
                f"rg:{name}: no option {option!r}. {did_you_mean(option, (*OPTIONS, *known))}"
            )
    return _Maker(name, options)


class _Scorer:
    """`verify(task, text)` by a data set's own scorer, one call at a time."""

    def __init__(self, dataset: Any, entries: Mapping[str, Item]):
        self._dataset, self._entries, self._lock = dataset, entries, threading.Lock()

    def __call__(self, task: Task, text: str) -> Verdict:
        tagged = _TAGGED.findall(text)
        said = (tagged[-1] if tagged else text).strip()
        with self._lock:
            try:
                score = float(self._dataset.score_answer(said, self._entries[task.uid]))
            except Exception as fault:  # scorers are written for well-formed answers
                reason = f"the scorer of {task.uid} failed: {type(fault).__name__}: {fault}"
                return Verdict("error", 0.0, reason[:300])
        if score >= 1.0:
            return Verdict("pass", 1.0)
        right = f" The right answer is {task.answer[:200]!r}." if task.answer else ""
        return Verdict("fail", max(score, 0.0), f"Your answer was not right.{right}")


def _apart(train: list[Item], make: _Maker, count: int, name: str) -> list[Item]:
    """The first items of another seed whose questions are new."""
    seen = {item["question"] for item in train}
    found: list[Item] = []
    for draw in range(DRAWS if count else 0):
        for item in make(HELD_OUT_SEED + draw * count, count):
            if item["question"] not in seen and len(found) < count:
                seen.add(item["question"])
                found.append(item)
        if len(found) == count:
            break
    if len(found) < count:
        raise ValueError(
            f"rg:{name} has too few different problems for {len(train)} to train and {count} held "
            f"out: {len(found)} were new. Lower size or held_out, or widen its options."
        )
    return found


def _task(uid: str, item: Item, system: str | None) -> Task:
    turns = () if system is None else (Message("system", system),)
    return Task(
        uid=uid,
        messages=(*turns, Message("user", item["question"])),
        answer="" if item["answer"] is None else str(item["answer"]),
        info={"metadata": json.loads(json.dumps(item["metadata"], default=str))},
    )
