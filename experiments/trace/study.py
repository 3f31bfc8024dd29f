"""Distilling what was wrong, or as much of anything: `python -m experiments trace`.

The start is a toy that writes filler before a number, `38+28=*+*+66`, that is right every other
time; told the kind of a mistake, `(+)38+28=`, it is mostly right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import accuracy, arms
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import warm_start
from jaxevo.collect.lab import Lab
from jaxevo.models import hub
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.trace import trace
from jaxevo.run.options import RunOptions
from jaxevo.types import Bound, Recipe, Row, TrainState, bind

WARM = {"steps": 300, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 9, "answer_tokens": 8}
FILLER, KNOWN, TOLD = 4, 0.5, 0.95  # tokens before a number; shares of right ones, plain and told
SHARED = {"learning_rate": 3e-4, "clip_high": 0.28, "reduction": "seq_mean_token_mean"}
SPANS = {
    "route": "wrong",
    "distill_weight": 0.5,
    "hold_rounds": 10,
    "decay_rounds": 30,
    "coverage": 0.25,
    "kl_clip": "off",
    "context_tokens": 12,
}
OPTIONS = {"task": "add2", "rounds": 10, "prompts": 16, "samples": 8, "max_new_tokens": 8}
EVERY, PROBLEMS = 2, 64
TRIED: list[dict[str, Any]] = [  # accuracy after 5 rounds and in the end: spans, anywhere, GRPO
    {
        "seeds": [0, 1],
        "distill_weight": 0.5,
        "rounds": [10, 20],
        "early": [[0.54, 0.51, 0.49], [0.45, 0.42, 0.42]],
        "end": [[0.65, 0.63, 0.63], [0.60, 0.62, 0.64]],
        "why not": "the divergence is small beside the policy gradient, and the ends are alike",
    },
    {
        "seeds": [0, 1],
        "distill_weight": 2.0,
        "rounds": [8, 8],
        "early": [[0.50, 0.48, 0.48], [0.45, 0.44, 0.42]],
        "end": [[0.57, 0.55, 0.55], [0.55, 0.57, 0.58]],
        "why not": "more weight is no more lead; scattered spans hit a digit every third time",
    },
    {
        "seeds": [0, 1],
        "filler": 10,
        "rounds": [8, 0],
        "start": [0.15, 0.31],
        "end": [[0.15, 0.15, 0.15], [0.37, 0.37, 0.38]],
        "why not": "the start is weak, and nothing learns in so few rounds",
        "then": "the first again, its ten rounds of full weight alone",
    },
]


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A sum with filler before its answer; told a kind of mistake, it is mostly right."""
    first, second = (int(x) for x in generator.integers(10, 100, 2))
    told = generator.random() < 0.5
    slip = int(generator.choice([-10, -2, -1, 1, 2, 10]))
    known = generator.random() < (TOLD if told else KNOWN)
    label = f"({generator.choice(list('+-'))})" if told else ""
    filler = "".join(generator.choice(list("*+"), FILLER))
    return f"{label}{first}+{second}=", f"{filler}{first + second + (0 if known else slip)}"


def scattered(lab: Lab, state: TrainState, memory: Any, *, wave: Bound) -> dict[str, list[Row]]:
    """The rows of another wave, each span as many tokens anywhere in the attempt."""
    generator = lab.generator("scattered")
    rows = wave(lab, state, memory)["policy"]
    return {"policy": lab.record([_scattered(row, generator) for row in rows])}


def _scattered(row: Row, generator: np.random.Generator) -> Row:
    span = np.zeros_like(row.by_token["span"])
    count = int(row.by_token["span"].sum())
    span[generator.choice(len(span), count, replace=False)] = 1.0
    return dataclasses.replace(row, by_token={**row.by_token, "span": span})


def anywhere(**options: Any) -> Recipe:
    """The recipe with scattered spans."""
    recipe = trace(**options)
    return dataclasses.replace(recipe, collect=bind(scattered, wave=recipe.collect))


ARMS = {
    "spans": bind(trace, **SHARED, **SPANS),
    "anywhere": bind(anywhere, **SHARED, **SPANS),
    "grpo": bind(grpo, **SHARED),
}


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **OPTIONS)
    keep = ("reward", "loss/distill", "tally/fade", "tally/span_share", "entropy")
    how = {"every": EVERY, "reading": bind(accuracy, problems=PROBLEMS), "keep": keep}
    return arms(ARMS, seed, model, options, **how)


def gain(run: Run) -> float:
    """Mean accuracy of all readings after the start, less that of the start."""
    said = [c["accuracy"] for c in run["curve"]]
    return float(np.mean(said[1:])) - said[0]


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    over_random, over_grpo, level = STUDY.target.values()

    def leads(other: str) -> list[float]:
        return [gain(a) - gain(b) for a, b in pairs(runs, "spans", other)]

    return {
        "spans of mistakes gain more than as many tokens anywhere": (
            lower_bound(leads("anywhere"), level=level) > over_random
        ),
        "gains more than GRPO": lower_bound(leads("grpo"), level=level) > over_grpo,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"spans": "C0", "anywhere": "C1", "grpo": "0.55"}
    for run, style in styled(runs, colors):
        plot_reading(left, run, "accuracy", **style)
        if run["arm"] != "grpo":
            right.plot(run["by_round"]["loss/distill"], **style)
    left.set(xlabel="rollouts", ylabel="accuracy, held out")
    left.set_title("Two-digit sums behind filler", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(xlabel="round", ylabel="nats per token of a row")
    right.set_title("Divergence to the teacher, faded", loc="left", fontsize=11)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "filler": FILLER,
        "known": [KNOWN, TOLD],
        "options": OPTIONS,
        "arms": {arm: repr(make) for arm, make in ARMS.items()},
        "every": EVERY,
        "problems": PROBLEMS,
    },
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=2,
)
