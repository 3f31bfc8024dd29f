"""Questions that are built by walking through a corpus: how one is asked for, read and asked.

A model of characters that is shown where to start, `12?`, walks, `[12](47)[47](83)`, and writes
question and answer behind it: `12**=83`. Chat models write both between tags, and are shown worked
walks where the corpus has some.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from jaxevo.tasks.hints import reveals
from jaxevo.types import Message, Task

CHAT_BUILD = """\
Write a question that can only be answered by searching. Start with this entry:

{start}

1. Search for it. Then search for something that the result names, and so on, two searches or \
more. Before each search say which clue you follow.
2. Take the answer from the last result: a name, a number or a few words, as they stand there.
3. Ask for it in one sentence that names where you started and nothing that you found on the way. \
Whoever answers must need all of your searches. The question must not contain the answer.

End with the question and its answer, in this form:
<question>...</question>
<answer>...</answer>"""
CHAT_NEXT = "Start with this entry:\n\n{start}"
CHAT_RECORD = "<question>{question}</question>\n<answer>{answer}</answer>"
PLAIN_BUILD = "{start}?"
CHAT_ASKED = "{question}\nGive a short answer between <answer> and </answer>."
CHAT_ANSWER = "<answer>{answer}</answer>"

_PLAIN = re.compile(r"([0-9][-0-9+*]*=)([0-9]+)")
_CHAT = re.compile(
    r"<question>((?:(?!</?question>).)*)</question>\s*<answer>((?:(?!</?answer>).)*)</answer>",
    re.DOTALL,
)
_TAG = re.compile(r"</?(?:question|answer|search|result|error)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Walk:
    """From an entry by a path, calls each with its reply, to a question and its answer."""

    start: str
    path: Sequence[str]
    question: str
    answer: str


def build_task(start: str, shown: Sequence[Walk] = (), *, chat: bool) -> Task:
    """The task of building a question from an entry of the corpus on. shown: walks before it."""
    first, *others = [*(walk.start for walk in shown), start]
    form = CHAT_BUILD if chat else PLAIN_BUILD
    asked = [form.format(start=first), *(CHAT_NEXT.format(start=other) for other in others)]
    messages = _messages(asked, shown, CHAT_RECORD)
    return Task(f"build/{start}", messages, "", {"start": start})


def _messages(asked: Sequence[str], shown: Sequence[Walk], form: str) -> tuple[Message, ...]:
    """What is asked, each but the last answered by a walk that ends in this form."""
    messages = []
    for text, walk in zip(asked, shown, strict=False):
        end = form.format(question=walk.question, answer=walk.answer)
        messages += [Message("user", text), Message("assistant", "\n".join([*walk.path, end]))]
    return (*messages, Message("user", asked[-1]))


def read_record(text: str, *, chat: bool) -> tuple[str, str] | None:
    """Question and answer as the last turn of a walk has them, the last ones of several.

    Chat: between tags, one right behind the other, with no other tag of ours in either; white space
    is collapsed. Otherwise digits, signs and `=`, and the digits behind it. What a call says is not
    read.

    Returns:
      None without a record, or where a part of it is empty.

    >>> read_record("12**=83", chat=False)
    ('12**=', '83')
    """
    said = text.rpartition("</search>" if chat else "]")[2]
    found = (_CHAT if chat else _PLAIN).findall(said)
    if not found or any(_TAG.search(part) for part in found[-1]):
        return None
    question, answer = (" ".join(part.split()) for part in found[-1])
    return (question, answer) if question and answer else None


def holds(text: str, answer: str) -> bool:
    """Whether a text has the answer as words of their own; letters may be of either case."""
    return reveals(" ".join(text.split()).casefold(), " ".join(answer.split()).casefold())


def built_task(
    question: str,
    answer: str,
    path: Sequence[str] | None = None,
    shown: Sequence[Walk] = (),
    *,
    chat: bool,
) -> Task:
    """The task of answering a built question. `info["path"]` is for a teacher; no prompt has it."""
    form = CHAT_ASKED if chat else "{question}"
    asked = [form.format(question=q) for q in (*(walk.question for walk in shown), question)]
    messages = _messages(asked, shown, CHAT_ANSWER)
    return Task(f"built/{question}", messages, answer, {} if path is None else {"path": list(path)})
