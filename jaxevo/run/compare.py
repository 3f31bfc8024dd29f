"""`jaxevo compare`: runs side by side, in words on the terminal and in a page of their own.

Runs whose recipe and options differ in nothing but the seed (and the folder) are one column.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxevo.run.logs import METRICS, replace_file
from jaxevo.run.report import PAGE_BYTES, read_config, read_metrics, thinned
from jaxevo.run.statistics import Interval, bootstrap_interval, mean_interval, paired_bootstrap
from jaxevo.run.web import render_page

OWN = ("seed", "out", "log")  # options in which runs of one column may differ
BETTER_HIGH = ("reward", "score/", "eval/")
SCRIPTS = ("base", "charts", "compare")


@dataclasses.dataclass(frozen=True)
class Logged:
    """What a run folder says: its configuration and a mapping per round."""

    folder: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]

    def values(self, metric: str) -> np.ndarray:
        """The metric's finite values, round after round."""
        found = [m[metric] for m in self.metrics if isinstance(m.get(metric), (int, float))]
        return np.array(found, np.float64)

    def scores(self, scorer: str) -> np.ndarray | None:
        """Mean score of each held-out problem in the end, [P]; None where it is not known."""
        found = self.config.get("by_problem", {}).get("after", {}).get(scorer)
        return None if found is None else np.array(found, np.float64)

    def seconds(self) -> float:
        """Of all phases, or of the rounds alone where the run has not ended."""
        phases = self.config.get("seconds", {})
        return float(sum(phases.values()) if phases else self.values("seconds_round").sum())


def compare(
    runs: tuple[str, ...], *, metrics: tuple[str, ...] = ("reward",), last: int = 10, out: str = ""
) -> int:
    """Puts runs side by side, with intervals; seeds of one configuration are one column.

    Args:
      runs: run folders, at least one.
      metrics: metrics of metrics.jsonl to tell of.
      last: rounds at the end that the final values are means of, at least 1.
      out: HTML file with the table and all curves overlaid, and beside it the table as JSON; empty
        for neither.
    """
    if not runs or len(set(runs)) < len(runs):
        raise ValueError("compare needs run folders, each once: jaxevo compare RUN RUN ...")
    if last < 1:
        raise ValueError(f"--last is {last}, but must be at least 1.")
    found = [load_run(folder) for folder in runs]
    for metric in metrics:
        if not any(run.values(metric).size for run in found):
            known = sorted({k for r in found for k in r.metrics[-1] if k != "round"})
            raise ValueError(f"no run has a metric {metric!r}; they have {', '.join(known)}.")
    columns = group_runs(found)
    rows = table_rows(list(columns.values()), metrics=metrics, last=last)
    note = (
        f"Final values are means of the last {last} rounds. In brackets 95 %: of several seeds by "
        "Student's t over seeds; of a single run by the bootstrap over its last rounds, which "
        "says nothing of other seeds. Leads are over the first column on the same seeds and held "
        "out problems, by the bootstrap over both. Rollouts are sampled rows, whatever their role; "
        "a round of one recipe may have more of them than one of another."
    )
    print("\n".join(text_table(list(columns), rows)))
    print(note)
    if out:
        page = comparison_page(Path(out).stem, columns, rows, note)
        replace_file(Path(out), page)
        told = {"note": note, "columns": _told(columns), "rows": rows}
        data = Path(out).with_suffix(".json")
        replace_file(data, (json.dumps(told, indent=1) + "\n").encode())
        print(f"written: {out} and {data}")
    return 0


def _told(columns: Mapping[str, Sequence[Logged]]) -> list[dict[str, Any]]:
    """What the runs of each column were, for the JSON."""
    kept = ("recipe", "recipe_repr", "versions", "devices", "evaluation", "by_problem", "seconds")
    return [
        {
            "name": name,
            "runs": [
                {
                    "folder": Path(run.folder).name,
                    "options": {k: v for k, v in run.config.get("options", {}).items()
                                if k not in ("out", "checkpoint_dir")},
                    **{k: run.config[k] for k in kept if k in run.config},
                }
                for run in side
            ],
        }
        for name, side in columns.items()
    ]  # fmt: skip


