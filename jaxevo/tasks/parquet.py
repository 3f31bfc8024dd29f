"""Records of Parquet files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxevo.tasks.extras import optional
from jaxevo.tasks.records import Record, RecordError, at, kind

BATCH = 1024  # rows that are turned into Python values at a time


def parquet_records(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file, whose values must be such as JSON has.

    Raises:
      ValueError: for a file that cannot be read, or a row that cannot be used; one sentence with
        file, row and fault.
    """
    arrow = optional("pyarrow", extra="data", why=str(path))
    parquet = optional("pyarrow.parquet", extra="data", why=str(path))
    if not path.is_file():
        fault = "is a directory" if path.is_dir() else "no such file"
        raise ValueError(f"{path}: cannot be read: {fault}.")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            _refuse_twins(path, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH):
                for row in batch.to_pylist():
                    number += 1
                    yield _record(path, number, row)
    except (OSError, arrow.ArrowException) as error:
        fault = str(error).splitlines()[0]
        raise ValueError(f"{path}, after row {number}: not readable as Parquet: {fault}") from None
    if not number:
        raise ValueError(f"{path}: the file has no rows; it needs one problem a row.")


def _refuse_twins(path: Path, names: list[str]) -> None:
    twins = [name for name in names if names.count(name) > 1]
    if twins:
        raise ValueError(f"{path}: two columns are called {twins[0]!r}; rename one.")
    if not names:
        raise ValueError(f"{path}: the file has no columns; it needs a prompt and an answer.")


def _record(path: Path, number: int, row: dict[str, Any]) -> Record:
    where = f"{path}, row {number}"
    with at(where):
        columns = {name: json_value(value, f"column {name!r}") for name, value in row.items()}
    return Record(where, number, columns)


def json_value(value: Any, where: str) -> Any:
    """A value as JSON has it, which is what `Task.info` may hold.

    Raises:
      RecordError: for bytes, dates and whatever else JSON has no form for.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _refused(value, where)
    if isinstance(value, list | tuple):
        return [json_value(item, where) for item in value]
    if isinstance(value, dict):
        return {str(name): json_value(item, where) for name, item in value.items()}
    return _refused(value, where)


def _refused(value: Any, where: str) -> Any:
    raise RecordError(f"{where} holds {kind(value)}, which JSON has no form for; convert it.")
