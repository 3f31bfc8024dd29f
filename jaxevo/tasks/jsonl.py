"""Tasks from JSON-lines files."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxevo.names import did_you_mean
from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.named import Verify
from jaxevo.tasks.draw import fixed_hash, task_source
from jaxevo.types import Message, Task, TaskSource

ROLES = ("system", "user", "assistant", "tool")
SUFFIXES = (".jsonl", ".jsonl.gz")


def jsonl_source(
    path: str | Path,
    *,
    prompt: str = "prompt",
    answer: str = "answer",
    system: str | None = None,
    held_out: float = 0.1,
    verifiers: Mapping[str, Verify] | None = None,
    seed: int = 0,
) -> TaskSource:
    """A source over a file with one JSON object a line; the whole file is read and checked here.

    Nothing is skipped: a line that cannot be used is an error. Lines with the same prompt are on
    the same side of the split, which depends on the prompts and not on the seed or the line order.

    Args:
      path: a `.jsonl` file, UTF-8, or the same with gzip (`.gz`).
      prompt: the column of the prompt: a text, or a chat [{"role": ..., "content": ...}, ...] that
        ends with a user or tool turn.
      answer: the column of the right answer: a text or a number (51.0 becomes "51").
      system: a system turn put before every prompt.
      held_out: share of the prompts that is held out, in [0, 1); above 0, at least one.
      verifiers: name -> verify(task, text), the first gives the reward; default `exact_match`.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source of tasks with uid "file/line"; `info` holds the line's other columns.

    Raises:
      ValueError: for a file that cannot be read, an empty one, or a line that cannot be used; one
        sentence with file, line and fault.
    """
    path = Path(path)
    if not 0.0 <= held_out < 1.0:
        raise ValueError(f"held_out={held_out} is not a share in [0, 1).")
    tasks = []
    for number, line in _lines(path):
        try:
            tasks.append(_task(f"{_stem(path)}/{number}", line, (prompt, answer, system)))
        except _LineError as fault:
            one_line = " ".join(str(fault).split())[:300]
            raise ValueError(f"{path}, line {number}: {one_line}") from None
    if not tasks:
        raise ValueError(f"{path}: the file is empty; it needs one JSON object a line.")
    return task_source(
        _stem(path),
        _split(tasks, held_out, path),
        verifiers=verifiers or {"exact_match": exact_match},
        seed=seed,
    )


class _LineError(Exception):
    """What is wrong with one line."""


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                yield number, raw.removesuffix(b"\n").decode("utf-8")
    except UnicodeDecodeError as error:
        fault = f"byte {error.start + 1} is not UTF-8; save the file as UTF-8."
        raise ValueError(f"{path}, line {number}: {fault}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        fault = f"the gzip stream is broken ({error}); compress the file again."
        raise ValueError(f"{path}, after line {number}: {fault}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}.") from None


def _split(tasks: list[Task], share: float, path: Path) -> tuple[list[Task], list[Task]]:
    if share == 0.0:
        return tasks, []
    hashes = [fixed_hash(repr(task.messages)) for task in tasks]
    low, high = min(hashes), max(hashes)
    if low == high:
        raise ValueError(
            f"{path}: held_out={share} needs two different prompts, but all {len(tasks)} lines "
            "have the same. Add lines or set held_out=0."
        )
    limit = min(max(share * 2.0**64, low + 1), high)
    sides: tuple[list[Task], list[Task]] = ([], [])
    for task, value in zip(tasks, hashes, strict=True):
        sides[value < limit].append(task)
    return sides


def _task(uid: str, line: str, columns: tuple[str, str, str | None]) -> Task:
    prompt, answer, system = columns
    record = _record(line)
    for column in (prompt, answer):
        if column not in record:
            raise _LineError(f"there is no column {column!r}. {did_you_mean(column, record)}")
    messages = _messages(record[prompt], prompt)
    if system is not None:
        if any(message.role == "system" for message in messages):
            raise _LineError(
                f"column {prompt!r} has a system turn already, so system= cannot be used."
            )
        messages = (Message("system", system), *messages)
    return Task(
        uid=uid,
        messages=messages,
        answer=_answer(record[answer], answer),
        info={name: value for name, value in record.items() if name not in (prompt, answer)},
    )


def _record(line: str) -> dict[str, Any]:
    if not line.strip():
        raise _LineError("the line is blank; remove it.")
    try:
        record = json.loads(line, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _LineError(f"not JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:  # numbers or nesting beyond Python's limits
        raise _LineError(f"not usable JSON: {str(error).splitlines()[0]}.") from None
    if not isinstance(record, dict):
        raise _LineError(f"needs a JSON object with columns, got {_kind(record)}.")
    if not record:
        raise _LineError("the object has no columns.")
    return record


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise _LineError(f"the name {twin!r} stands twice in one object.")
    return record


def _no_constant(name: str) -> None:
    raise _LineError(f"{name} is not a JSON number.")


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message("user", _text(value, f"column {column!r}")),)
    if not isinstance(value, list):
        raise _LineError(f"column {column!r} needs a text or a list of turns, got {_kind(value)}.")
    if not value:
        raise _LineError(f"column {column!r} is a chat without turns.")
    messages = tuple(_turn(turn, f"turn {n} of {column!r}") for n, turn in enumerate(value, 1))
    if messages[-1].role not in ("user", "tool"):
        raise _LineError(
            f"the chat in {column!r} ends with a turn of {messages[-1].role!r}; "
            "the last turn must be the user's or a tool's."
        )
    return messages


def _turn(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise _LineError(f"{where} needs an object with role and content, got {_kind(turn)}.")
    for name in ("role", "content"):
        if name not in turn:
            raise _LineError(f"{where} has no {name!r}.")
    if turn["role"] not in ROLES:
        raise _LineError(f"{where} has the role {turn['role']!r}. Choose from {', '.join(ROLES)}.")
    return Message(turn["role"], _text(turn["content"], f"the content of {where}"))


def _answer(value: Any, column: str) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, str):
        return _text(value, f"column {column!r}")
    raise _LineError(f"column {column!r} needs a text or a finite number, got {_kind(value)}.")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _LineError(f"{where} needs a text, got {_kind(value)}.")
    if not value.strip():
        raise _LineError(f"{where} is empty.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _LineError(f"{where} holds half a surrogate pair at {error.start}.") from None
    return value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    names = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number"}
    return names[type(value)]
