"""The README's tables, each from the code or a committed result: `python -m experiments.tables`.

Rewrites what stands between `<!-- name -->` and `<!-- /name -->`.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from jaxevo.provenance import ROOT
from jaxevo.run.commands import recipe_table, verifier_table
from jaxevo.run.tasks import task_table

README = ROOT / "README.md"
PARITY = ROOT / "tests" / "parity"
EVALUATIONS = ROOT / "experiments" / "eval"
KERNELS = ROOT / "experiments" / "bench" / "results" / "kernels.json"


def families() -> str:
    """Logits of every family against transformers, from `families.json`."""
    by_variant: dict[str, dict[str, float]] = {}
    for test, found in json.loads((PARITY / "families.json").read_text())["tests"].items():
        if (figures := found.get("figures")) and (variant := re.search(r"\[(.*)\]$", test)):
            largest = by_variant.setdefault(variant.group(1), {})
            for name, value in figures.items():
                largest[name] = max(value, largest.get(name, 0.0))
    lines = [
        f"| {variant} | {found['largest_difference']:.0e} | {found['median_error']:.1%} |"
        for variant, found in by_variant.items()
    ]
    head = "| family | float32, largest difference | bfloat16, median error |\n|---|---|---|"
    return "\n".join([head, *lines])


def losses() -> str:
    """Losses and their gradients against TRL's own code, from `losses.json`."""
    tests = json.loads((PARITY / "losses.json").read_text())["tests"].values()
    compared = [found["figures"] for found in tests if "figures" in found]
    (versions,) = {figures["versions"] for figures in compared}
    lines = [
        f"| {found['loss']} | `{found['trl']}` | {found['largest_difference']:.0e} "
        f"| {found['largest_gradient_difference']:.0e} |"
        for found in compared
    ]
    head = f"| loss | TRL {versions.split()[0]} | value, difference | gradient, largest |"
    return "\n".join([head, "|---|---|---|---|", *lines])


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
    return "\n".join([head, "|---|---|---|---|---|---|", *lines])


def kernels() -> str:
    """The kernels' figures, from their bench."""
    from jaxevo.kernels.bench import table

    return table(json.loads(KERNELS.read_text()))


TABLES: Mapping[str, Callable[[], str]] = {
    "recipes": recipe_table,
    "families": families,
    "tasks": task_table,
    "losses": losses,
    "baselines": baselines,
    "kernels": kernels,
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
