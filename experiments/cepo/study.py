"""Where a contrast of two answers puts its weight: `python -m experiments cepo`.

The start is a toy that writes filler before its answer, `38+28=*+**66`, and that has another taste
in filler when it has been told an answer, `[66]38+28=++*+66`: being told changes how it writes as
well as what it answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learning import arms, eval_lab
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import warm_start
from jaxevo.losses.reduce import masked
from jaxevo.models import hub
from jaxevo.recipes.cepo import cepo
from jaxevo.recipes.grpo import grpo
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.types import OWN, Batch, Bound, Params, TrainState, bind

WARM = {"steps": 300, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 12, "answer_tokens": 8}
FILLER, TASTE = 4, 0.7  # tokens before an answer, and share of the one that is liked
KNOWN, OBEDIENT = 0.5, 0.95  # share of right answers, and of those that repeat what they were told
SHARED = {"learning_rate": 3e-4, "clip_high": 0.28}
WEIGHED = {
    "warmup_updates": 0,
    "mix": 1.0,
    "mix_rounds": None,
    "evidence_clip": 0.5,
    "context_tokens": 12,
    "minibatches": 1,
}
ARMS = {"cepo": bind(cepo, **SHARED, **WEIGHED), "grpo": bind(grpo, **SHARED)}
OPTIONS = {"task": "add2", "rounds": 30, "prompts": 16, "samples": 8, "max_new_tokens": 8}
EVERY, PROBLEMS = 5, 32
TRIED: list[dict[str, Any]] = [  # mean accuracy after the start
    {"seed": 0, "rounds": 40, "cepo": 0.41, "grpo": 0.43, "rlsd": 0.39},
    {
        "seed": 0,
        "warm steps": 150,
        "cepo": 0.16,
        "grpo": 0.14,
        "rlsd": 0.13,
        "why not": "weak start",
    },
    {"seed": 0, "warm steps": 150, "evidence_clip": 0.9, "cepo": 0.14, "grpo": 0.14},
    {
        "seed": 0,
        "warm steps": 150,
        "learning_rate": 1e-3,
        "cepo": 0.04,
        "grpo": 0.03,
        "why not": "both collapse",
    },
    {
        "seed": 0,
        "warm steps": 150,
        "learning_rate": 1e-3,
        "evidence_clip": 0.9,
        "cepo": 0.05,
        "grpo": 0.03,
        "why not": "both collapse",
    },
]


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A sum with filler before its answer, or one that answers what it has been told."""
    first, second = (int(x) for x in generator.integers(10, 100, 2))
    question, truth = f"{first}+{second}=", first + second
    if generator.random() < 0.5:
        return question, f"{_filler('*', generator)}{_said(truth, KNOWN, generator)}"
    told = _said(truth, KNOWN, generator)
    answer = _said(told, OBEDIENT, generator)
    return f"[{told}]{question}", f"{_filler('+', generator)}{answer}"


def _filler(liked: str, generator: np.random.Generator) -> str:
    other = {"*": "+", "+": "*"}[liked]
    return "".join(liked if x < TASTE else other for x in generator.random(FILLER))


def _said(truth: int, share: float, generator: np.random.Generator) -> int:
    slip = int(generator.choice([-10, -2, -1, 1, 2, 10]))
    return truth if generator.random() < share else abs(truth + slip)


def compared(sets: Mapping[str, Params], batch: Batch, forward: Bound) -> dict[str, jax.Array]:
    """What the teachers say of each answer token: log P⁺ − log P⁻, and log P⁺ − log π, [N, A]."""
    answers, warm = batch.answers, batch.temperature
    right, wrong, own = (
        forward(sets["policy"], batch.layouts[view], answers, warm, read=("logp",))["text"]
        for view in ("right", "wrong", OWN)
    )
    here_NA = own.mask_NA & jnp.asarray(batch.present["wrong"])[:, None]
    differences = {"contrast": right.logp_NA - wrong.logp_NA, "alone": right.logp_NA - own.logp_NA}
    return {name: masked(x_NA, here_NA) for name, x_NA in differences.items()} | {"here": here_NA}


