"""Feedback where every attempt fails: `python -m experiments sdpo`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import accuracy, learn
from experiments.study import Run, claimed, pairs
from jaxevo.models import hub
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.run.options import RunOptions
from jaxevo.types import bind

RATE = 3e-4
ARMS = {
    "sdpo": bind(sdpo, learning_rate=RATE, warmup_updates=0, context_tokens=24, distill_top_k=None),
    "grpo": bind(grpo, learning_rate=RATE),
}
OPTIONS = {"task": "sub2", "rounds": 40, "prompts": 16, "samples": 4, "max_new_tokens": 4}
EVERY, PROBLEMS = 5, 128
TRIED: list[dict[str, Any]] = []


def run_seed(seed: int) -> list[Run]:
    model = hub.load("toy")
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **OPTIONS)
    reading = bind(accuracy, problems=PROBLEMS)
    keep = ("reward", "zero_variance_share", "grad_norm", "loss/distill", "context/teacher")
    return [
        {
            "arm": arm,
            "seed": seed,
            **learn(make(), model, options, every=EVERY, reading=reading, keep=keep),
        }
        for arm, make in ARMS.items()
    ]


def gain(run: Run) -> float:
    return run["curve"][-1]["accuracy"] - run["curve"][0]["accuracy"]


def equal_rounds(run: Run) -> list[float]:
    """Norms of the gradient in rounds whose groups had equal rewards each."""
    rounds = run["by_round"]
    both = zip(rounds["grad_norm"], rounds["zero_variance_share"], strict=True)
    return [norm for norm, share in both if share == 1.0]


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    least, most, norm = STUDY.target.values()
    both = pairs(runs, "sdpo", "grpo")
    still = [x for _, plain in both for x in equal_rounds(plain)]
    return {
        "sdpo learns": all(gain(own) >= least for own, _ in both),
        "grpo stands still": all(gain(plain) <= most for _, plain in both),
        "grpo has no gradient where rewards are equal": bool(still) and max(still) <= norm,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"sdpo": "C0", "grpo": "0.55"}
    for run in runs:
        label = run["arm"].upper() if run["seed"] == runs[0]["seed"] else None
        style = {"color": colors[run["arm"]], "label": label, "linewidth": 1.2}
        curve, shares = run["curve"], run["by_round"]["zero_variance_share"]
        left.plot([c["rollouts"] for c in curve], [c["accuracy"] for c in curve], **style)
        smooth = np.convolve(shares, np.ones(5) / 5, "valid")
        right.plot(np.arange(len(smooth)) + 3, smooth, **style)
    left.set(xlabel="rollouts", ylabel="accuracy, held out", ylim=(0, 1))
    left.set_title("Two-digit differences", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(xlabel="round", ylabel="share, mean of 5 rounds", ylim=(0, 1))
    right.set_title("Groups of equal rewards", loc="left", fontsize=11)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
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
