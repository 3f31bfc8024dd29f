"""`jaxevo compare RECIPE RECIPE ... --budget N`: recipes under the same seeds and rollouts.

Each run is a process and a folder of its own, made by the command that is printed before it. What
has been done is not done again: the same command continues where it was broken off, and compares
runs that are there.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import subprocess
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxevo.recipes import recipe_factory, recipe_names
from jaxevo.run.arguments import options_class, parse
from jaxevo.run.compare import Logged, compare, load_run
from jaxevo.run.options import RunOptions

SAID_OTHERWISE = ("out", "seed", "rounds", "max_rollouts", "log")
_SPEC = re.compile(r"([a-z0-9-]+)(?::(.+))?")


def shared_options() -> type:
    """The options that all runs of a comparison share, as a dataclass."""
    types = typing.get_type_hints(RunOptions)
    kept = [f for f in dataclasses.fields(RunOptions) if f.name not in SAID_OTHERWISE]
    own = [
        (f.name, types[f.name], dataclasses.field(default=f.default, metadata=f.metadata))
        for f in kept
    ]
    return dataclasses.make_dataclass("SharedOptions", own)


def compare_recipes(
    recipes: tuple[str, ...],
    *,
    budget: int = 0,
    seeds: tuple[int, ...] = (0, 1, 2),
    folder: str = "runs/compare",
    metrics: tuple[str, ...] = ("reward",),
    last: int = 10,
    out: str = "",
    each: str = "",
    **shared: Any,
) -> int:
    """Trains every recipe on every seed until so many rows are sampled, and puts them side by side.

    A round is done as a whole, so that a run may sample more than the budget, by less than a round;
    the table says how many it did.

    Args:
      recipes: names, with options after a colon: sdpo:kind=forward,context-tokens=64. Leads are
        over the first.
      budget: rows that a run samples, whatever their role: drafts, hints and critiques count.
      seeds: each recipe has a run of each.
      folder: where the runs' folders are.
      metrics: metrics of metrics.jsonl to tell of.
      last: rounds at the end that the final values are means of, at least 1.
      out: HTML file with the table and all curves overlaid, and beside it the table as JSON; empty
        for neither.
      each: options of every recipe, written as after a colon.
      shared: the `RunOptions` of all runs, by name.

    Raises:
      ValueError: for an unknown recipe or option of one, a recipe that is named twice, no seed, or
        a budget below 1. Nothing has been trained then.
    """
    if budget < 1 or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"compare needs a budget of at least 1 and seeds, each once; it has {budget} and "
            f"{list(seeds)}."
        )
    if not recipes or len(set(recipes)) < len(recipes):
        raise ValueError(f"compare needs recipes, each once: {', '.join(recipe_names())}.")
    commands = {
        place(folder, shared["task"], recipe, seed): command(recipe, each, seed, budget, shared)
        for recipe in recipes
        for seed in seeds
    }
    for out_folder, args in commands.items():
        args += ["--out", out_folder]
        print(f"jaxevo {shlex.join(args)}", flush=True)
        done = subprocess.run([sys.executable, "-m", "jaxevo.run.cli", *args])
        if done.returncode != 0:
            print(f"jaxevo: that run ended with status {done.returncode}.", file=sys.stderr)
            return 1
        if left := rollouts_left(load_run(out_folder), budget):
            said = f"that run was ended {left} rollouts before its budget; the same command"
            print(f"jaxevo: {said} goes on with it.", file=sys.stderr)
            return 1
    return compare(tuple(commands), metrics=metrics, last=last, out=out)


def rollouts_left(run: Logged, budget: int) -> int:
    """How many rows a run that somebody ended would still have sampled; 0 for one that is done.

    A recipe that samples nothing is done after as many rounds.
    """
    sampled = run.values("rollouts")
    done = int(sampled[-1]) if sampled.size else 0
    return 0 if len(run.metrics) >= budget else max(0, budget - done)


def place(folder: str, task: str, recipe: str, seed: int) -> str:
    """The run folder of a recipe, its options and a seed."""
    parts = (re.sub(r"[^\w.=-]+", "-", part).strip("-") for part in (task, recipe, str(seed)))
    return str(Path(folder) / "-".join(parts))


def command(recipe: str, each: str, seed: int, budget: int, shared: Mapping[str, Any]) -> list[str]:
    """The arguments of the run of a recipe, `--out` aside.

    Raises:
      ValueError: for a recipe that cannot be read, or is none.
      UsageError: for an option that it does not have.
    """
    match = _SPEC.fullmatch(recipe)
    if match is None:
        raise ValueError(
            f"{recipe!r} is no recipe. Write NAME or NAME:option=value,option=value, NAME one of "
            f"{', '.join(recipe_names())}."
        )
    name, said = match.groups()
    factory, own = recipe_factory(name), list[str]()
    for pair in (pair for part in (each, said) if part for pair in part.split(",")):
        option, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"{recipe!r}: {pair!r} is not option=value.")
        own += [f"--{option.replace('_', '-')}", *value.split()]
    parse(options_class(factory), own, prog=recipe, description="")
    until = ["--rounds", str(budget), "--max-rollouts", str(budget)]
    return ["train", name, *own, *_flags(shared), "--seed", str(seed), *until]


def _flags(shared: Mapping[str, Any]) -> list[str]:
    """The options that are not as by default."""
    flags: list[str] = []
    for field in dataclasses.fields(RunOptions):
        value = shared.get(field.name, field.default)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return flags