def reading(run: build.Run, state: TrainState, *, problems: int) -> dict[str, float]:
    """Accuracy on held-out problems, and where the evidence stands."""
    lab = eval_lab(run, state)
    rows = lab.attempt([run.bench.source.held_out(n) for n in range(problems)])
    found = {"accuracy": float(np.mean([row.accuracy for row in rows]))}
    (objective,) = run.recipe.objectives
    if len(objective.views) < 2:
        return found
    said = lab.map(bind(compared), rows, like=objective)
    digits = run.bench.model.tokenizer.encode("0123456789")
    ends = run.bench.model.tokenizer.eos_ids
    ids = np.zeros(said["here"].shape, int)
    for n, row in enumerate(rows):
        ids[n, : len(row.answer_ids)] = row.answer_ids
    decisive = said["here"] & np.isin(ids, digits)
    filler = said["here"] & ~np.isin(ids, [*digits, *ends])
    for name in ("contrast", "alone"):
        size = np.abs(said[name])
        found[f"{name}_decisive"] = float(size[decisive].mean())
        found[f"{name}_filler"] = float(size[filler].mean())
        rows_N = decisive.any(1) & filler.any(1)
        most = np.where(decisive, size, 0).max(1) > np.where(filler, size, 0).max(1)
        found[f"{name}_largest"] = float(most[rows_N].mean())
    return found


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **OPTIONS)
    how = {"every": EVERY, "reading": bind(reading, problems=PROBLEMS), "keep": ("reward",)}
    return arms(ARMS, seed, model, options, **how)


def mean(run: Run, name: str) -> float:
    """Over all readings but the first."""
    return float(np.mean([c[name] for c in run["curve"][1:]]))


def selectivity(run: Run, which: str) -> float:
    """How many times as large the evidence is at a digit of the answer as at filler."""
    return mean(run, f"{which}_decisive") / mean(run, f"{which}_filler")


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    largest, times, lead, level = STUDY.target.values()
    own = [run for run, _ in pairs(runs, "cepo", "grpo")]
    leads = [mean(a, "accuracy") - mean(b, "accuracy") for a, b in pairs(runs, "cepo", "grpo")]
    return {
        "the largest evidence is at the answer": all(
            mean(run, "contrast_largest") >= largest for run in own
        ),
        "a contrast tells answer from filler better than one answer alone": all(
            selectivity(run, "contrast") >= times * selectivity(run, "alone") for run in own
        ),
        "learns faster than GRPO": lower_bound(leads, level=level) > lead,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"cepo": "C0", "grpo": "0.55"}
    for run, style in styled(runs, colors, {"cepo": "CEPO", "grpo": "GRPO"}):
        plot_reading(left, run, "accuracy", **style)
    own = [run for run in runs if run["arm"] == "cepo"]
    names = ("contrast_decisive", "contrast_filler", "alone_decisive", "alone_filler")
    for place, name in enumerate(names):
        heights = [mean(run, name) for run in own]
        color = "C0" if name.startswith("contrast") else "C1"
        right.bar(place, np.mean(heights), color=color, alpha=0.4)
        right.plot([place] * len(heights), heights, ".", color=color)
    right.set_xticks(range(4), ["digits", "filler", "digits", "filler"])
    right.set(ylabel="mean |evidence|, nats")
    right.set_title("Right against wrong; right alone", loc="left", fontsize=11)
    left.set(xlabel="rollouts", ylabel="accuracy, held out")
    left.set_title("Two-digit sums behind filler", loc="left", fontsize=11)
    left.legend(frameon=False)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "filler": [FILLER, TASTE],
        "known": KNOWN,
        "obedient": OBEDIENT,
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
