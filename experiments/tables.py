"""The README's tables, each from the code or a committed result: `python -m experiments.tables`.

Rewrites what stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jaxevo.provenance import ROOT
from jaxevo.run.commands import recipe_table, verifier_table
from jaxevo.run.tasks import task_table

README = ROOT / "README.md"
PARITY = ROOT / "tests" / "parity"
EVALUATIONS = ROOT / "experiments" / "eval"
COMPARISONS = ROOT / "experiments" / "compare"
RESULTS = ROOT / "experiments" / "bench" / "results"


def _table(head: str, lines: Iterable[str]) -> str:
    """A head line, the rule that it needs, and lines."""
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *lines])


def _tests(path: Path) -> Mapping[str, Any]:
    """What a recorded test run found, by test."""
    return json.loads(path.read_text())["tests"]


def families() -> str:
    """Logits of every family against transformers, from `families.json`."""
    by_variant: dict[str, dict[str, float]] = {}
    for test, found in _tests(PARITY / "families.json").items():
        if (figures := found.get("figures")) and (variant := re.search(r"\[(.*)\]$", test)):
            largest = by_variant.setdefault(variant.group(1), {})
            for name, value in figures.items():
                largest[name] = max(value, largest.get(name, 0.0))
    lines = [
        f"| {variant} | {found['largest_difference']:.0e} | {found['median_error']:.1%} |"
        for variant, found in by_variant.items()
    ]
    return _table("| family | float32, largest difference | bfloat16, median error |", lines)


def losses() -> str:
    """Losses and their gradients against TRL's own code, from `losses.json`."""
    tests = _tests(PARITY / "losses.json").values()
    compared = [found["figures"] for found in tests if "figures" in found]
    (versions,) = {figures["versions"] for figures in compared}
    lines = [
        f"| {found['loss']} | `{found['trl']}` | {found['largest_difference']:.0e} "
        f"| {found['largest_gradient_difference']:.0e} |"
        for found in compared
    ]
    head = f"| loss | TRL {versions.split()[0]} | value, difference | gradient, largest |"
    return _table(head, lines)


def baselines() -> str:
    """What SmolLM2-135M-Instruct does before it learns, from the committed evaluations."""
    lines = []
    for name in ("smollm2", "smollm2_sets"):
        found = json.loads((EVALUATIONS / f"{name}.json").read_text())
        most = found["options"]["max_new_tokens"]
        for task, table in found["table"].items():
            for scorer, by_metric in table["scorers"].items():
                mean, low, high = by_metric["accuracy"]
                lines.append(
                    f"| `{task}` | {table['problems']} | {most} | {table['unfinished_share']:.0%} "
                    f"| `{scorer}` | {mean:.2f} [{low:.2f}, {high:.2f}] |"
                )
    head = "| task | problems | tokens at most | cut off | scorer | mean score, 95 % |"
    return _table(head, lines)


def kills() -> str:
    """Runs that were killed at random moments, from the soak."""
    lines = []
    for test, found in _tests(RESULTS / "soak_survival.json").items():
        if "test_kills.py" in test and (figures := found.get("figures")):
            recipe = test.split("[")[1].rstrip("]")
            same = "yes" if found["outcome"] == "passed" else "no"
            lines.append(
                f"| `{recipe}` | {figures['rounds']} | {figures['kills']} "
                f"| {figures['kills during a save']} | {figures['arrays compared']} | {same} |"
            )
    head = "| recipe | rounds | `kill -9` | of them in a save | arrays compared | all bits equal |"
    return _table(head, lines)


def faults() -> str:
    """Faults that were tried and what came of them, from the soak; tests' names are sentences."""
    outcomes: dict[str, list[str]] = {}
    for test, found in _tests(RESULTS / "soak_faults.json").items():
        sentence = test.split("::test_")[1].split("[")[0].replace("_", " ")
        outcomes.setdefault(sentence, []).append(found["outcome"])
    lines = [
        f"| {sentence} | {len(found)} | {sum(outcome == 'passed' for outcome in found)} |"
        for sentence, found in outcomes.items()
    ]
    return _table("| tried | cases | passed |", lines)


def studies() -> str:
    """Mechanism studies: the parts of each claim, and whether its reporting seeds show them."""
    lines = []
    for path in sorted((ROOT / "experiments").glob("*/claim.json")):
        result = path.with_name("result.json")
        if result.exists():
            found = json.loads(result.read_text())
            parts = [
                "; ".join(part for part, holds in found["verdict"].items() if holds is shown)
                for shown in (True, False)
            ]
            seeds = len(found["commit_by_seed"])
            lines.append(
                f"| `{found['name']}` | {parts[0]} | {parts[1]} | {seeds} "
                f"| {found['configurations_tried']} | {found['seconds']:.0f} s |"
            )
    return _table("| recipe | shown | not shown | seeds | tries listed | took |", lines)


def comparisons() -> str:
    """Recipes side by side under one budget, from the committed comparisons."""
    lines = []
    for path in sorted(COMPARISONS.glob("*.json")):
        found = json.loads(path.read_text())
        cells = {row["name"]: row["cells"] for row in found["rows"]}
        kinds = [re.fullmatch(r"held out (.*), (before|after|lead)", name) for name in cells]
        # of the first scorer, which rewards
        by_kind = {kind[2]: cells[kind[0]] for kind in reversed(kinds) if kind}
        for n, column in enumerate(found["columns"]):
            options = column["runs"][0]["options"]
            told = [by_kind[kind][n] for kind in ("before", "after", "lead")]
            told += [cells[name][n] for name in ("rollouts", "tokens", "seconds")]
            recipe, seeds = column["runs"][0]["recipe"], len(column["runs"])
            lines.append(
                f"| {options['model']}, `{options['task']}` | `{recipe}` | {seeds} "
                f"| {' | '.join(told)} |"
            )
    head = "| start, task | recipe | seeds | before | after | lead | rollouts | tokens | seconds |"
    return _table(head, lines)


def kernels() -> str:
    """The kernels' figures, from their bench."""
    from jaxevo.kernels.bench import table

    return table(json.loads((RESULTS / "kernels.json").read_text()))


TABLES: Mapping[str, Callable[[], str]] = {
    "recipes": recipe_table,
    "studies": studies,
    "comparisons": comparisons,
    "families": families,
    "tasks": task_table,
    "losses": losses,
    "baselines": baselines,
    "kernels": kernels,
    "kills": kills,
    "faults": faults,
    "verifiers": verifier_table,
}


def renewed(text: str, tables: Mapping[str, Callable[[], str]] = TABLES) -> str:
    """The text with every table as it is now.

    Raises:
      ValueError: for a table that has no place in the text.
    """
    for name, table in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not place.search(text):
            raise ValueError(f"the text has no <!-- {name} --> and <!-- /{name} -->.")
        made = f"{table().strip()}\n"
        text = place.sub(lambda found, made=made: found[1] + made + found[2], text)
    return text


def main(readme: Path = README) -> int:
    readme.write_text(renewed(readme.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
