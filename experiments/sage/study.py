"""Hints of one's own where every attempt fails: `python -m experiments sage`.

The start is a toy that has been taught a wrong rule for two-digit sums, each one too high, is half
as sure of it behind a hint such as `6?38+28=`, and goes on following a solution that it is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.hopeless import HOPELESS, equal_rounds, hopeless, wrong_sum
from experiments.learning import accuracy, learn
from experiments.study import Run, claimed, gain, pairs, plot_reading, styled
from experiments.warm_start import warm_start
from jaxevo.models import hub, toy
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sage import sage
from jaxevo.run.options import RunOptions
from jaxevo.tasks.hints import PLAIN_SHOWN, read_hints
from jaxevo.types import bind

WARM = {"steps": 500, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 26, "answer_tokens": 4}
RATE, TRUE = 3e-4, 0.5  # learning rate; share of right answers behind a hint in what was seen
SHARED = {"learning_rate": RATE, "clip_high": 0.28}
ARMS = {
    "sage": bind(sage, context_tokens=12, writer_tokens=12, minibatches=1, **SHARED),
    "grpo": bind(grpo, **SHARED),
}
OPTIONS = {
    "task": "add2",
    "prompts": 16,
    "samples": 4,
    "max_new_tokens": 4,
    "temperature": 0.7,
}
ROUNDS, EVERY, PROBLEMS = 24, 2, 128
KEEP = (
    "reward", "zero_variance_share", "grad_norm", "tally/hinted", "tally/hint_level",
    "tally/right_0", "tally/right_1", "tally/right_2", "tally/right_3", "tally/hint_reveals",
)  # fmt: skip
TRIED: list[dict[str, Any]] = [
    {
        "seed": 0,
        "start": "300 steps",
        "problems": 30,
        "accuracy": [0.02, 0.33],
        "grpo": [0.02, 0.02],
        "hinted": [0.52, 0.0],
        "why not": "few problems are hopeless to a start that is not sure of its rule",
    },
    {
        "seed": 0,
        "start": "500 steps",
        "problems": 110,
        "accuracy": [0.00, 0.55],
        "grpo": [0.00, 0.00],
        "hinted": [0.78, 0.05],
    },
]


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A line that answers what its context says, a sum by the wrong rule, or one behind a hint."""
    kind = generator.random()
    if kind < 1 / 3:
        return toy.told_line(generator, 0.95)
    question, wrong = wrong_sum(generator)
    if kind < 2 / 3:
        return question, wrong
    truth = str(int(wrong) - 1)
    hints = read_hints(truth, chat=False) or ()
    hint = hints[int(generator.integers(len(hints)))]
    answer = truth if generator.random() < TRUE else wrong
    return PLAIN_SHOWN.format(question=question, hint=hint), answer


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    source, problems = hopeless(model, seed)
    reading, runs, rounds = bind(accuracy, problems=PROBLEMS), [], ROUNDS
    for arm, make in ARMS.items():
        options = RunOptions(model="toy", seed=seed, eval_problems=0, rounds=rounds, **OPTIONS)
        every = EVERY * rounds // ROUNDS
        found = learn(
            make(), model, options, every=every, reading=reading, keep=KEEP, source=source
        )
        runs.append({"arm": arm, "seed": seed, "problems": problems, **found})
        spent = found["curve"][-1]["rollouts"]
        rounds = math.ceil(spent / (OPTIONS["prompts"] * OPTIONS["samples"]))
    return runs


def quarters(run: Run) -> tuple[float, float]:
    """Share of problems learnt with a hint, in the first and the last quarter of the rounds."""
    shares, count = run["by_round"]["tally/hinted"], ROUNDS // 4
    return float(np.mean(shares[:count])), float(np.mean(shares[-count:]))


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    least, most, norm, share, falling = STUDY.target.values()
    both = pairs(runs, "sage", "grpo")
    still = [x for _, plain in both for x in equal_rounds(plain)]
    taught = [float(np.mean(np.array(own["by_round"]["grad_norm"]) > 0)) for own, _ in both]
    hinted = [quarters(own) for own, _ in both]
    return {
        "sage learns to answer without hints": all(gain(own) >= least for own, _ in both),
        "grpo stands still": all(gain(plain) <= most for _, plain in both),
        "grpo has no gradient where rewards are equal": bool(still) and max(still) <= norm,
        "sage has one in nearly every round": all(x >= share for x in taught),
        "fewer problems need a hint in the end": all(b < falling * a for a, b in hinted),
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"sage": "C0", "grpo": "0.55"}
    for run, style in styled(runs, colors, {"sage": "SAGE", "grpo": "GRPO"}):
        plot_reading(left, run, "accuracy", **style)
        if run["arm"] == "sage":
            right.plot(np.arange(1, ROUNDS + 1), run["by_round"]["tally/hinted"], **style)
    left.set(xlabel="rollouts", ylabel="accuracy without hints, held out", ylim=(0, 1))
    left.set_title("Two-digit sums, from a wrong rule", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(xlabel="round", ylabel="share of problems", ylim=(0, 1.03))
    right.set_title("Learnt with a hint", loc="left", fontsize=11)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "true_behind_a_hint": TRUE,
        "hopeless": HOPELESS,
        "options": OPTIONS,
        "rounds": ROUNDS,
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
