"""One self-contained HTML page about a run: its configuration, its curves and its rollouts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxevo.run.logs import METRICS, ROLLOUTS, read_jsonl, replace_file
from jaxevo.run.selection import selected_rollouts, spread
from jaxevo.run.web import encoded, render_page, script_json

PAGE_BYTES = 10_000_000
SECTIONS = ("curves", "rollouts", "follow")
SCRIPTS = ("base", "header", "charts", "records", "rollouts", "row", "follow", "report")


def write_report(
    run_folder: str | os.PathLike[str],
    *,
    page_bytes: int = PAGE_BYTES,
    scripts: Sequence[str] = SCRIPTS,
) -> Path:
    """Writes `report.html` into a run folder.

    Args:
      run_folder: needs metrics.jsonl; config.json and rollouts.jsonl are shown when there.
      page_bytes: the page's largest size. A large run's metrics are thinned to evenly spaced rounds
        in a quarter of it, its rollouts to what fits the rest (`selected_rollouts`), and the page
        says so.
      scripts: of the page, as `render_page` takes them.

    Returns:
      The page's path.

    Raises:
      ValueError: when there are no metrics, when a line that is not the last cannot be read, or
        when not even the empty page fits.
    """
    folder = Path(run_folder)
    metrics = read_metrics(folder)
    kept = thinned(metrics, page_bytes // 4)
    data: dict[str, Any] = {
        "name": folder.resolve().name,
        "config": _config(folder, page_bytes // 4),
        "metrics": kept,
        "rounds_logged": len(metrics),
        "rollouts": {},
    }

    def page() -> bytes:
        return render_page(data["name"], data, sections=SECTIONS, scripts=scripts)

    left = page_bytes - len(page())
    if left < 0:
        raise ValueError(f"a page of {page_bytes} bytes has no place for this run; allow more.")
    data["rollouts"] = selected_rollouts(folder / ROLLOUTS, left)
    path = folder / "report.html"
    replace_file(path, page())
    return path


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The finished rounds of a run folder.

    Raises:
      ValueError: without any.
    """
    path = folder / METRICS
    metrics = read_jsonl(path, ignore_cut_last=True) if path.exists() else []
    if not metrics:
        raise ValueError(
            f"{path} holds no finished round, but a report needs at least one; run one round first."
        )
    return metrics


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a run folder, empty where there is none.

    Raises:
      ValueError: it is no JSON object.
    """
    path = folder / "config.json"
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as fault:
        raise ValueError(f"{path} is no JSON ({fault}); repair or remove it.") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is no JSON object; repair or remove it.")
    return config


def _config(folder: Path, budget: int) -> dict[str, Any]:
    config = read_config(folder)
    config.pop("by_problem", None)
    if len(encoded(script_json(config))) <= budget:
        return config
    return {"left out": "config.json is larger than a quarter of this page may be; see the file."}


def thinned(metrics: Sequence[Mapping[str, Any]], budget: int) -> list[Mapping[str, Any]]:
    """Evenly spaced rounds, the first and the last among them, as many as fit."""
    longest = max(len(encoded(script_json(m))) + 1 for m in metrics)
    return [metrics[i] for i in spread(len(metrics), max(1, min(len(metrics), budget // longest)))]
