"""Failures to a teacher, the rest to GRPO: `python -m experiments srpo-routing`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import accuracy, arms
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from jaxevo.models import hub
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.sdpo import sdpo
from jaxevo.recipes.srpo_routing import srpo_routing
from jaxevo.run.options import RunOptions
from jaxevo.types import bind

TAUGHT = {"warmup_updates": 0, "context_tokens": 24, "distill_top_k": None, "feedback": "never"}
ARMS = {
    "srpo-routing": bind(srpo_routing, learning_rate=1e-3, **TAUGHT),
    "sdpo": bind(sdpo, learning_rate=1e-3, **TAUGHT),
    "grpo": bind(grpo, learning_rate=1e-3, scale="none", clip_high=0.28),
}
OPTIONS = {"task": "add2", "rounds": 60, "prompts": 16, "samples": 8, "max_new_tokens": 4}
EVERY, PROBLEMS = 5, 128
TRIED: list[dict[str, Any]] = [  # accuracy early and in the end: srpo-routing, sdpo, grpo
    {
        "seed": 0,
        "learning_rate": 3e-4,
        "early": [0.51, 0.51, 0.48],
        "end": [0.72, 0.73, 0.74],
        "why not": "all three arms learn alike",
    },
    {"seed": 0, "learning_rate": 3e-3, "end": [0.01, 0.0, 0.0], "why not": "all arms collapse"},
    {"seed": 0, "learning_rate": 1e-3, "early": [0.51, 0.51, 0.50], "end": [0.73, 0.65, 0.57]},
    {
        "seeds": [1, 2],
        "learning_rate": 1e-3,
        "rounds": 80,
        "early": [[0.60, 0.58, 0.37], [0.55, 0.56, 0.48]],
        "end": [[0.71, 0.70, 0.76], [0.70, 0.62, 0.70]],
        "then": "60 rounds; nothing was found that sets the ends of SDPO and SRPO apart",
    },
]


def run_seed(seed: int) -> list[Run]:
    model = hub.load("toy")
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **OPTIONS)
    reading = bind(accuracy, problems=PROBLEMS)
    keep = ("reward", "zero_variance_share", "context/teacher", "grad_norm", "entropy")
    return arms(ARMS, seed, model, options, every=EVERY, reading=reading, keep=keep)


def quarter(run: Run, *, last: bool) -> float:
    """Mean accuracy of the readings in the first or the last quarter, the start left out."""
    edge = OPTIONS["rounds"] / 4
    inside = [
        c["accuracy"]
        for c in run["curve"][1:]
        if (c["round"] > OPTIONS["rounds"] - edge if last else c["round"] <= edge)
    ]
    return float(np.mean(inside))


def routed(run: Run, *, last: bool) -> float:
    shares, count = run["by_round"]["context/teacher"], OPTIONS["rounds"] // 4
    return float(np.mean(shares[-count:] if last else shares[:count]))


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    early, late, falling, level = STUDY.target.values()
    on_grpo = pairs(runs, "srpo-routing", "grpo")
    on_sdpo = pairs(runs, "srpo-routing", "sdpo")
    first = [quarter(own, last=False) - quarter(other, last=False) for own, other in on_grpo]
    last = [quarter(own, last=True) - quarter(other, last=True) for own, other in on_sdpo]
    return {
        "learns faster than GRPO at the start": lower_bound(first, level=level) > early,
        "ends higher than SDPO": lower_bound(last, level=level) > late,
        "fewer rows go to the teacher in the end": all(
            routed(own, last=True) < falling * routed(own, last=False) for own, _ in on_grpo
        ),
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"srpo-routing": "C0", "sdpo": "C1", "grpo": "0.55"}
    for run, style in styled(runs, colors):
        plot_reading(left, run, "accuracy", **style)
        if run["arm"] != "grpo":
            right.plot(run["by_round"]["context/teacher"], **style)
    left.set(xlabel="rollouts", ylabel="accuracy, held out")
    left.set_title("Two-digit sums", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(xlabel="round", ylabel="share of rows", ylim=(0, 1))
    right.set_title("Rows that have a teacher", loc="left", fontsize=11)


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
