"""Hints written by a model that knows the answer: how they are asked for, read and shown.

A chat model writes JSON with three hints, each of which says more than the one before. A model of
characters is shown `[15]7+8=`, as a solution, and whatever it writes then is the hint: its first
third, two thirds of it, and all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from jaxevo.tasks.told import solutions_of, with_text
from jaxevo.types import Message, Task

LEVELS = 3
Hints: TypeAlias = tuple[str, ...]  # from the least that is said to the most; "" for none

TUTOR = """\
You are a tutor. You are shown a question and a solution of it, and you write three hints for a \
student who sees the question alone. No hint may tell the final answer, or so much that it can be \
read off.
level_1: the idea or concept that is needed, no more.
level_2: the method, or an intermediate direction.
level_3: substantial guidance through the steps, without the last one.
Reply with nothing but JSON of this form:
{"level_1": "...", "level_2": "...", "level_3": "..."}"""
CHAT_ASKED = "Question:\n{question}\n\nSolution:\n{solution}\n\nWrite the three hints as JSON."
PLAIN_ASKED = "[{solution}]{question}"
CHAT_SHOWN = "{question}\n\nHere is a hint:\n{hint}"
PLAIN_SHOWN = "{hint}?{question}"

_FENCED = re.compile(r"```(.*?)```", re.DOTALL)
_MEMBER = re.compile(
    r"""["']?\blevel_([1-3])["']?\s*:\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')""", re.DOTALL
)


def reference(task: Task, *, chat: bool) -> str:
    """What a hint is written from: a task's first worked solution, or its answer (`solutions_of`).

    Models of characters, to whom a solution in words says nothing, get the answer.
    """
    return solutions_of(task)[0] if chat else task.answer


def hint_task(task: Task, solution: str, *, chat: bool) -> Task:
    """The task of writing hints: the question, as its last user message has it, and a solution."""
    told = with_text(task, CHAT_ASKED if chat else PLAIN_ASKED, solution=solution)
    question = next(m for m in reversed(told.messages) if m.role == "user")
    messages = (Message("system", TUTOR), question) if chat else (question,)
    return Task(f"hints/{task.uid}", messages, "")


def hinted(task: Task, hint: str, *, chat: bool) -> Task:
    """The task with a hint in its last user message."""
    return with_text(task, CHAT_SHOWN if chat else PLAIN_SHOWN, hint=hint)


def read_hints(text: str, *, chat: bool) -> Hints | None:
    """The hints of an answer to `hint_task`; None where there is not one.

    Chat: the members level_1 to level_3 of the JSON in the first fence, or else from the text's
    first brace to its last one; also JSON with what people add to it: single quotes, bare names,
    comments, commas and line breaks where none belong. Otherwise the text itself.

    >>> read_hints("15", chat=False), read_hints("{level_2: 'Carry the ten.',}", chat=True)
    (('1', '15', '15'), ('', 'Carry the ten.', ''))
    """
    if not chat:
        text = text.strip()
        parts = [text[: -(-len(text) * level // LEVELS)] for level in range(1, LEVELS + 1)]
    else:
        found = _object(text)
        parts = [found.get(f"level_{level}", "") for level in range(1, LEVELS + 1)]
    return tuple(parts) if any(parts) else None


def _object(text: str) -> Mapping[str, str]:
    """The text members of the JSON object in a text, none where there is none."""
    fenced = _FENCED.search(text)
    found = _members(fenced[1]) if fenced else {}
    return found or _members(text)


def _members(text: str) -> Mapping[str, str]:
    inside = text[text.find("{") : text.rfind("}") + 1]
    try:
        found: Any = json.loads(inside, strict=False)
    except (ValueError, RecursionError):
        found = {f"level_{n}": _unquoted(said) for n, said in _MEMBER.findall(inside)}
    members = found if isinstance(found, dict) else {}
    return {name: said.strip() for name, said in members.items() if isinstance(said, str)}


def _unquoted(literal: str) -> str:
    """What stands in quotes; an escape that JSON does not have stays as it is."""
    known = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"} | {c: c for c in "\"'\\/"}
    return re.sub(r"\\(.)", lambda m: known.get(m[1], m[0]), literal[1:-1], flags=re.DOTALL)


def reveals(hint: str, answer: str) -> bool:
    """Whether a hint says the answer, as a word or number of its own."""
    answer = answer.strip()
    return bool(answer) and bool(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", hint))
