"""Revision first, then distillation from the reviser: `python -m experiments sd-zero`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import eval_lab, learn
from experiments.study import Run, claimed, lower_bound, pairs
from jaxevo.collect.revise import revised
from jaxevo.models import hub
from jaxevo.recipes.sd_zero import sd_zero
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.types import TrainState, bind

FIRST, SECOND, COPIES = 8, 24, 3  # rounds of the stages, revisions of an attempt
SHARED = {
    "revisions_each": COPIES,
    "most": 4 * COPIES,
    "revision_learning_rate": 5e-4,
    "learning_rate": 5e-4,
    "warmup_updates": 0,
    "context_tokens": 16,
    "distill_top_k": None,
}
ARMS = {
    "sd-zero": bind(sd_zero, revision_rounds=FIRST, **SHARED),
    "no revision": bind(sd_zero, revision_rounds=0, **SHARED),
}
ROUNDS = {"sd-zero": FIRST + SECOND, "no revision": FIRST * (1 + COPIES) + SECOND}
OPTIONS = {"task": "add2", "prompts": 16, "samples": 4, "max_new_tokens": 4}
EVERY, PROBLEMS = 8, 64
TRIED: list[dict[str, Any]] = []


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


def run_seed(seed: int) -> list[Run]:
    model = hub.load("toy")
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
    for run in runs:
        label = run["arm"] if run["seed"] == runs[0]["seed"] else None
        style = {"color": colors[run["arm"]], "label": label, "linewidth": 1.2}
        rollouts = [c["rollouts"] for c in run["curve"]]
        left.plot(rollouts, [c["accuracy"] for c in run["curve"]], **style)
        right.plot(rollouts, [c["corrected"] for c in run["curve"]], **style)
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
