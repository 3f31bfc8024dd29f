"""What an evaluation leaves behind, and the paired comparison of two of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxevo.models.tokenizer import Tokenizer
from jaxevo.run.evaluate import Evaluation, statistics
from jaxevo.run.logs import compact_json, read_jsonl, replace_file
from jaxevo.run.statistics import bootstrap_interval, sign_flip_p

ITEMS = "items.jsonl"
LISTED = 20  # uids that a comparison names


def task_table(result: Evaluation, *, k: Sequence[int], seed: int) -> dict[str, Any]:
    """One task's numbers as JSON values: sizes, lengths, and by scorer [mean, low, high] each."""
    lengths = [row.sampled_tokens for row in result.rows]
    cut = [row.info.get("finish") == "length" for row in result.rows]
    return {
        "problems": len(result.texts),
        "samples": len(result.texts[0]),
        "mean_length": round(float(np.mean(lengths)), 2),
        "unfinished_share": round(float(np.mean(cut)), 5),
        "scorers": {
            name: {what: [round(x, 5) for x in interval] for what, interval in row.items()}
            for name, row in statistics(result, k=k, seed=seed).items()
        },
    }


def table_lines(task: str, table: Mapping[str, Any]) -> list[str]:
    """One task's numbers as text."""
    head = (
        f"{task}: {table['problems']} problems x {table['samples']} answers, "
        f"mean length {table['mean_length']:.1f}, unfinished {table['unfinished_share']:.3f}"
    )
    lines = [
        f"  {scorer:<16} {what:<9} {mean:.3f}  [{low:.3f}, {high:.3f}]"
        for scorer, row in table["scorers"].items()
        for what, (mean, low, high) in row.items()
    ]
    parts = [
        f"  {line}"
        for part, own in table.get("parts", {}).items()
        for line in table_lines(part, own)
    ]
    return [head, *lines, *parts]


def item_records(task: str, result: Evaluation, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """One record per problem and sample, in the order of problems."""
    samples = len(result.texts[0])
    return [
        {
            "task": task,
            "uid": row.task.uid,
            "sample": n % samples,
            "prompt": tokenizer.decode(row.prompt_ids.tolist()),
            "expected": row.task.answer,
            "answer": result.texts[n // samples][n % samples],
            "finish": row.info.get("finish"),
            "tokens": row.sampled_tokens,
            "scores": {name: float(v.score) for name, v in row.info["verdicts"].items()},
        }
        for n, row in enumerate(result.rows)
    ]


def write_eval(folder: Path, result: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> Path:
    """Writes eval.json and items.jsonl, each whole or not at all; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(compact_json(item) + "\n" for item in items)
    replace_file(folder / ITEMS, lines.encode(errors="backslashreplace"))
    text = json.dumps(result, indent=1, allow_nan=False) + "\n"
    replace_file(folder / "eval.json", text.encode())
    return folder


def read_items(folder: str) -> list[dict[str, Any]]:
    """The items of an evaluation's folder.

    Raises:
      FileNotFoundError: where there are none.
    """
    path = Path(folder) / ITEMS
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is no evaluation's folder: it has no {ITEMS}. Make one with jaxevo eval "
            "... --out FOLDER."
        )
    return read_jsonl(path)


# ---------------------------------------------------------------------------- two evaluations
def compare_items(
    ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """The paired comparison of two evaluations over the problems that both have.

    Of each task and scorer: `difference` (mean over problems of our mean score minus theirs, with
    the bootstrap's ends), `p` of random signs, and the problems that only one of the two gets
    right, which is in more than half of its answers.

    Raises:
      ValueError: without a common problem, or where a common problem has two right answers.
    """
    mine, other = _by_problem(ours), _by_problem(theirs)
    common = [key for key in mine if key in other]
    if not common:
        raise ValueError("the two evaluations have no problem in common; evaluate the same tasks.")
    for task, uid in common:
        said = {side[task, uid][0]["expected"] for side in (mine, other)}
        if len(said) > 1:
            raise ValueError(
                f"problem {uid} of task {task} has the answers {' and '.join(sorted(said))}; "
                "compare evaluations of the same data."
            )
    prompts = sum(mine[key][0]["prompt"] != other[key][0]["prompt"] for key in common)
    found: dict[str, Any] = {
        "common": len(common),
        "only_ours": len(mine) - len(common),
        "only_theirs": len(other) - len(common),
        "other_prompts": prompts,
        "tasks": {},
    }
    for task in dict.fromkeys(task for task, _ in common):
        keys = [key for key in common if key[0] == task]
        names = [n for n in mine[keys[0]][0]["scores"] if n in other[keys[0]][0]["scores"]]
        found["tasks"][task] = {
            name: _paired(_scores(mine, keys, name), _scores(other, keys, name), keys, seed)
            for name in names
        }
    return found


def _by_problem(
    items: Sequence[Mapping[str, Any]],
) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    problems: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in items:
        problems.setdefault((item["task"], item["uid"]), []).append(item)
    return problems


def _scores(
    problems: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    keys: Sequence[tuple[str, str]],
    name: str,
) -> list[np.ndarray]:
    return [np.array([item["scores"][name] for item in problems[key]]) for key in keys]


def _paired(
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    keys: Sequence[tuple[str, str]],
    seed: int,
) -> dict[str, Any]:
    mine_P, other_P = (np.array([s.mean() for s in side]) for side in (ours, theirs))
    right, wrong = (np.array([np.mean(s >= 1.0) > 0.5 for s in side]) for side in (ours, theirs))
    interval = bootstrap_interval(mine_P - other_P, seed=seed)
    only = {
        "only_ours_right": [key[1] for key, a, b in zip(keys, right, wrong, strict=True) if a > b],
        "only_theirs_right": [
            key[1] for key, a, b in zip(keys, right, wrong, strict=True) if b > a
        ],
    }
    return {
        "problems": len(keys),
        "means": [round(float(mine_P.mean()), 5), round(float(other_P.mean()), 5)],
        "difference": [round(x, 5) for x in interval],
        "p": round(sign_flip_p(mine_P - other_P, seed=seed), 5),
        **only,
    }


def comparison_lines(compared: Mapping[str, Any], folder: str) -> list[str]:
    """A comparison as text."""
    lines = [f"against {folder}, over {compared['common']} common problems:"]
    if compared["only_ours"] or compared["only_theirs"]:
        lines.append(
            f"  the problems differ: {compared['only_ours']} are only here, "
            f"{compared['only_theirs']} only there; they are left out"
        )
    if compared["other_prompts"]:
        lines.append(f"  {compared['other_prompts']} of them have another prompt text")
    for task, scorers in compared["tasks"].items():
        for name, row in scorers.items():
            mean, low, high = row["difference"]
            lines.append(
                f"  {task} {name:<16} {row['means'][1]:.3f} -> {row['means'][0]:.3f}: {mean:+.3f}"
                f"  [{low:+.3f}, {high:+.3f}]  p {row['p']:.4f}"
            )
            for key, whose in (("only_ours_right", "here"), ("only_theirs_right", "there")):
                shown = ", ".join(row[key][:LISTED]) + (", ..." if len(row[key]) > LISTED else "")
                lines.append(f"    right only {whose}: {len(row[key])}  {shown}".rstrip())
    return lines
