"""One self-contained HTML page about a run: its configuration, its curves and its rollouts.

The page works from a `file://` address without any network. All that a model wrote reaches it as
JSON in a data block whose `<`, `>` and `&` are escaped, and its script writes only text nodes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxevo.run.logs import METRICS, ROLLOUTS, compact_json, read_jsonl, replace_file, scan_jsonl

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def write_report(run_folder: str | os.PathLike[str], *, rollout_bytes: int = 16 * 2**20) -> Path:
    """Writes `report.html` into a run folder.

    Args:
      run_folder: needs metrics.jsonl; config.json and rollouts.jsonl are shown when there.
      rollout_bytes: budget for the embedded rollouts. When they are more, the first and the last
        round and evenly spaced ones between them are kept, and the page says so.

    Returns:
      The page's path.

    Raises:
      ValueError: when there are no metrics, or when a line that is not the last cannot be read.
    """
    folder = Path(run_folder)
    path = folder / METRICS
    metrics = read_jsonl(path, ignore_cut_last=True) if path.exists() else []
    if not metrics:
        raise ValueError(
            f"{path} holds no finished round, but a report needs at least one; run one round first."
        )
    config = folder / "config.json"
    data = {
        "name": folder.resolve().name,
        "config": json.loads(config.read_bytes()) if config.exists() else {},
        "metrics": metrics,
        "rollouts": _rollouts(folder / ROLLOUTS, rollout_bytes),
    }
    page = folder / "report.html"
    replace_file(page, _render(data).encode(errors="backslashreplace"))
    return page


def script_json(value: Any) -> str:
    """JSON that can stand inside a `<script>` element: no `<`, `>`, `&` and no U+2028, U+2029."""
    return compact_json(value).translate(_ESCAPES)


def _render(data: Mapping[str, Any]) -> str:
    from jinja2 import Environment
    from markupsafe import Markup

    source = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    template = Environment(autoescape=True).from_string(source)
    inline = {n: "".join(template.blocks[n](template.new_context())) for n in ("style", "script")}
    return template.render(
        name=data["name"],
        data=Markup(script_json(data)),
        **{f"{name}_hash": _csp_hash(text) for name, text in inline.items()},
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# ---------------------------------------------------------------------------- which rollouts
def _rollouts(path: Path, budget: int) -> dict[str, Any]:
    """The records to embed, and of how many: {records, rows, rounds_shown, rounds}."""
    places: dict[int, list[int]] = {}  # round -> offsets of its lines
    sizes: dict[int, list[int]] = {}
    if path.exists():
        for offset, line, record in scan_jsonl(path, ignore_cut_last=True):
            escapes = sum(line.count(c) for c in b"<>&")
            places.setdefault(record["round"], []).append(offset)
            sizes.setdefault(record["round"], []).append(len(line) + 5 * escapes)
    kept = _kept(sorted(places), sizes, budget) if places else {}
    offsets = [at for index, count in kept.items() for at in places[index][:count]]
    return {
        "records": _embedded(path, offsets) if offsets else [],
        "rows": sum(map(len, places.values())),
        "rounds_shown": sum(count > 0 for count in kept.values()),
        "rounds": len(places),
    }


def _kept(rounds: Sequence[int], sizes: Mapping[int, Sequence[int]], budget: int) -> dict[int, int]:
    """round -> how many of its rows: whole, evenly spaced rounds, as many as fit."""
    totals = [sum(sizes[r]) for r in rounds]
    low, high = 0, len(rounds)
    while low < high:  # bisection over the number of rounds
        middle = (low + high + 1) // 2
        if sum(totals[i] for i in _spread(len(rounds), middle)) <= budget:
            low = middle
        else:
            high = middle - 1
    if low >= min(2, len(rounds)):
        return {rounds[i]: len(sizes[rounds[i]]) for i in _spread(len(rounds), low)}
    ends = dict.fromkeys((rounds[0], rounds[-1]))
    return {r: _fitting(sizes[r], budget // len(ends)) for r in ends}


def _spread(count: int, kept: int) -> list[int]:
    """`kept` indices below `count`, the first and the last among them, evenly spaced."""
    if kept < 2:
        return list(range(count))[:kept]
    return [i * (count - 1) // (kept - 1) for i in range(kept)]


def _fitting(sizes: Sequence[int], budget: int) -> int:
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > budget:
            return count
    return len(sizes)


def _embedded(path: Path, offsets: Sequence[int]) -> list[dict[str, Any]]:
    """Records as the page gets them: uids as text, since JavaScript rounds numbers above 2⁵³."""
    records = []
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            record = json.loads(file.readline())
            for key in ("uid", "parent"):
                record[key] = None if record.get(key) is None else str(record[key])
            records.append(record)
    return records
