"""Credit in the steps that were wrong: `python -m experiments feedback-alignment`.

The start is a toy that has learnt sums of four numbers in steps, from the left and mostly with a
second step that is one too high, and to write down what its context shows, in whatever order.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.learning import accuracy, arms, eval_lab
from experiments.study import Run, claimed, gain, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import warm_start
from jaxevo.collect.critique import closest_solution, first_solution, with_critiques
from jaxevo.losses.reduce import masked
from jaxevo.models import hub
from jaxevo.models.hub import LoadedModel
from jaxevo.recipes.feedback_alignment import feedback_alignment
from jaxevo.recipes.grpo import grpo
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.tasks import load_task, plain
from jaxevo.types import OWN, Batch, Bound, Objective, Params, Row, Task, TaskSource, bind

RATE, PLANTED, OBEDIENCE = 3e-4, 0.9, 0.95
WARM = {"steps": 400, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 27, "answer_tokens": 16}
DISTILLED = {"learning_rate": RATE, "context_tokens": 32}
ARMS = {
    "aligned": bind(feedback_alignment, critic="closest", **DISTILLED),
    "reference": bind(feedback_alignment, critic="solution", **DISTILLED),
    "grpo": bind(grpo, learning_rate=RATE),
}
OPTIONS = {"task": "steps4", "rounds": 8, "prompts": 32, "samples": 4, "max_new_tokens": 16}
EVERY, PROBLEMS = 2, 64
TRIED: list[dict[str, Any]] = [  # accuracy at the start and the end
    {
        "seed": 0,
        "start": "slips at random, a fifth of all steps; half of what is told is in other steps",
        "learning_rate": 3e-4,
        "rounds": 24,
        "ratio": {"aligned": 8.8, "reference": 0.97},
        "aligned": [0.32, 0.23],
        "reference": [0.32, 0.11],
        "grpo": [0.32, 0.31],
        "why not": "what the policy does not know it cannot learn from a few hundred sums",
    },
    *(
        {"seed": 0, "start": "the same", "rounds": 16, **how, "aligned": [0.32, end]}
        for how, end in (
            ({"learning_rate": 1e-4}, 0.30),
            ({"learning_rate": 1e-4, "prompts": 64}, 0.32),
            ({"learning_rate": 1e-4, "kind": "reverse"}, 0.33),
            ({"learning_rate": 1e-3, "prompts": 64}, 0.10),
        )
    ),
    {
        "seed": 0,
        "start": "a second step that is one too high",
        "rounds": 16,
        "prompts": 16,
        "learning_rate": 3e-4,
        "aligned": [0.17, 0.45],
        "reference": [0.17, 0.15],
        "grpo": [0.17, 0.45],
    },
    {
        "seeds": [0, 1],
        "start": "the same",
        "rounds": 16,
        "prompts": 32,
        "learning_rate": 1e-4,
        "aligned": [[0.17, 0.43], [0.29, 0.47]],
        "reference": [[0.17, 0.37], [0.29, 0.30]],
        "grpo": [[0.17, 0.51], [0.29, 0.41]],
    },
    {
        "seeds": [0, 1],
        "start": "the same",
        "rounds": 8,
        "prompts": 32,
        "learning_rate": 3e-4,
        "aligned": [[0.17, 0.45], [0.29, 0.49]],
        "reference": [[0.17, 0.26], [0.29, 0.20]],
        "grpo": [[0.17, 0.37], [0.29, 0.43]],
    },
]


def example(generator: np.random.Generator) -> tuple[str, str]:
    """An answer from the left, whose second sum is one too high, or one as its context shows it."""
    operands = [int(x) for x in generator.integers(2, 10, 4)]
    question = "+".join(map(str, operands)) + "="
    if generator.random() < 0.5:
        return question, _worked(operands, generator, planted=PLANTED, slips=0.02)
    shown = operands if generator.random() < 0.5 else operands[::-1]
    told = _worked(shown, generator, planted=0.0, slips=0.1)
    if generator.random() < OBEDIENCE:
        return f"[{told}]{question}", told
    return f"[{told}]{question}", _worked(operands, generator, planted=PLANTED, slips=0.02)


def _worked(
    operands: Sequence[int], generator: np.random.Generator, *, planted: float, slips: float
) -> str:
    """Steps from the left; what follows a wrong one goes on from it."""
    said, done = [], operands[0]
    for n, term in enumerate(operands[1:], start=2):
        off = 0
        if n == 3 and generator.random() < planted:
            off = 1
        elif generator.random() < slips:
            off = int(generator.choice([-2, -1, 1, 2]))
        done += term + off
        said.append("+".join(map(str, (done, *operands[n:]))))
    return "=".join(said)


def from_the_right_first(source: TaskSource) -> TaskSource:
    """The source, whose tasks' first solution is that from the right."""
    return dataclasses.replace(
        source,
        train=functools.partial(_turned, source.train),
        held_out=functools.partial(_turned, source.held_out),
    )


