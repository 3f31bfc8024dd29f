"""What a run writes down: config.json, metrics.jsonl, rollouts.jsonl and TensorBoard scalars.

Where verifiers disagree or fail there is an audit.jsonl too. Other trackers get the same metrics
where they are asked for (`trackers.py`).

Every line of the JSONL files stands for itself, so that a run can be cut back to the round of its
last checkpoint and go on: each round then appears exactly once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np

from jaxevo.models.tokenizer import Tokenizer
from jaxevo.run.board import Board
from jaxevo.run.trackers import Trackers
from jaxevo.types import Actions, Row, Segment

METRICS = "metrics.jsonl"
ROLLOUTS = "rollouts.jsonl"
AUDIT = "audit.jsonl"  # made with its first line
BOARD = "tensorboard"
DECIMALS = 5


# ---------------------------------------------------------------------------- one sampled row
def rollout_record(
    row: Row,
    *,
    round_index: int,
    tokenizer: Tokenizer,
    trained: bool,
    signals: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """One row as JSON values: what was asked, what was sampled, and what came of it.

    All lists have one entry per answer token. `logp` is the behaviour policy's, the kept mass of a
    truncated sampler subtracted; null where nobody sampled. `mask` is 1 for sampled tokens only.
    `sources` are runs of [source, length], and `versions` says for each how many rounds the weights
    that sampled it had been through, -1 where nobody sampled. Other streams of actions stand in
    `actions`, a list per action each. Numbers have five decimals; non-finite ones are null.

    Args:
      signals: stream -> name -> one number per action; longer arrays are cut, since batches pad.
        The text's `advantage` stands by itself. `Row.by_token` is added, and the segments' entropy
        (nats) as `entropy` where the sampler kept it.

    Raises:
      ValueError: when a signal is shorter than the answer.
    """
    answer = row.answer
    ids = row.answer_ids.tolist()
    mask = [int(s.source == "policy") for s in answer for _ in s.ids]
    signals = signals or {}
    shown = {n: _per_token(v, len(ids), name=n) for n, v in signals.get("text", {}).items()}
    advantage = shown.pop("advantage", None)
    for name, values in row.by_token.items():
        shown.setdefault(name, _per_token(values, len(ids), name=name))
    if "entropy" not in shown and any(s.entropy is not None for s in answer):
        shown["entropy"] = _joined(answer, [s.entropy for s in answer])
    return {
        "round": int(round_index),
        "uid": int(row.uid),
        "parent": None if row.parent is None else int(row.parent),
        "group": int(row.group),
        "episode": int(row.episode),
        "turn": int(row.turn),
        "role": row.role,
        "task": row.task.uid,
        "expected": row.task.answer,
        "trained": bool(trained),
        "reward": _number(row.reward),
        "rewards": {name: _number(value) for name, value in row.rewards.items()},
        "feedback": row.feedback,
        "finish": row.info.get("finish"),
        "sampled_tokens": row.sampled_tokens,
        "prompt": tokenizer.decode(row.prompt_ids.tolist()),
        "answer": tokenizer.decode(ids),
        "tokens": token_texts(ids, tokenizer),
        "ids": ids,
        "sources": [[s.source, len(s.ids)] for s in answer if len(s.ids)],
        "versions": [int(s.weights_version) for s in answer if len(s.ids)],
        "mask": mask,
        "logp": _joined(answer, [_behaviour(s) for s in answer]),
        "advantage": advantage,
        "signals": shown,
        "actions": {
            stream: _action_record(own, signals.get(stream, {}))
            for stream, own in row.actions.items()
        },
    }


def _action_record(actions: Actions, signals: Mapping[str, Any]) -> dict[str, Any]:
    count = len(actions.mask)
    said = {} if actions.logp is None else {"logp": actions.logp}
    return {
        "mask": [int(sampled) for sampled in actions.mask],
        **{n: _per_token(v, count, name=n) for n, v in {**signals, **said}.items()},
        "data": {n: np.round(v, DECIMALS).tolist() for n, v in actions.data.items()},
    }


def token_texts(ids: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Each token's own text; one that holds only a part of a character's bytes gives U+FFFD."""
    known = {token: tokenizer.decode([token]) for token in set(ids)}
    return [known[token] for token in ids]


def _behaviour(segment: Segment) -> np.ndarray | None:
    if segment.logp is None or segment.source != "policy":
        return None
    kept = 0.0 if segment.log_kept is None else np.asarray(segment.log_kept, np.float32)
    return np.asarray(segment.logp, np.float32) - kept


