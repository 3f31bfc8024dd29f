"""Answers behind the best draft: `python -m experiments igrpo`.

The start is a toy that has seen the form of a draft, `38+28=55?`, and at times repeats what it
says, be it right or wrong: its answers behind a draft are no more often right than without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.learning import learn
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import said, warm_start
from jaxevo.collect.lab import Lab
from jaxevo.collect.refine import RIGHT, best_drafts, refinements
from jaxevo.collect.table import by_group
from jaxevo.models import hub
from jaxevo.recipes.grpo import grpo
from jaxevo.recipes.igrpo import igrpo
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.run.statistics import pass_at_k
from jaxevo.tasks.told import PLAIN_DRAFT
from jaxevo.types import Row, Task, TrainState, bind

WARM = {"steps": 400, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 12, "answer_tokens": 4}
KNOWN = 0.5  # share of right answers and drafts in what the start has seen
TRUST = 0.3  # share of answers there that are the draft again
RATE, DRAFTS = 5e-4, 4
ARMS = {
    "igrpo": bind(igrpo, learning_rate=RATE, drafts=DRAFTS),
    "grpo": bind(grpo, learning_rate=RATE, reduction="seq_mean_token_mean"),
}
SAMPLES = {"igrpo": 4, "grpo": 4 + DRAFTS}
OPTIONS = {
    "task": "add2",
    "rounds": 40,
    "prompts": 16,
    "max_new_tokens": 4,
    "prompt_tokens": 12,
}
EVERY, PROBLEMS, FRESH = 10, 64, 16
TRIED: list[dict[str, Any]] = [  # by seed: lead at the start and the end; accuracy, GRPO's
    {
        "seed": 0,
        "start": "answers behind a draft that tell nothing of it; 200 steps",
        "lead": [-0.18, -0.10],
        "accuracy": [0.36, 0.46],
        "grpo": [0.36, 0.67],
        "why not": "the start does not look at the draft, and seldom finds out what it is for",
    },
    {
        "seed": 0,
        "start": "as before; 400 steps",
        "learning_rate": 1e-3,
        "rounds": 60,
        "lead": [-0.04, -0.03],
        "accuracy": [0.41, 0.42],
        "why not": "as before; accuracy without a draft falls at first",
    },
    {
        "seeds": [0, 1, 2],
        "start": "three of ten answers behind a draft are the draft again; 400 steps",
        "lead": [[0.01, 0.17], [-0.02, 0.04], [-0.02, 0.07]],
        "accuracy": [[0.39, 0.53], [0.41, 0.56], [0.36, 0.53]],
        "grpo": [[0.39, 0.65], [0.41, 0.72], [0.36, 0.69]],
        "then": "other random numbers at each reading",
    },
]


def drafting(run: build.Run, state: TrainState, *, problems: int) -> Mapping[str, float]:
    """How often fresh attempts, best drafts, and answers behind these are right, held out."""
    lab, tasks = _asked(run, state, problems)
    best = best_drafts(lab, tasks, drafts=DRAFTS)
    behind = np.array([_share(group) for group in by_group(refinements(lab, best)).values()])
    alone = _fresh(lab, tasks)
    right = np.array([row.accuracy >= RIGHT for row in best])
    likely = pass_at_k(FRESH, np.round(alone * FRESH).astype(int), DRAFTS)
    return {
        "accuracy": float(alone.mean()),
        "behind_right": float(behind[right].mean()),
        "fresh_right": float(alone[right].mean()),
        "best_right": float(right.mean()),
        "best_expected": float(likely.mean()),
    }


def plainly(run: build.Run, state: TrainState, *, problems: int) -> Mapping[str, float]:
    """How often fresh attempts are right, held out."""
    return {"accuracy": float(_fresh(*_asked(run, state, problems)).mean())}


def _asked(run: build.Run, state: TrainState, problems: int) -> tuple[Lab, list[Task]]:
    """Instruments whose randomness is another at each reading, and the problems."""
    lab = run.bench.lab(state.params, evaluation=True, round_index=state.counters["round"])
    return lab, [run.bench.source.held_out(n) for n in range(problems)]


def _fresh(lab: Lab, tasks: Sequence[Task]) -> np.ndarray:
    groups = by_group(lab.attempt(tasks, samples=FRESH)).values()
    return np.array([_share(group) for group in groups])


def _share(group: Sequence[Row]) -> float:
    return float(np.mean([row.accuracy >= RIGHT for row in group]))


def example(generator: np.random.Generator) -> tuple[str, str]:
    """An answer, or one behind a draft, which it may be again."""
    first, second = (int(x) for x in generator.integers(10, 100, 2))
    question, truth = f"{first}+{second}=", first + second
    draft, answer = (said(truth, generator, known=KNOWN) for _ in range(2))
    if generator.random() < 0.5:
        return question, str(answer)
    answer = draft if generator.random() < TRUST else answer
    return PLAIN_DRAFT.format(question=question, draft=draft), str(answer)


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    readings, runs = {"igrpo": drafting, "grpo": plainly}, []
    keep = ("idle_share", "entropy", "tally/copied", "tally/draft_overlap", "tally/kept")
    for arm, make in ARMS.items():
        sizes = {"samples": SAMPLES[arm], **OPTIONS}
        options = RunOptions(model="toy", seed=seed, eval_problems=0, **sizes)
        reading = bind(readings[arm], problems=PROBLEMS)
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
    for run, style in styled(runs, colors):
        plot_reading(left, run, "accuracy", **style)
        if run["arm"] == "igrpo":
            for name, line, text in (
                ("behind_right", "-", "behind a right draft"),
                ("fresh_right", ":", "afresh, same problems"),
            ):
                shown = {**style, "linestyle": line, "label": style["label"] and text}
                plot_reading(right, run, name, **shown)
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
        "trust": TRUST,
        "options": OPTIONS,
        "samples": SAMPLES,
        "arms": {arm: repr(make) for arm, make in ARMS.items()},
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
