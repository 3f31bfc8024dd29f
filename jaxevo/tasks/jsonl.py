"""Records of JSON-lines files."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxevo.tasks.records import Record, RecordError, at, kind


def jsonl_records(path: Path) -> Iterator[Record]:
    """The objects of a file with one JSON object a line, UTF-8, with gzip where it ends in `.gz`.

    Raises:
      ValueError: for a file that cannot be read, or a line that cannot be used; one sentence with
        file, line and fault.
    """
    number = 0
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        with at(where):
            columns = _columns(line)
        yield Record(where, number, columns)
    if not number:
        raise ValueError(f"{path}: the file is empty; it needs one JSON object a line.")


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


def _columns(line: str) -> dict[str, Any]:
    if not line.strip():
        raise RecordError("the line is blank; remove it.")
    try:
        record = json.loads(line, object_pairs_hook=_without_twins, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        fault = error.msg.removesuffix(" at")
        raise RecordError(f"not JSON: {fault} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:  # numbers or nesting beyond Python's limits
        raise RecordError(f"not usable JSON: {str(error).splitlines()[0]}.") from None
    if not isinstance(record, dict):
        raise RecordError(f"needs a JSON object with columns, got {kind(record)}.")
    if not record:
        raise RecordError("the object has no columns.")
    return record


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        raise RecordError(f"the name {twin!r} stands twice in one object.")
    return record


def _no_constant(name: str) -> None:
    raise RecordError(f"{name} is not a JSON number.")