def _joined(segments: Sequence[Segment], values: Sequence[np.ndarray | None]) -> list[float | None]:
    return [
        None if value is None else _number(value[i])
        for segment, value in zip(segments, values, strict=True)
        for i in range(len(segment.ids))
    ]


def _per_token(values: Any, count: int, *, name: str) -> list[float | None]:
    flat = np.asarray(values)
    if flat.ndim != 1 or len(flat) < count:
        raise ValueError(
            f"{name} has shape {flat.shape}, but the answer needs one number for each of its "
            f"{count} tokens; pass the row's slice of the [N, A] array."
        )
    return [_number(value) for value in flat[:count]]


def _number(value: Any) -> float | None:
    number = float(value)
    return round(number, DECIMALS) if math.isfinite(number) else None


# ---------------------------------------------------------------------------- the run folder
class RunLog:
    """Writes one run's folder; a context manager.

    Args:
      folder: made when missing.
      append: go on with the run that the folder holds; a last line that a crash has cut is dropped.
      trackers: names of the trackers that get the metrics as well.

    Raises:
      FileExistsError: when the folder already holds a run and `append` is False.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        append: bool = False,
        trackers: Sequence[str] = (),
    ) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = {name: self.folder / name for name in (METRICS, ROLLOUTS, AUDIT)}
        if not append and any(p.exists() and p.stat().st_size for p in paths.values()):
            raise FileExistsError(
                f"{self.folder} already holds a run; resume it (append=True) or name a new folder."
            )
        self._files = {
            name: _open_at_line_end(path)
            for name, path in paths.items()
            if name != AUDIT or path.exists()
        }
        self._board: Board | None = None
        self._trackers = Trackers(trackers, self.folder)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *raised: object) -> None:
        self._trackers.close(failed=raised[0] is not None)
        self.close()

    def close(self) -> None:
        """Closes all files and trackers; a second call does nothing."""
        self._trackers.close()
        for file in self._files.values():
            file.close()
        self._close_board()

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.json anew, whole or not at all; trackers are told."""
        config = _json_value(config)
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(self.folder / "config.json", _encoded(text) + b"\n")
        self._trackers.config(config)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Writes one round's line, and its finite numbers to TensorBoard.

        A number that is NaN or infinite becomes null, and its key is listed in `nonfinite`.

        Raises:
          ValueError: without a `round`.
        """
        if "round" not in metrics:
            raise ValueError(f"metrics need a 'round', got the keys {sorted(metrics)}; add it.")
        line = _json_value(metrics)
        nonfinite = [k for k, v in line.items() if v is None and metrics[k] is not None]
        self._write(METRICS, [line | {"nonfinite": nonfinite} if nonfinite else line])
        self._trackers.metrics(line)
        if self._board is None:
            self._board = Board(self.folder / BOARD)
        numbers = {n: x for n, x in line.items() if n != "round" and isinstance(x, (int, float))}
        self._board.write(numbers, line["round"])

    def write_rollouts(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes one line per record of `rollout_record`; non-finite numbers become null."""
        self._write(ROLLOUTS, [_json_value(record) for record in records])

    def write_audit(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Writes one line per record of `audit.audit_records`; no file is made for none."""
        if records and AUDIT not in self._files:
            self._files[AUDIT] = _open_at_line_end(self.folder / AUDIT)
        if records:
            self._write(AUDIT, [_json_value(record) for record in records])

    def offsets(self) -> dict[str, int]:
        """Where the files end, in bytes, once they are safely on disk: save it in a checkpoint."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()
        return {name: os.fstat(file.fileno()).st_size for name, file in self._files.items()}

    def cut_back(self, offsets: Mapping[str, int]) -> None:
        """Forgets what was written after `offsets` were taken; TensorBoard hides those rounds too.

        An audit file that was made afterwards is removed.

        Raises:
          ValueError: when a file is shorter than its offset, or the offset is not a line's end.
        """
        for name, offset in offsets.items():
            _check_line_end(self.folder / name, offset)
            self._files[name].flush()
            os.truncate(self._files[name].fileno(), offset)
        if AUDIT in self._files and AUDIT not in offsets:
            self._files.pop(AUDIT).close()
            (self.folder / AUDIT).unlink()
        rounds = [line["round"] for line in read_jsonl(self.folder / METRICS)]
        self._close_board()
        self._board = Board(self.folder / BOARD, purge_step=rounds[-1] + 1 if rounds else 0)

    def _write(self, name: str, values: Sequence[Mapping[str, Any]]) -> None:
        file = self._files[name]
        file.writelines(_encoded(compact_json(value)) + b"\n" for value in values)
        file.flush()

    def _close_board(self) -> None:
        if self._board is not None:
            self._board.close()
        self._board = None


class NoLog:
    """The `RunLog` of a process that does not write: the first one does."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> NoLog:
        return self

    def __exit__(self, *raised: object) -> None:
        pass

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Nothing; so are all others."""

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """See `write_config`."""

    def write_rollouts(self, records: Iterable[Mapping[str, Any]]) -> None:
        """See `write_config`."""

    def write_audit(self, records: Sequence[Mapping[str, Any]]) -> None:
        """See `write_config`."""

    def offsets(self) -> dict[str, int]:
        """Nothing is written."""
        return {}

    def cut_back(self, offsets: Mapping[str, int]) -> None:
        """See `write_config`."""


def set_logs_aside(folder: Path) -> Path | None:
    """Moves the log files of a run that cannot be continued into a folder beside; None for none."""
    names = [n for n in (METRICS, ROLLOUTS, AUDIT, BOARD) if (folder / n).exists()]
    if not any((folder / n).stat().st_size for n in names if n != BOARD):
        return None
    place = next(p for n in range(1, 1_000_000) if not (p := folder / f"broken-off-{n}").exists())
    place.mkdir()
    for name in names:
        (folder / name).rename(place / name)
    return place


def _open_at_line_end(path: Path) -> BinaryIO:
    if path.exists():
        with path.open("r+b") as file:
            data_end = _last_line_end(file)
            file.truncate(data_end)
    return path.open("ab")


def _last_line_end(file: BinaryIO, *, step: int = 1 << 16) -> int:
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - step)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _check_line_end(path: Path, offset: int) -> None:
    size = path.stat().st_size if path.exists() else 0
    if not 0 <= offset <= size:
        raise ValueError(
            f"{path} has {size} bytes, but the checkpoint was taken at byte {offset}; "
            "resume in the folder that the checkpoint belongs to."
        )
    with path.open("rb") as file:
        file.seek(max(0, offset - 1))
        if offset and file.read(1) != b"\n":
            raise ValueError(
                f"byte {offset} of {path} is not the end of a line; "
                "resume in the folder that the checkpoint belongs to."
            )