def load_run(folder: str) -> Logged:
    """What a run folder says.

    Raises:
      FileNotFoundError: where it is none.
    """
    path = Path(folder)
    if not (path / METRICS).is_file():
        raise FileNotFoundError(f"{folder} is no run folder: it has no {METRICS}.")
    return Logged(folder, read_config(path), read_metrics(path))


def group_runs(runs: Sequence[Logged]) -> dict[str, list[Logged]]:
    """Column name -> its runs. Names say the recipe and the options in which columns differ."""
    groups: dict[str, list[Logged]] = {}
    for run in runs:
        # Without a configuration nothing is known to be alike.
        key = _shared(run) if run.config else {"folder": run.folder}
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    sides = list(groups.values())
    options = [side[0].config.get("options", {}) for side in sides]
    differing = [
        key
        for key in dict.fromkeys(key for side in options for key in side)
        if key not in OWN and len({str(side.get(key)) for side in options}) > 1
    ]
    recipes = [side[0].config.get("recipe") for side in sides]
    parts = [_parts(side[0]) for side in sides]
    named: dict[str, list[Logged]] = {}
    for side, own, part, recipe in zip(sides, options, parts, recipes, strict=True):
        said = [f"{key} {own[key]}" for key in differing if key in own]
        alike = [other for other, name in zip(parts, recipes, strict=True) if name == recipe]
        said += [p.replace("=", " ") for p in part if any(p not in other for other in alike)]
        name = ", ".join([str(side[0].config.get("recipe", Path(side[0].folder).name)), *said])
        if len(side) > 1:
            name += f", {len(side)} seeds"
        named[name if name not in named else f"{name} ({side[0].folder})"] = side
    return named


def _parts(run: Logged) -> list[str]:
    """The innermost name=value pairs of a recipe's full text."""
    return list(dict.fromkeys(re.findall(r"\w+=[^\s,()\[\]]+", _shared(run)["recipe"] or "")))


def _shared(run: Logged) -> dict[str, Any]:
    options = {k: v for k, v in run.config.get("options", {}).items() if k not in OWN}
    return {"recipe": run.config.get("recipe_repr", run.config.get("recipe")), "options": options}


# ---------------------------------------------------------------------------- the table
def table_rows(
    columns: Sequence[Sequence[Logged]], *, metrics: Sequence[str], last: int
) -> list[dict[str, Any]]:
    """Rows of {name, cells}, a cell per column, as text."""
    rows = [
        _row("rounds", columns, lambda c: _mean([len(r.metrics) for r in c], "{:,.0f}")),
    ]
    for metric in metrics:
        rows.append(_row(f"{metric}, final", columns, lambda c, m=metric: final_cell(c, m, last)))
        if metric.startswith(BETTER_HIGH):
            name = f"{metric}, best {last} rounds"
            rows.append(_row(name, columns, lambda c, m=metric: best_cell(c, m, last)))
    told = [run.config.get("evaluation", {}) for column in columns for run in column]
    for scorer in dict.fromkeys(s for e in told for side in e.values() for s in side):
        for when in ("before", "after"):
            name = f"held out {scorer}, {when}"
            rows.append(_row(name, columns, lambda c, s=scorer, w=when: held_out_cell(c, s, w)))
    for scorer in dict.fromkeys(s for e in told for s in e.get("after", {})):
        row = _row(
            f"held out {scorer}, lead", columns, lambda c, s=scorer: lead_cell(c, columns[0], s)
        )
        rows += [row] if set(row["cells"]) != {"-"} else []
    rows.append(
        _row("rollouts", columns, lambda c: _mean([_last(r, "rollouts") for r in c], "{:,.0f}"))
    )
    rows.append(_row("tokens", columns, lambda c: _mean([_tokens(r) for r in c], "{:,.0f}")))
    rows.append(_row("seconds", columns, lambda c: _mean([r.seconds() for r in c], "{:,.1f}")))
    return rows


