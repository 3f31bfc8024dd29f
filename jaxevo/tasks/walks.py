"""Questions that are built by walking through a corpus: how one is asked for, read and asked.

A model of characters that is shown where to start, `12?`, walks, `[12](47)[47](83)`, and writes
question and answer behind it: `12**=83`. Chat models write both between tags.
"""

from __future__ import annotations

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
PLAIN_BUILD = "{start}?"
CHAT_ASKED = "{question}\nGive a short answer between <answer> and </answer>."

_PLAIN = re.compile(r"([0-9][-0-9+*]*=)([0-9]+)")
_CHAT = re.compile(
    r"<question>((?:(?!</?question>).)*)</question>\s*<answer>((?:(?!</?answer>).)*)</answer>",
    re.DOTALL,
)
_TAG = re.compile(r"</?(?:question|answer|search|result|error)\b", re.IGNORECASE)


def build_task(start: str, *, chat: bool) -> Task:
    """The task of building a question from an entry of the corpus on."""
    text = (CHAT_BUILD if chat else PLAIN_BUILD).format(start=start)
    return Task(f"build/{start}", (Message("user", text),), "", {"start": start})


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
    question: str, answer: str, path: Sequence[str] | None = None, *, chat: bool
) -> Task:
    """The task of answering a built question. `info["path"]` is for a teacher; no prompt has it."""
    text = CHAT_ASKED.format(question=question) if chat else question
    info = {} if path is None else {"path": list(path)}
    return Task(f"built/{question}", (Message("user", text),), answer, info)