# ---------------------------------------------------------------------------- JSON
def read_jsonl(path: str | os.PathLike[str], *, ignore_cut_last: bool = False) -> list[dict]:
    """All lines of a JSONL file as dicts, in order.

    Args:
      ignore_cut_last: leave out a last line that has no end, as a killed writer leaves it.

    Raises:
      ValueError: naming the line that is not a JSON object.
    """
    return [record for _, _, record in scan_jsonl(path, ignore_cut_last=ignore_cut_last)]


def scan_jsonl(
    path: str | os.PathLike[str], *, ignore_cut_last: bool = False
) -> Iterator[tuple[int, bytes, dict]]:
    """Goes through a JSONL file as `read_jsonl` does: (byte offset, line, record) of each."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line.decode(), parse_constant=_refuse_constant)
                if not isinstance(record, dict):
                    raise ValueError("it is no JSON object")
            except ValueError as problem:
                cut = not line.endswith(b"\n")
                if cut and ignore_cut_last:
                    return
                what = "is cut off" if cut else f"cannot be read ({problem})"
                hint = "pass ignore_cut_last=True" if cut else "repair or remove it"
                raise ValueError(f"line {number} of {path} {what}; {hint}.") from None
            yield offset, line, record
            offset += len(line)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def compact_json(value: Any) -> str:
    """JSON text without spaces and without NaN."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def replace_file(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Writes a file whole or not at all; `durable` ones are on disk when this returns."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    fresh.replace(path)


def _encoded(text: str) -> bytes:
    # A lone surrogate has no UTF-8 form; "backslashreplace" writes it as JSON's own escape.
    return text.encode(errors="backslashreplace")


def _json_value(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_value(inside) for name, inside in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(inside) for inside in value]
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return _json_value(np.asarray(value).tolist())
    raise TypeError(f"cannot write {value!r} as JSON; pass numbers, text, lists and mappings.")