def _turned(tasks: Callable[[int], Task], index: int) -> Task:
    task = tasks(index)
    info = {**task.info, "solutions": list(reversed(task.info["solutions"]))}
    return dataclasses.replace(task, info=info)


def lift(sets: Mapping[str, Params], batch: Batch, forward: Bound) -> Mapping[str, jax.Array]:
    """log q − log p of each token of a row that the teacher is told something about."""
    own, told = (
        forward(sets[name], batch.layouts[at], batch.answers, batch.temperature, read=("logp",))
        for name, at in (("policy", OWN), ("reference", "teacher"))
    )
    mask_NA = own["text"].mask_NA & batch.present["teacher"][:, None]
    return masked(told["text"].logp_NA, mask_NA) - masked(own["text"].logp_NA, mask_NA)


def localised(model: LoadedModel, source: TaskSource, options: RunOptions) -> dict[str, Any]:
    """A in corrected and in copied steps of held-out attempts, under both contexts, by name."""
    run = build.build_run(ARMS["aligned"](), options, model=model)
    run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source))
    lab = eval_lab(run, run.state)
    (objective,) = run.recipe.objectives
    rows = lab.attempt([source.held_out(n) for n in range(PROBLEMS)])
    marked = with_critiques(lab, rows, critic=bind(closest_solution))
    marked = [row for row in marked if {0.0, 1.0} <= set(row.by_token["changed"].tolist())]
    other = [
        dataclasses.replace(row, feedback=text)
        for row, text in zip(marked, first_solution(lab, marked), strict=True)
    ]
    found: dict[str, Any] = {"rows": len(marked)}
    for name, told in (("aligned", marked), ("reference", other)):
        found |= {f"{name}_{k}": v for k, v in _by_side(lab, told, objective).items()}
    return found


def _by_side(lab: Any, rows: Sequence[Row], objective: Objective) -> dict[str, float]:
    lifts_NA = lab.map(bind(lift), rows, like=objective)
    changed, copied = (
        [g[: len(row.answer_ids)][row.by_token["changed"] == side] for row, g in
         zip(rows, lifts_NA, strict=True)]
        for side in (1, 0)
    )  # fmt: skip
    ratios = [np.abs(a).mean() / np.abs(b).mean() for a, b in zip(changed, copied, strict=True)]
    return {
        "ratio": float(np.median(ratios)),
        "changed": float(np.concatenate(changed).mean()),
        "copied": float(np.concatenate(copied).mean()),
    }


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    source = from_the_right_first(plain(load_task("steps4", seed=seed)))
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **OPTIONS)
    at_start = localised(model, source, options)
    reading = bind(accuracy, problems=PROBLEMS)
    keep = ("reward", "tally/copied", "tally/steps_read", "teacher_gap/ratio", "loss/distill")
    how = {"every": EVERY, "reading": reading, "keep": keep, "source": source}
    return [{**run, "at_start": at_start} for run in arms(ARMS, seed, model, options, **how)]


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    ratio, times, lead, level = STUDY.target.values()
    starts = [own["at_start"] for own, _ in pairs(runs, "aligned", "grpo")]
    leads = {
        other: [gain(a) - gain(b) for a, b in pairs(runs, "aligned", other)]
        for other in ("reference", "grpo")
    }
    return {
        "credit stands in the wrong steps": all(s["aligned_ratio"] >= ratio for s in starts),
        "more so than under another solution": all(
            s["aligned_ratio"] >= times * s["reference_ratio"] for s in starts
        ),
        "copied steps are lifted, by another solution lowered": all(
            s["aligned_copied"] > 0 > s["reference_copied"] for s in starts
        ),
        "gains more than from another solution": lower_bound(leads["reference"], level=level)
        > lead,
        "gains more than GRPO": lower_bound(leads["grpo"], level=level) > lead,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    starts = [own["at_start"] for own, _ in pairs(runs, "aligned", "grpo")]
    bars = ("aligned_changed", "aligned_copied", "reference_changed", "reference_copied")
    for place, (name, color) in enumerate(zip(bars, ("C0", "C0", "C1", "C1"), strict=True)):
        values = [s[name] for s in starts]
        left.plot([place] * len(values), values, "o", color=color, markersize=4)
    left.axhline(0.0, color="0.8", linewidth=0.8)
    names = ["corrected\nown steps", "copied", "corrected\nother solution", "copied"]
    left.set_xticks(range(4), names, fontsize=8)
    left.set(ylabel="mean log q - log p, nats")
    left.set_title("What the teacher thinks of steps", loc="left", fontsize=11)
    colors = {"aligned": "C0", "reference": "C1", "grpo": "0.55"}
    labels = {"aligned": "own steps corrected", "reference": "other solution", "grpo": "GRPO"}
    for run, style in styled(runs, colors, labels):
        plot_reading(right, run, "accuracy", **style)
    right.set(xlabel="rollouts", ylabel="accuracy, held out")
    right.set_title("Learning from it", loc="left", fontsize=11)
    right.legend(frameon=False)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "planted": PLANTED,
        "obedience": OBEDIENCE,
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
