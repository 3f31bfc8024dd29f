"""What can be searched: passages by name, ranked by their words or looked up by their titles."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jaxevo.envs.graph import QUESTION, leads, starts

GRAPH = "graph"
FILES = (".jsonl", ".jsonl.gz")
K1, B = 1.2, 0.75


@dataclasses.dataclass(frozen=True)
class Passage:
    """A title and what is said under it."""

    title: str
    text: str


class Corpus(Protocol):
    """Passages that are found by a query. compact: models of characters can read them."""

    compact: bool

    @property
    def starts(self) -> Sequence[str]:
        """Titles that a walk through the corpus may start at."""
        ...

    @property
    def worked(self) -> Sequence[tuple[Sequence[str], str]]:
        """Walks that chat models are shown: queries, and a question that the last one answers."""
        ...

    def find(self, query: str, count: int) -> list[Passage]:
        """At most `count` passages, the best first."""
        ...


class Graph:
    """The numbers of `jaxevo.envs.graph`: a query is the title of the passage that it finds."""

    compact = True

    @property
    def starts(self) -> Sequence[str]:
        return starts()[0]

    @property
    def worked(self) -> Sequence[tuple[Sequence[str], str]]:
        return [((s, leads()[s]), QUESTION.format(hops=2, start=s)) for s in self.starts[:2]]

    def find(self, query: str, count: int) -> list[Passage]:
        key = query.strip()
        return [Passage(key, leads()[key])][:count] if key in leads() else []


class Ranked:
    """Passages ranked by BM25, of equal ones the earlier first; without a word of the query, none.

    score(q, d) = Σ_{w ∈ q} idf(w) · f (k₁ + 1) / (f + k₁ (1 − b + b |d| / mean |d|)), f how often d
    has w, idf(w) = log(1 + (N − n + ½) / (n + ½)), n how many of N passages have it; k₁ = 1.2,
    b = 0.75. Words are runs of letters and digits, made small, of title and text; one that the
    query repeats counts as often.

    References:
      Robertson and Zaragoza 2009, The probabilistic relevance framework: BM25 and beyond.
    """

    compact = False

    def __init__(self, passages: Sequence[Passage]):
        self._passages = tuple(passages)
        counts = [Counter(_words(f"{p.title} {p.text}")) for p in self._passages]
        lengths = [own.total() for own in counts]
        mean = sum(lengths) / max(len(lengths), 1) or 1.0
        self._places: dict[str, list[tuple[int, float]]] = {}
        for n, (own, length) in enumerate(zip(counts, lengths, strict=True)):
            for word, f in own.items():
                weight = f * (K1 + 1) / (f + K1 * (1 - B + B * length / mean))
                self._places.setdefault(word, []).append((n, weight))

    @property
    def starts(self) -> Sequence[str]:
        return tuple(dict.fromkeys(passage.title for passage in self._passages))

    @property
    def worked(self) -> Sequence[tuple[Sequence[str], str]]:
        return ()

    def find(self, query: str, count: int) -> list[Passage]:
        scores = self.scores(query)
        best = sorted(scores, key=lambda n: (-scores[n], n))
        return [self._passages[n] for n in best[:count]]

    def scores(self, query: str) -> dict[int, float]:
        """The score of each passage that has a word of the query, by place."""
        scores: dict[int, float] = {}
        for word in _words(query):
            found = self._places.get(word, [])
            idf = math.log(1 + (len(self._passages) - len(found) + 0.5) / (len(found) + 0.5))
            for n, weight in found:
                scores[n] = scores.get(n, 0.0) + idf * weight
        return scores


@functools.lru_cache(maxsize=8)
def load_corpus(name: str) -> Corpus:
    """The corpus that a name stands for.

    - `graph`: numbers that lead to numbers, see `Graph`.
    - `FILE.jsonl`, `FILE.jsonl.gz`: a passage a line, {"title": ..., "text": ...}, see `Ranked`.

    A file is read once in a process.

    Raises:
      ValueError: for another name, or a file that cannot be used; one line.
    """
    if name == GRAPH:
        return Graph()
    if not name.endswith(FILES):
        raise ValueError(
            f"no corpus {name!r}. There is {GRAPH!r}, or give the path of a .jsonl or .jsonl.gz "
            'file of passages, {"title": ..., "text": ...} a line.'
        )
    from jaxevo.tasks.jsonl import jsonl_records  # tasks import the graph

    return Ranked([_passage(where, columns) for where, _, columns in jsonl_records(Path(name))])


def _passage(where: str, columns: object) -> Passage:
    texts = [columns.get(name) for name in ("title", "text")] if isinstance(columns, dict) else []
    title, text = (x.strip() if isinstance(x, str) else "" for x in texts)
    if not title or not text:
        raise ValueError(f"{where}: a passage needs a title and a text that are not empty.")
    return Passage(title, text)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
