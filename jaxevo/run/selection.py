"""Which of a run's rollouts a page of limited size carries, and in what form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxevo.run.logs import scan_jsonl
from jaxevo.run.web import encoded, script_json

DECIMALS = 4
FOLLOWED = 0.2  # share of the budget for prompts that come back, where not all rounds fit
FRAME = 200  # bytes of the names and brackets around the records


class Place(NamedTuple):
    """A row of rollouts.jsonl: where its line is, and what it takes on the page."""

    offset: int
    size: int
    row: int  # its place among the rows of its round
    task: str


def selected_rollouts(path: Path, budget: int) -> dict[str, Any]:
    """The rows to embed in a page within `budget` bytes, and of how many.

    Where they do not all fit, the first and the last round and evenly spaced ones between them are
    kept whole; a fifth of the budget goes to the prompts that come back in most rounds, a row of
    each of their rounds, so that one prompt can be followed over the run.

    Returns:
      records: compacted rows (`compacted`), in order of rounds; `prompts` and `vocabulary`, which
      they refer to; rows, rounds: of the whole file; rounds_shown: that are shown whole.
    """
    places, words = _places(path) if path.exists() else ({}, {})
    budget = max(0, budget - FRAME - len(encoded(script_json(words))))
    rounds = sorted(places)
    sizes = {r: [p.size for p in places[r]] for r in rounds}
    total = sum(map(sum, sizes.values()))
    share = 0.0 if total <= budget else FOLLOWED
    whole = _kept(rounds, sizes, int(budget * (1 - share))) if rounds else {}
    chosen = {(r, n) for r, count in whole.items() for n in range(count)}
    if share:
        spent = sum(places[r][n].size for r, n in chosen)
        chosen |= _followed(places, chosen, budget - spent)
    return {
        **_read(path, [(places[r][n].offset, n) for r, n in sorted(chosen)]),
        "rows": sum(map(len, places.values())),
        "rounds_shown": sum(whole.get(r) == len(places[r]) for r in rounds),
        "rounds": len(rounds),
    }


def compacted(record: Mapping[str, Any], vocabulary: Mapping[int, str]) -> dict[str, Any]:
    """A record without what the page can tell from the rest, its numbers with four decimals.

    `tokens` are left out where the vocabulary has them, `answer` where the tokens spell it, `mask`
    where the sources say it. Uids are text, as JavaScript rounds numbers above 2⁵³.
    """
    small = {name: _rounded(value) for name, value in record.items()}
    for key in ("uid", "parent"):
        small[key] = None if record.get(key) is None else str(record[key])
    tokens, ids = record["tokens"], record["ids"]
    if record["answer"] == "".join(tokens):
        del small["answer"]
    if [vocabulary.get(i) for i in ids] == tokens:
        del small["tokens"]
    sources = record.get("sources")
    if sources is not None:
        told = [int(source == "policy") for source, length in sources for _ in range(length)]
        if told == record["mask"]:
            del small["mask"]
    return small


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        short = round(value, DECIMALS)
        return int(short) if short == int(short) else short
    if isinstance(value, list):
        return [_rounded(inside) for inside in value]
    if isinstance(value, dict):
        return {name: _rounded(inside) for name, inside in value.items()}
    return value


def _places(path: Path) -> tuple[dict[int, list[Place]], dict[int, str]]:
    """Every round's rows, and the text of every token id; sizes count a prompt once a round."""
    places: dict[int, list[Place]] = {}
    words: dict[int, str] = {}
    seen: tuple[int, set[str]] = (-1, set())
    for offset, _, record in scan_jsonl(path, ignore_cut_last=True):
        index, prompt = record["round"], record["prompt"]
        for token, text in zip(record["ids"], record["tokens"], strict=True):
            words.setdefault(token, text)
        if seen[0] != index:
            seen = (index, set())
        small = compacted({**record, "prompt": 10**6}, words)
        size = len(encoded(script_json(small))) + 1 + len(f',"row":{10**6}')
        if prompt not in seen[1]:
            size += len(encoded(script_json(prompt))) + 1
            seen[1].add(prompt)
        rows = places.setdefault(index, [])
        rows.append(Place(offset, size, len(rows), record["task"]))
    return places, words


def _followed(
    places: Mapping[int, Sequence[Place]], chosen: set[tuple[int, int]], budget: int
) -> set[tuple[int, int]]:
    """Rows of the tasks that are in most rounds: the first of each round that has none yet."""
    firsts: dict[str, dict[int, int]] = {}
    for index, rows in places.items():
        for place in reversed(rows):
            firsts.setdefault(place.task, {})[index] = place.row
    added: set[tuple[int, int]] = set()
    for task in sorted(firsts, key=lambda t: -len(firsts[t])):
        fresh = sorted((r, n) for r, n in firsts[task].items() if (r, n) not in chosen)
        if len(firsts[task]) < 2 or not fresh:
            continue
        # A row that is alone in its round brings its prompt along.
        cost = max(_alone(places[r], n) for r, n in fresh)
        kept = [fresh[i] for i in spread(len(fresh), min(len(fresh), budget // cost))]
        added.update(kept)
        budget -= len(kept) * cost
    return added


def _alone(rows: Sequence[Place], n: int) -> int:
    return max(place.size for place in rows if place.task == rows[n].task)


def _kept(rounds: Sequence[int], sizes: Mapping[int, Sequence[int]], budget: int) -> dict[int, int]:
    """round -> how many of its rows: whole, evenly spaced rounds, as many as fit."""
    totals = [sum(sizes[r]) for r in rounds]
    low, high = 0, len(rounds)
    while low < high:  # bisection over the number of rounds
        middle = (low + high + 1) // 2
        if sum(totals[i] for i in spread(len(rounds), middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    if low >= min(2, len(rounds)):
        return {rounds[i]: len(sizes[rounds[i]]) for i in spread(len(rounds), low)}
    ends = dict.fromkeys((rounds[0], rounds[-1]))
    return {r: _fitting(sizes[r], budget // len(ends)) for r in ends}


def spread(count: int, kept: int) -> list[int]:
    """`kept` indices below `count`, the first and the last among them, evenly spaced."""
    if kept < 2:
        return list(range(count))[:kept]
    return [i * (count - 1) // (kept - 1) for i in range(kept)]


def _fitting(sizes: Sequence[int], budget: int) -> int:
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > budget:
            return count
    return len(sizes)


def _read(path: Path, places: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """The records at (offset, row), compacted, with the prompts and token texts they refer to."""
    if not places:
        return {"records": [], "prompts": [], "vocabulary": {}}
    found = []
    with path.open("rb") as file:
        for offset, row in places:
            file.seek(offset)
            found.append({**json.loads(file.readline()), "row": row})
    words: dict[int, str] = {}
    for record in found:
        for token, text in zip(record["ids"], record["tokens"], strict=True):
            words.setdefault(token, text)
    prompts = {text: n for n, text in enumerate(dict.fromkeys(r["prompt"] for r in found))}
    records = [compacted({**r, "prompt": prompts[r["prompt"]]}, words) for r in found]
    return {"records": records, "prompts": list(prompts), "vocabulary": words}