def _row(
    name: str, columns: Sequence[Sequence[Logged]], cell: Callable[[Sequence[Logged]], str]
) -> dict[str, Any]:
    return {"name": name, "cells": [cell(column) for column in columns]}


def final_cell(column: Sequence[Logged], metric: str, last: int) -> str:
    """Mean over the last rounds, with its interval."""
    ends = [run.values(metric)[-last:] for run in column]
    ends = [end for end in ends if end.size]
    if not ends:
        return "-"
    if len(ends) > 1:
        return _interval(mean_interval([[float(end.mean())] for end in ends]))
    return _interval(bootstrap_interval(ends[0]))


def best_cell(column: Sequence[Logged], metric: str, last: int) -> str:
    """Highest mean of so many rounds in a row; of several seeds the mean of theirs."""
    found = []
    for values in (run.values(metric) for run in column):
        if values.size:
            width = min(last, values.size)
            found.append(np.convolve(values, np.full(width, 1.0 / width), "valid").max())
    return _mean(found, "{:.3f}")


def held_out_cell(column: Sequence[Logged], scorer: str, when: str) -> str:
    """Held-out accuracy; of several seeds with an interval."""
    sides = [run.config.get("evaluation", {}).get(when, {}) for run in column]
    found = [[float(side[scorer])] for side in sides if scorer in side]
    if not found:
        return "-"
    return f"{found[0][0]:.3f}" if len(found) == 1 else _interval(mean_interval(found))


def lead_cell(column: Sequence[Logged], first: Sequence[Logged], scorer: str) -> str:
    """Mean lead in held-out score over another column, on seeds and problems that both have."""
    others = {run.config.get("options", {}).get("seed"): run.scores(scorer) for run in first}
    leads = []
    for run in column if column is not first else ():
        own, other = run.scores(scorer), others.get(run.config.get("options", {}).get("seed"))
        if own is not None and other is not None and len(own) == len(other):
            leads.append(own - other)
    if not leads or len({len(lead) for lead in leads}) > 1:
        return "-"
    return _interval(paired_bootstrap(leads))


def _last(run: Logged, metric: str) -> float:
    values = run.values(metric)
    return float(values[-1]) if values.size else 0.0


def _tokens(run: Logged) -> float:
    return float(run.values("tokens").sum())


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(float(np.mean(values))) if len(values) else "-"


def _interval(interval: Interval) -> str:
    digits = 3 if max(map(abs, interval)) >= 1e-2 else 6
    mean, low, high = (f"{x:.{digits}f}" for x in interval)
    return f"{mean} [{low}, {high}]"


def text_table(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table as lines of text, columns aligned."""
    lines = [["", *names], *([row["name"], *row["cells"]] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(names) + 1)]
    return [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        )
        for line in lines
    ]


def comparison_page(
    title: str,
    columns: Mapping[str, Sequence[Logged]],
    rows: Sequence[Mapping[str, Any]],
    note: str,
) -> bytes:
    """The page: the table, and the curves of every run."""
    budget = PAGE_BYTES // 2 // sum(map(len, columns.values()))
    data = {
        "name": title,
        "note": note,
        "table": {
            "groups": [
                {"name": name, "folders": [Path(r.folder).name for r in side]}
                for name, side in columns.items()
            ],
            "rows": list(rows),
        },
        "runs": [
            {
                "name": Path(run.folder).name,
                "hue": hue,
                "metrics": thinned(run.metrics, budget),
            }
            for hue, side in enumerate(columns.values())
            for run in side
        ],
    }
    return render_page(title, data, sections=("table", "curves"), scripts=SCRIPTS)
