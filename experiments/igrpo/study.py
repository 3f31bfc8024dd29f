"""Answers behind the best draft: `python -m experiments igrpo`.

The start is a toy that has seen the form of a draft, `38+28=55?`, but not what it is for: its
answers behind a draft are as often right as without one, whatever the draft says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import eval_lab, learn
from experiments.study import Run, claimed, lower_bound, pairs
from experiments.warm_start import said, warm_start
from jaxevo.collect.refine import RIGHT, best_drafts, refinements
from jaxevo.collect.table import by_group
from jaxevo.models import hub
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.igrpo import igrpo
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.run.statistics import pass_at_k
from jaxevo.tasks.told import PLAIN_DRAFT
from jaxevo.types import TrainState, bind

WARM = {"steps": 200, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 12, "answer_tokens": 4}
KNOWN = 0.5  # share of right answers and drafts in what the start has seen
RATE, DRAFTS = 5e-4, 4
ARMS = {
    "igrpo": (bind(igrpo, learning_rate=RATE, drafts=DRAFTS), 4),
    "grpo": (bind(grpo, learning_rate=RATE, reduction="seq_mean_token_mean"), 4 + DRAFTS),
}
OPTIONS = {
    "task": "add2",
    "rounds": 40,
    "prompts": 16,
    "max_new_tokens": 4,
    "prompt_tokens": 12,
}
EVERY, PROBLEMS, FRESH = 10, 64, 16
TRIED: list[dict[str, Any]] = []


def drafting(run: build.Run, state: TrainState, *, problems: int) -> Mapping[str, float]:
    """How often fresh attempts, best drafts, and answers behind these are right, held out."""
    lab = eval_lab(run, state)
    tasks = [run.bench.source.held_out(n) for n in range(problems)]
    best = best_drafts(lab, tasks, drafts=DRAFTS)
    behind = np.array([_share(group) for group in by_group(refinements(lab, best)).values()])
    fresh = by_group(lab.attempt(tasks, samples=FRESH)).values()
    alone = np.array([_share(group) for group in fresh])
    right = np.array([row.accuracy >= RIGHT for row in best])
    likely = pass_at_k(FRESH, np.round(alone * FRESH).astype(int), DRAFTS)
    return {
        "accuracy": float(alone.mean()),
        "behind_right": float(behind[right].mean()),
        "fresh_right": float(alone[right].mean()),
        "best_right": float(right.mean()),
        "best_expected": float(likely.mean()),
    }


def _share(group: Sequence[Any]) -> float:
    return float(np.mean([row.accuracy >= RIGHT for row in group]))


def example(generator: np.random.Generator) -> tuple[str, str]:
    """An answer, or one behind a draft that tells nothing of it."""
    first, second = (int(x) for x in generator.integers(10, 100, 2))
    question, truth = f"{first}+{second}=", first + second
    draft, answer = (said(truth, generator, known=KNOWN) for _ in range(2))
    if generator.random() < 0.5:
        return question, str(answer)
    return PLAIN_DRAFT.format(question=question, draft=draft), str(answer)


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    reading, runs = bind(drafting, problems=PROBLEMS), []
    keep = ("idle_share", "entropy", "tally/copied", "tally/draft_overlap", "tally/kept")
    for arm, (make, samples) in ARMS.items():
        options = RunOptions(model="toy", seed=seed, eval_problems=0, samples=samples, **OPTIONS)
        found = learn(make(), model, options, every=EVERY, reading=reading, keep=keep)
        runs.append({"arm": arm, "seed": seed, **found})
    return runs


def lead(reading: Mapping[str, float]) -> float:
    return reading["behind_right"] - reading["fresh_right"]


def gaps(runs: Sequence[Run]) -> list[float]:
    own = (c for run in runs if run["arm"] == "igrpo" for c in run["curve"])
    return [c["best_right"] - c["best_expected"] for c in own]


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    late, rise, gap, over, level = STUDY.target.values()
    both = pairs(runs, "igrpo", "grpo")
    ends = [lead(own["curve"][-1]) for own, _ in both]
    rises = [lead(own["curve"][-1]) - lead(own["curve"][0]) for own, _ in both]
    leads = [own["curve"][-1]["accuracy"] - x["curve"][-1]["accuracy"] for own, x in both]
    return {
        "a right draft comes to help": lower_bound(ends, level=level) > late
        and lower_bound(rises, level=level) > rise,
        "the best draft is right with 1-(1-V)^N": abs(float(np.mean(gaps(runs)))) < gap,
        "ends higher than GRPO at as many rollouts": lower_bound(leads, level=level) > over,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"igrpo": "C0", "grpo": "0.55"}
    for run in runs:
        first = run["seed"] == runs[0]["seed"]
        style = {"color": colors[run["arm"]], "linewidth": 1.2}
        rollouts = [c["rollouts"] for c in run["curve"]]
        label = run["arm"] if first else None
        left.plot(rollouts, [c["accuracy"] for c in run["curve"]], label=label, **style)
        if run["arm"] == "igrpo":
            for name, line, text in (
                ("behind_right", "-", "behind a right draft"),
                ("fresh_right", ":", "afresh, same problems"),
            ):
                shown = {**style, "linestyle": line, "label": text if first else None}
                right.plot(rollouts, [c[name] for c in run["curve"]], **shown)
    left.set(xlabel="rollouts", ylabel="share of right answers, held out", ylim=(0, 1))
    left.set_title("Asked without a draft", loc="left", fontsize=11)
    left.legend(frameon=False)
    right.set(xlabel="rollouts", ylim=(0, 1.03))
    right.set_title("Where the best draft is right", loc="left", fontsize=11)
    right.legend(frameon=False, loc="lower right")


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "known": KNOWN,
        "options": OPTIONS,
        "arms": {arm: [repr(make), samples] for arm, (make, samples) in ARMS.items()},
        "every": EVERY,
        "problems": PROBLEMS,
        "fresh": FRESH,
    },
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=2,
)
