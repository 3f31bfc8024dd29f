"""Data sets of tensorflow-datasets (extra `tfds`), read without tensorflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jaxevo.names import did_you_mean
from jaxevo.tasks.extras import optional
from jaxevo.tasks.parquet import json_value
from jaxevo.tasks.records import Record, at


def tfds_records(
    name: str, *, splits: Mapping[str, str], data_dir: str | None = None
) -> dict[str, Iterator[Record]]:
    """The records of splits of a data set that is prepared in the ArrayRecord format.

    Bytes become texts (UTF-8), arrays lists.

    Args:
      name: `NAME`, `NAME/CONFIG` or `NAME:VERSION`.
      splits: what to call the records -> the split that they are from; `train[:80%]` works.
      data_dir: where it is prepared; None for tensorflow-datasets' own place.

    Raises:
      ValueError: tensorflow-datasets is not installed; a set that is not there or is prepared in
        another format; an unknown split.
    """
    tfds = optional("tensorflow_datasets", extra="tfds", why=f"tfds:{name}")
    optional("array_record", extra="tfds", why=f"tfds:{name}")
    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    except Exception as error:  # unknown names and broken folders raise many kinds
        raise ValueError(f"tfds:{name} cannot be had: {_first_line(error)}") from None
    own = list(builder.info.splits or ())
    if not own:
        raise ValueError(
            f"tfds:{name} is not prepared in {builder.data_dir}. Prepare it once, with "
            f"tensorflow_datasets.builder({name!r}, file_format='array_record')"
            ".download_and_prepare(), or name its data_dir=."
        )
    for split in splits.values():
        if split.partition("[")[0] not in own:
            raise ValueError(f"tfds:{name} has no split {split!r}. {did_you_mean(split, own)}")
    return {called: _records(name, builder, split) for called, split in splits.items()}


def _records(name: str, builder: Any, split: str) -> Iterator[Record]:
    try:
        rows = builder.as_data_source(split=split)
        size = len(rows)
    except Exception as error:
        raise ValueError(f"tfds:{name}, split {split}: {_first_line(error)}") from None
    for number in range(1, size + 1):
        where = f"tfds:{name}, split {split}, row {number}"
        with at(where):
            columns = json_value(_plain(rows[number - 1]), "the row")
        yield Record(where, number, columns)


def _plain(value: Any) -> Any:
    """Bytes as texts and arrays as lists, all the way down; what is neither stays."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="surrogateescape")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    listed = getattr(value, "tolist", None)
    return value if listed is None else _plain(listed())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
