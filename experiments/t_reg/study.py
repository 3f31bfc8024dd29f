"""Two instructions for one answer as rewards of its tokens: `python -m experiments t_reg`.

The start is a toy that adds number by number without carrying, `372+415=787`, and slips at each
digit with the same chance. It can do better: behind `[787]+372+415=` it writes a better answer,
and behind `[787]-372+415=` a worse one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.learning import accuracy, arms, eval_lab
from experiments.study import Run, claimed, lower_bound, pairs, plot_reading, styled
from experiments.warm_start import warm_start
from jaxevo.losses.total import scored
from jaxevo.models import hub
from jaxevo.recipes.dpo import dpo
from jaxevo.recipes.t_reg import t_reg
from jaxevo.run import build
from jaxevo.run.options import RunOptions
from jaxevo.tasks import arithmetic, task_source
from jaxevo.types import Batch, Bound, Message, Objective, Params, Recipe, Task, TrainState, bind

DIGITS = 3
WARM = {"steps": 400, "rows": 64, "learning_rate": 1e-3, "prompt_tokens": 16, "answer_tokens": 4}
KNOWN = {"": 0.7, "+": 0.95, "-": 0.3}  # chance of each digit to be right, by instruction
RATE, WEIGHT = 1e-4, 0.5
SHARED = {"learning_rate": RATE}
OPTIONS = {
    "rounds": 30,
    "prompts": 16,
    "samples": 5,
    "max_new_tokens": DIGITS + 1,
    "temperature": 0.8,
    "prompt_tokens": 2 * DIGITS + 2,
}
EVERY, PROBLEMS = 5, 128
TRIED: list[dict[str, Any]] = [  # mean accuracy of T-REG, DPO, swapped
    {
        "seed": 0,
        "learning_rate": 3e-4,
        "rounds": 40,
        "mean": [0.751, 0.746, 0.744],
        "why not": "all arms are done after a quarter of the rounds",
    },
    {
        "seeds": [0, 1],
        "learning_rate": 1e-4,
        "rounds": 30,
        "readings": "every 3 rounds, of 192 problems",
        "mean": [[0.614, 0.605, 0.586], [0.658, 0.648, 0.630]],
    },
    {
        "seed": 0,
        "learning_rate": 1e-4,
        "rounds": 30,
        "reward_weight": 1.5,
        "mean": [0.628, 0.605, 0.455],
        "why not": "the paper searches 0.1 to 0.5",
    },
    {
        "seed": 2,
        "readings": "every 5 rounds, of 128 problems, to stay within six minutes",
        "mean": [0.472, 0.463, 0.443],
    },
]


def swapped(**options: Any) -> Recipe:
    """T-REG whose instructions have changed places."""
    recipe = t_reg(**options)
    (objective,) = recipe.objectives
    reference, better, worse = objective.views
    views = (
        reference,
        dataclasses.replace(better, context=worse.context),
        dataclasses.replace(worse, context=better.context),
    )
    return dataclasses.replace(recipe, objectives=(dataclasses.replace(objective, views=views),))


ARMS = {
    "t-reg": bind(t_reg, reward_weight=WEIGHT, context_tokens=16, **SHARED),
    "dpo": bind(dpo, **SHARED),
    "swapped": bind(swapped, reward_weight=WEIGHT, context_tokens=16, **SHARED),
}


def drawn(generator: np.random.Generator) -> tuple[str, np.ndarray]:
    """Two numbers whose digits add up to 9 at most, and these sums."""
    total = generator.integers(1, 10, DIGITS)
    first = generator.integers(0, total + 1)
    first[0] = max(1, min(first[0], total[0]))
    sides = ("".join(map(str, digits)) for digits in (first, total - first))
    return "{}+{}=".format(*sides), total


def slipped(total: np.ndarray, generator: np.random.Generator, *, known: float) -> str:
    """The digits, each right with this chance and any other one instead."""
    right = generator.random(DIGITS) < known
    other = (total + generator.integers(1, 10, DIGITS)) % 10
    return "".join(map(str, np.where(right, total, other)))


def example(generator: np.random.Generator) -> tuple[str, str]:
    """An answer, or a better or a worse one to an answer that is shown."""
    question, total = drawn(generator)
    sign = ("", "+", "-")[int(generator.integers(3))]
    answer = slipped(total, generator, known=KNOWN[sign])
    if not sign:
        return question, answer
    return f"[{slipped(total, generator, known=KNOWN[''])}]{sign}{question}", answer


def problems(count: int, *, seed: int) -> list[Task]:
    generator, found = np.random.default_rng(seed), []
    for n in range(count):
        question, total = drawn(generator)
        answer = "".join(map(str, total))
        found.append(Task(f"digits/{seed}/{n}", (Message("user", question),), answer))
    return found


def token_rewards(
    sets: Mapping[str, Params], batch: Batch, forward: Bound, *, objective: Objective
) -> jax.Array:
    """The token rewards of rows, [N, A]."""
    others = {name: params for name, params in sets.items() if name != objective.trains}
    now, frozen = scored(sets[objective.trains], others, batch, objective, forward)
    return objective.credit(batch, now, frozen)["text"]["token_reward"]


def reading(run: build.Run, state: TrainState) -> dict[str, float]:
    """Accuracy, and at the start mean token rewards of right digits and of wrong ones."""
    found = accuracy(run, state, problems=PROBLEMS)
    (objective,) = run.recipe.objectives
    if state.counters["round"] or len(objective.views) == 1:
        return found
    lab = eval_lab(run, state)
    rows = lab.attempt([run.bench.source.held_out(n) for n in range(16)])
    said = lab.map(bind(token_rewards, objective=objective), rows, like=objective)
    by_side: dict[str, list[float]] = {"right": [], "wrong": []}
    for row, said_A in zip(rows, said, strict=True):
        text = run.bench.model.tokenizer.text(row.answer_ids.tolist())
        for digit, truth, reward in zip(text, row.task.answer, said_A, strict=False):
            by_side["right" if digit == truth else "wrong"].append(float(reward))
    return found | {f"{side}_reward": float(np.mean(x)) for side, x in by_side.items()}


def run_seed(seed: int) -> list[Run]:
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    sides = (problems(1024, seed=1000 + seed), problems(PROBLEMS, seed=10_000 + seed))
    verifiers = arithmetic("add1").verifiers
    source = task_source("digits", sides, verifiers=verifiers, seed=seed)
    options = RunOptions(model="toy", task="add1", seed=seed, eval_problems=0, **OPTIONS)
    how = {"every": EVERY, "reading": bind(reading), "source": source}
    return arms(ARMS, seed, model, options, keep=("loss", "grad_norm"), **how)


def mean_accuracy(run: Run) -> float:
    """Over all readings: of two that end alike the faster one has more."""
    return float(np.mean([reading["accuracy"] for reading in run["curve"]]))


def verdict(runs: Sequence[Run]) -> dict[str, bool]:
    least, more, level = STUDY.target.values()
    starts = [run["curve"][0] for run in runs if run["arm"] == "t-reg"]

    def lead(one: str, other: str) -> float:
        both = pairs(runs, one, other)
        return lower_bound([mean_accuracy(a) - mean_accuracy(b) for a, b in both], level=level)

    return {
        "right digits are rewarded": all(x["right_reward"] >= least for x in starts),
        "wrong digits are punished": all(x["wrong_reward"] <= -least for x in starts),
        "t-reg learns faster than dpo": lead("t-reg", "dpo") > more,
        "dpo learns faster than t-reg with swapped instructions": lead("dpo", "swapped") > more,
    }


def draw(axes: Any, runs: Sequence[Run]) -> None:
    left, right = axes
    colors = {"t-reg": "C0", "dpo": "0.55", "swapped": "C3"}
    names = {"t-reg": "T-REG", "dpo": "DPO", "swapped": "T-REG, swapped"}
    for run, style in styled(runs, colors, names):
        plot_reading(left, run, "accuracy", **style)
    starts = [run["curve"][0] for run in runs if run["arm"] == "t-reg"]
    for place, side in enumerate(("right", "wrong")):
        heights = [x[f"{side}_reward"] for x in starts]
        right.plot([place] * len(heights), heights, ".", color="C0", alpha=0.6)
        right.plot([place - 0.1, place + 0.1], [np.mean(heights)] * 2, color="C0")
    right.axhline(0.0, color="0.8", linewidth=0.8)
    right.set_xticks(range(2), ("right", "wrong"))
    right.set(ylabel="mean token reward at the start", ylim=(-0.5, 0.5), xlim=(-0.5, 1.5))
    right.set_title("Digits of sampled answers", loc="left", fontsize=11)
    left.set(xlabel="rollouts", ylabel="accuracy, held out")
    left.set_title("Sums of three digits without carrying", loc="left", fontsize=11)
    left.legend(frameon=False)


STUDY = claimed(
    Path(__file__).parent,
    settings={
        "model": "toy",
        "warm": WARM,
        "digits": DIGITS,
        "known": KNOWN,
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
