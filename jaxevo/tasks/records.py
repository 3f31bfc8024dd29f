"""How records, such as the lines of a file, become tasks: columns, wordings, the held-out split."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import string
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from jaxevo.names import did_you_mean
from jaxevo.tasks.draw import fixed_hash
from jaxevo.types import Message, Task

ROLES = ("system", "user", "assistant", "tool")


class RecordError(Exception):
    """What is wrong with one record."""


class Record(NamedTuple):
    """Columns by name, where they come from ("data.jsonl, line 3"), and their number from 1."""

    where: str
    number: int
    columns: Mapping[str, Any]


@contextlib.contextmanager
def at(where: str) -> Iterator[None]:
    """Turns a fault of a record into one line that says where it is."""
    try:
        yield
    except RecordError as fault:
        raise ValueError(f"{where}: {' '.join(str(fault).split())[:300]}") from None


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns make a task.

    prompt: the column of the prompt, a text or a chat [{"role": ..., "content": ...}, ...] that
    ends with a user or tool turn. template: a text with {column} fields, asked in its place; a list
    of texts stands in it line by line. answer: the column of the right answer, a text or a number
    (51.0 becomes "51"), None where verifiers know what is right. system: a system turn put before
    every prompt. together: a column whose equal values stay on one side of the split, None for the
    prompt.
    """

    prompt: str = "prompt"
    answer: str | None = "answer"
    system: str | None = None
    template: str | None = None
    together: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None:
            fields_of(self.template)


def fields_of(template: str) -> tuple[str, ...]:
    """The columns that a template names.

    Raises:
      ValueError: for a template that cannot be filled in, or has no field.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as fault:
        raise ValueError(
            f"prompt template {template!r}: {fault}. Write {{{{ and }}}} for braces."
        ) from None
    names = [name for _, name, _, _ in parts if name is not None]
    if any(spec or conversion for _, name, spec, conversion in parts if name is not None):
        raise ValueError(f"prompt template {template!r}: a field is {{column}} and nothing else.")
    if not names:
        raise ValueError(
            f"prompt template {template!r} has no {{column}}, so that all prompts would be equal."
        )
    return tuple(names)


def tasks_of(name: str, records: Iterable[Record], columns: Columns) -> list[tuple[Record, Task]]:
    """Every record's task, with uid "name/number"; `info` holds the columns that are not asked.

    Raises:
      ValueError: for a record that cannot be used; one line with where and fault.
    """
    found = []
    for record in records:
        with at(record.where):
            found.append((record, _task(f"{name}/{record.number}", record.columns, columns)))
    return found


def split(
    found: list[tuple[Record, Task]], share: float, columns: Columns, where: str
) -> tuple[list[Task], list[Task]]:
    """Tasks as (train, held out) by a fixed hash: neither seed nor order move a prompt.

    Equal prompts stay together. Of a share above 0, at least one prompt is held out.
    """
    tasks = [task for _, task in found]
    if share == 0.0:
        return tasks, []
    keys = [
        repr(task.messages) if columns.together is None else repr(record.columns[columns.together])
        for record, task in found
    ]
    hashes = [fixed_hash(key) for key in keys]
    low, high = min(hashes), max(hashes)
    if low == high:
        raise ValueError(
            f"{where}: held_out={share} needs two different prompts, but all {len(tasks)} lines "
            "have the same. Add lines or set held_out=0."
        )
    limit = min(max(share * 2.0**64, low + 1), high)
    sides: tuple[list[Task], list[Task]] = ([], [])
    for task, value in zip(tasks, hashes, strict=True):
        sides[value < limit].append(task)
    return sides


def _task(uid: str, record: Mapping[str, Any], columns: Columns) -> Task:
    asked = (columns.prompt,) if columns.template is None else fields_of(columns.template)
    own = () if columns.answer is None else (columns.answer,)
    for column in (*asked, *own):
        if column not in record:
            raise RecordError(f"there is no column {column!r}. {did_you_mean(column, record)}")
    if columns.template is None:
        messages, used = _messages(record[columns.prompt], columns.prompt), (columns.prompt, *own)
    else:
        values = {name: _filled(record[name], name) for name in asked}
        text = columns.template.format_map(values)
        messages, used = (Message("user", text_of(text, "the prompt")),), own
    if columns.system is not None:
        if any(message.role == "system" for message in messages):
            raise RecordError(
                f"column {columns.prompt!r} has a system turn already, so system= cannot be used."
            )
        messages = (Message("system", columns.system), *messages)
    return Task(
        uid=uid,
        messages=messages,
        answer="" if columns.answer is None else _answer(record[columns.answer], columns.answer),
        info={name: value for name, value in record.items() if name not in used},
    )


def _filled(value: Any, column: str) -> str:
    if isinstance(value, list):
        return "\n".join(text_of(item, f"an item of {column!r}") for item in value)
    return _answer(value, column)


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", text_of(value, f"column {column!r}")),)
    if not isinstance(value, list):
        raise RecordError(f"column {column!r} needs a text or a list of turns, got {kind(value)}.")
    if not value:
        raise RecordError(f"column {column!r} is a chat without turns.")
    messages = tuple(_turn(turn, f"turn {n} of {column!r}") for n, turn in enumerate(value, 1))
    if messages[-1].role not in ("user", "tool"):
        raise RecordError(
            f"the chat in {column!r} ends with a turn of {messages[-1].role!r}; "
            "the last turn must be the user's or a tool's."
        )
    return messages


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise RecordError(f"{where} needs an object with role and content, got {kind(turn)}.")
    for name in ("role", "content"):
        if name not in turn:
            raise RecordError(f"{where} has no {name!r}.")
    if turn["role"] not in ROLES:
        raise RecordError(f"{where} has the role {turn['role']!r}. Choose from {', '.join(ROLES)}.")
    return Message(turn["role"], text_of(turn["content"], f"the content of {where}"))


def _answer(value: Any, column: str) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return text_of(value, f"column {column!r}")
    raise RecordError(f"column {column!r} needs a text or a finite number, got {kind(value)}.")


def text_of(value: Any, where: str) -> str:
    """A text that says something and can be written as UTF-8."""
    if not isinstance(value, str):
        raise RecordError(f"{where} needs a text, got {kind(value)}.")
    if not value.strip():
        raise RecordError(f"{where} is empty.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"{where} holds half a surrogate pair at {error.start}.") from None
    return value


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    names = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return names.get(type(value), f"a {type(value).__name__}")
