"""A tool that searches a corpus."""

from __future__ import annotations

import dataclasses

from jaxevo.envs.calculator import Reply
from jaxevo.envs.corpus import GRAPH, Corpus, Passage, load_corpus

_MANUAL = (
    "You may search. Write <search>what you look for</search>, and what was found will stand "
    "behind it.\n"
)
_AGAIN = ", as before; look for something else"


@dataclasses.dataclass(frozen=True)
class Search:
    """The best passages of a corpus, each as `title: text`; in the compact form the texts alone.

    corpus: a name, see `load_corpus`. passages: most of one reply. Where nothing is found the
    reply says so, in its compact form with `(?)`, and with `(??)` for another try. To a chat model
    a reply begins a line: `><` would be one token, half of it the policy's.

    >>> Search().reply("12", compact=True).text == f"({Search().found('12')[0].text})"
    True
    """

    corpus: str = GRAPH
    passages: int = 3

    def __post_init__(self) -> None:
        if self.passages < 1:
            raise ValueError(f"a search finds passages={self.passages}, but needs at least 1.")
        load_corpus(self.corpus)

    @property
    def source(self) -> Corpus:
        """What is searched."""
        return load_corpus(self.corpus)

    def found(self, query: str) -> list[Passage]:
        """The passages of a reply."""
        return self.source.find(query, self.passages)

    def marks(self, *, compact: bool) -> tuple[str, str]:
        return ("[", "]") if compact else ("<search>", "</search>")

    def manual(self, *, compact: bool) -> str:
        """See `Tool.manual`.

        Raises:
          ValueError: for a model of characters and a corpus that it cannot read.
        """
        if compact and not self.source.compact:
            raise ValueError(
                f"corpus {self.corpus!r} has words, which models of characters cannot read; they "
                f"can search {GRAPH!r}."
            )
        return "" if compact else _MANUAL

    def reply(self, call: str, *, compact: bool, again: bool = False) -> Reply:
        found = self.found(call)
        if not found:
            error = "nothing found"
            told = f"\n<error>{error}{_AGAIN * again}</error>"
            return Reply(f"(?{'?' * again})" if compact else told, error)
        if compact:
            return Reply(f"({' '.join(passage.text for passage in found)})")
        told = "\n".join(f"{passage.title}: {passage.text}" for passage in found)
        return Reply(f"\n<result>{told}</result>")
