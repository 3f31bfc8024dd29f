"""Revision first, then distillation from the reviser: `python -m experiments sd-zero`.

The start is a toy that has seen the form of a revision, `38+28=55?66`, but not what it is for: its
revisions are as often right as its attempts, whatever the phrase says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import eval_lab, learn
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import said, warm_start
from jaxevo.collect.revise import revised
from jaxevo.models import hub
from jaxevo.recipes.sd_zero import sd_zero
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.teachers.contexts import PLAIN_PHRASES
from jaxevo.types import TrainState, bind

WARM = {"steps": 200, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 12, "answer_tokens": 4}
KNOWN = 0.5  # share of right attempts and revisions in what the start has seen
FIRST, SECOND, COPIES = 16, 16, 3  # rounds of the stages, revisions of an attempt
SHARED = {
    "revisions_each": COPIES,
    "most": 4 * COPIES,
    "revision_learning_rate": 3e-4,
    "revision_epochs": 1,
    "learning_rate": 1e-4,
    "warmup_updates": 0,
    "context_tokens": 16,
    "distill_top_k": None,
}
ARMS = {
    "sd-zero": bind(sd_zero, revision_rounds=FIRST, **SHARED),
    "no revision": bind(sd_zero, revision_rounds=0, **SHARED),
}
ROUNDS = {"sd-zero": FIRST + SECOND, "no revision": FIRST * (1 + COPIES) + SECOND}
OPTIONS = {"task": "add2", "prompts": 32, "samples": 4, "max_new_tokens": 4}
EVERY, PROBLEMS = 16, 64
TRIED: list[dict[str, Any]] = [  # accuracy at the start, after the first stage, in the end; alone
    {
        "seed": 0,
        "start": "the toy",
        "prompts": 16,
        "learning_rates": 5e-4,
        "epochs": 3,
        "rounds": [8, 24],
        "sd-zero": [0.38, 0.38, 0.0],
        "no revision": [0.38, 0.0],
        "why not": "no revision is ever right: nothing is learnt, and the teacher knows no phrase",
    },
    {
        "seed": 0,
        "start": "has seen the form of revisions",
        "prompts": 16,
        "learning_rates": 5e-4,
        "epochs": 3,
        "rounds": [8, 24],
        "sd-zero": [0.29, 0.29, 0.16],
        "no revision": [0.29, 0.18],
        "why not": "thirty revisions, seen three times, are learnt by heart",
    },
    {
        "seed": 0,
        "prompts": 32,
        "learning_rates": [3e-4, 1e-4],
        "epochs": 1,
        "rounds": [10, 20],
        "sd-zero": [0.29, 0.33, 0.33],
        "no revision": [0.29, 0.22],
    },
    {
        "seed": 0,
        "prompts": 64,
        "learning_rates": [2e-4, 1e-4],
        "epochs": 1,
        "right_share": 0.7,
        "rounds": [10, 20],
        "sd-zero": [0.29, 0.32, 0.27],
        "no revision": [0.29, 0.22],
    },
    {
        "seeds": [0, 1],
        "prompts": 32,
        "learning_rates": [3e-4, 1e-4],
        "epochs": 1,
        "rounds": [16, 16],
        "sd-zero": [[0.29, 0.37, 0.39], [0.32, 0.38, 0.44]],
        "no revision": [[0.29, 0.20], [0.32, 0.27]],
    },
]


def revising(run: build.Run, state: TrainState, *, problems: int) -> Mapping[str, float]:
    """How often attempts, revisions, and revisions of wrong attempts are right, held out."""
    lab = eval_lab(run, state)
    drafts = lab.attempt([run.bench.source.held_out(n) for n in range(problems)])
    tallies = [row.info["tally"] for row in revised(lab, drafts, copies=1)]
    before, after = (
        np.array([tally[name] for tally in tallies]) for name in ("attempt_right", "revision_right")
    )
    return {
        "accuracy": float(before.mean()),
        "revision_accuracy": float(after.mean()),
        "corrected": float(after[before == 0].mean()) if (before == 0).any() else 1.0,
    }


def example(generator: np.random.Generator) -> tuple[str, str]:
    """An answer, or the revision of one that tells nothing of it."""
    first, second = (int(x) for x in generator.integers(10, 100, 2))
    question, truth = f"{first}+{second}=", first + second
    attempt, revision = (said(truth, generator, known=KNOWN) for _ in range(2))
    if generator.random() < 0.5:
        return question, str(attempt)
    phrase = PLAIN_PHRASES.right if attempt == truth else PLAIN_PHRASES.wrong
    return f"{question}{attempt}{phrase}", str(revision)


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    reading = bind(revising, problems=PROBLEMS)
    runs = []
    for arm, make in ARMS.items():
        sizes = {"rounds": ROUNDS[arm], **OPTIONS}
        options = RunOptions(model="toy", seed=seed, eval_problems=0, **sizes)
        runs.append(
            {
                "arm": arm,
                "seed": seed,
                **learn(make(), model, options, every=EVERY, reading=reading),
            }
        )
    return runs


def at(run: Run, index: int) -> Mapping[str, float]:
    """The reading after so many rounds; -1 for the last."""
    return run["curve"][-1] if index < 0 else next(c for c in run["curve"] if c["round"] == index)


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    corrected, lead, level = STUDY.target.values()
    both = pairs(runs, "sd-zero", "no revision")
    better = [at(own, FIRST)["corrected"] - at(own, 0)["corrected"] for own, _ in both]
    second = [at(own, -1)["accuracy"] - at(own, FIRST)["accuracy"] for own, _ in both]
    alone = [at(other, -1)["accuracy"] - at(other, 0)["accuracy"] for _, other in both]
    leads = [a - b for a, b in zip(second, alone, strict=True)]
    return {
        "the first stage teaches to correct": lower_bound(better, level=level) > corrected,
        "the second gains more than distillation alone": lower_bound(leads, level=level) > lead,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"sd-zero": "C0", "no revision": "0.55"}
    for run, style in styled(runs, colors):
        plot_reading(left, run, "accuracy", **style)
        plot_reading(right, run, "corrected", **style)
    for one in axes:
        one.axvline(at(runs[0], FIRST)["rollouts"], color="0.8", linewidth=0.8)
        one.set(xlabel="rollouts")
    left.set(ylabel="accuracy, held out")
    left.set_title("Attempts (line: end of the first stage)", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(ylabel="share of wrong attempts")
    right.set_title("Corrected by a revision", loc="left", fontsize=11)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "known": KNOWN,
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
