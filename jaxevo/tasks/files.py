"""Sources over files of records: JSON lines and Parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from jaxevo.rewards.exact import exact_match
from jaxevo.rewards.named import Verify
from jaxevo.tasks.draw import task_source
from jaxevo.tasks.jsonl import jsonl_records
from jaxevo.tasks.parquet import parquet_records
from jaxevo.tasks.records import Columns, Record, split, tasks_of
from jaxevo.types import Task, TaskSource

READERS: Mapping[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": jsonl_records,
    ".jsonl.gz": jsonl_records,
    ".parquet": parquet_records,
}


def file_source(
    path: str | Path,
    columns: Columns | None = None,
    *,
    held_out: float = 0.1,
    held_out_file: str | Path | None = None,
    limit: int = 0,
    verifiers: Mapping[str, Verify] | None = None,
    seed: int = 0,
) -> TaskSource:
    """A source over a file with one problem a line or row; all of it is read and checked here.

    Nothing is skipped: a line that cannot be used is an error. Lines with the same prompt are on
    the same side of the split, which depends on the prompts and not on the seed or the line order.

    Args:
      path: a `.jsonl` file, UTF-8, the same with gzip (`.jsonl.gz`), or a `.parquet` file.
      columns: which columns make a task; default `prompt` and `answer`.
      held_out: share of the prompts that is held out, in [0, 1); above 0, at least one.
      held_out_file: a file of held-out problems; then `held_out` has no effect.
      limit: most training problems, the first ones of the file; 0 for all.
      verifiers: name -> verify(task, text), the first gives the reward; default `exact_match`.
      seed: >= 0; orders the training problems, anew in each epoch.

    Returns:
      A source of tasks with uid "file/line"; `info` holds the line's other columns.

    Raises:
      ValueError: for a file that cannot be read, an empty one, or a line that cannot be used; one
        sentence with file, line and fault.
    """
    path = Path(path)
    records = {"train": _read(path)}
    if held_out_file is not None:
        records["held out"] = _read(Path(held_out_file))
    return records_source(
        stem(path),
        records,
        columns or Columns(),
        held_out=held_out,
        limit=limit,
        verifiers=verifiers,
        seed=seed,
    )


def records_source(
    name: str,
    records: Mapping[str, Iterable[Record]],
    columns: Columns,
    *,
    held_out: float = 0.1,
    limit: int = 0,
    verifiers: Mapping[str, Verify] | None = None,
    seed: int = 0,
) -> TaskSource:
    """A source over records, held-out ones by share or of their own.

    Args:
      name: the source's name, and the head of the tasks' uids.
      records: `train`, and `held out` if they have records of their own.
      columns, held_out, limit, verifiers, seed: as for `file_source`.
    """
    if not 0.0 <= held_out < 1.0:
        raise ValueError(f"held_out={held_out} is not a share in [0, 1).")
    found = tasks_of(name, records["train"], columns)
    if "held out" in records:
        apart = tasks_of(f"{name}/held-out", records["held out"], columns)
        _refuse_shared(found, apart)
        train, kept_back = [task for _, task in found], [task for _, task in apart]
    else:
        where = found[0][0].where.rpartition(", ")[0] if found else name
        train, kept_back = split(found, held_out, columns, where)
    return task_source(
        name,
        (train[:limit] if limit else train, kept_back),
        verifiers=verifiers or {"exact_match": exact_match},
        seed=seed,
    )


def stem(path: Path) -> str:
    """A file's name without the endings that say what it is."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


def _read(path: Path) -> Iterator[Record]:
    suffix = next((suffix for suffix in READERS if path.name.endswith(suffix)), None)
    if suffix is None:
        raise ValueError(f"{path}: a file of problems ends in {', '.join(READERS)}.")
    return READERS[suffix](path)


def _refuse_shared(train: list[tuple[Record, Task]], held_out: list[tuple[Record, Task]]) -> None:
    seen = {task.messages: record.where for record, task in train}
    for record, task in held_out:
        if task.messages in seen:
            raise ValueError(
                f"{record.where}: this prompt stands in {seen[task.messages]} as well; held-out "
                "problems must not be trained on. Remove one of them."
            )
