"""Questions at the edge of what a solver can: `python -m experiments.contract_trial.ttcs`.

The start is a toy that is sure of one-digit differences, half knows sums (about half of its answers
agree) and guesses at products; as a writer it asks for all three alike. Two arms train the writer
alone, with and without the penalty for repetition, against that solver. Two more train the solver
on sums without labels: writer and solver in turns, and majority votes alone (TTRL) for as many
sampled tokens.

Found on seeds 0, 1, 2: the first part of the claim holds; the second fails on seed 0, the third on
seed 1. Votes only are better on the test questions, turns on other sums. On the mean over eight
more seeds the second part holds (`ttcs_repeated.py`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.study import Study, main, pairs
from experiments.warm_start import warm_start
from jaxevo.models import hub
from jaxevo.recipes.ttcs import ttcs
from jaxevo.rewards import bell
from jaxevo.run.build import Run, build_run
from jaxevo.run.evaluate import evaluate
from jaxevo.run.options import RunOptions
from jaxevo.step import run_round
from jaxevo.types import Row, Task, TrainState, bind

WARM = {"steps": 400, "learning_rate": 5e-4}
WRITER = {"references": 8, "variants": 8, "votes": 10, "question_tokens": 6}
RECIPE = {"learning_rate": 1e-4, "kl_weight": 0.01, "minibatches": (1, 1), **WRITER}
ALONE = {"learning_rate": 5e-4, "synthesizer_rounds": 50, "solver_rounds": 0}
TURNS = {"synthesizer_rounds": 5, "solver_rounds": 15, "written": 48}
VOTES = {"synthesizer_rounds": 0, "written": 0, "oversample": 1, "band": (0.0, 1.0)}
ROUNDS = {"penalty": 50, "no penalty": 50, "in turns": 40}  # of "votes only" as tokens allow
RUN = {"task": "add1", "prompts": 16, "samples": 16, "max_new_tokens": 5}
EVERY = {"in turns": 5, "votes only": 25}  # solver rounds between two readings of accuracy
READ = {"samples": 16, "test": 47}  # answers per question, and test questions: all there are
LAST = 10  # rounds that are averaged at the end of the writer's training
ARMS = {
    "penalty": ALONE,
    "no penalty": {**ALONE, "repetition": False},
    "in turns": TURNS,
    "votes only": VOTES,
}
TARGET = {
    "bell_rises_by": 0.25,
    "distinct_kept_by_penalty": 0.1,
    "accuracy_rises_by": 0.1,
}
TRIED: list[dict[str, Any]] = [
    {
        "seed": 10,
        "changes": "half known: products, on which the solver is trained (mul1), guessed at: "
        "differences; 200 warm steps at 1e-3; rate 2e-4 everywhere; 16 references, P = G = 8, "
        "3 cycles",
        "outcome": "bell 0.62 -> 0.85; distinct 0.40 with and 0.08 without the penalty; test "
        "questions 0.14 -> 0.11 in turns, 0.06 by votes only: majorities are wrong",
    },
    {
        "seed": 10,
        "changes": "half known: sums at 0.5, guessed at: products; the rest as before, but the "
        "writer's examples had products as references by mistake",
        "outcome": "nothing readable was written; test questions 0.31 -> 0.38, votes only 0.26",
    },
    {
        "seed": 10,
        "changes": "that mistake corrected; sums known at 0.6; 300 warm steps",
        "outcome": "bell 0.55 -> 0.87; distinct 0.48 and 0.46; test 0.39 -> 0.34, votes only 0.29",
    },
    {
        "seed": 10,
        "changes": "sums at 0.65, 400 warm steps at 5e-4, so that the likeliest sum is right; the "
        "writer alone at rate 5e-4, 8 references",
        "outcome": "bell 0.45 -> 0.90; distinct 0.52 and 0.24; test 0.44 -> 0.35, votes only 0.29",
    },
    {
        "seed": 10,
        "changes": "P = G = 16, rate 5e-5 in turns, 3 cycles (those two arms only)",
        "outcome": "test 0.51 -> 0.73 in 126,000 tokens, votes only 0.80 in 40,000",
    },
    {
        "seed": 10,
        "changes": "the same at rate 1e-4",
        "outcome": "test 0.51 -> 0.78 in 149,000 tokens, votes only 0.83 in 41,000",
    },
    {
        "seed": 11,
        "changes": "2 cycles: the settings reported",
        "outcome": "bell 0.49 -> 0.87; distinct 0.59 and 0.27; test 0.55 -> 0.82, votes only 0.77",
    },
]
KNOWN = {"-": 1.0, "+": 0.65, "*": 0.0}  # share of right answers in the warm start


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A question and its answer, or a sum and another question."""
    sign = str(generator.choice(list(KNOWN)))
    if generator.random() < 0.5:
        return f"{question(generator, '+')}=?", question(generator, sign)
    asked = question(generator, sign)
    left, right = int(asked[0]), int(asked[2])
    truth = {"+": left + right, "-": left - right, "*": left * right}[sign]
    if generator.random() < KNOWN[sign]:
        return f"{asked}=", str(truth)
    if sign == "*":
        return f"{asked}=", str(generator.integers(100))
    return f"{asked}=", str(abs(truth + int(generator.choice([-10, -2, -1, 1, 2, 10]))))


def question(generator: np.random.Generator, sign: str) -> str:
    """Two operands from 2 to 9, the larger one first in a difference."""
    left, right = generator.integers(2, 10, 2)
    if sign == "-" and left < right:
        left, right = right, left
    return f"{left}{sign}{right}"


def start(seed: int) -> hub.LoadedModel:
    """The toy that has seen examples."""
    tokens = {"prompt_tokens": 5, "answer_tokens": 4}
    return warm_start(hub.load("toy"), bind(example), seed=seed, **tokens, **WARM)


def run_seed(seed: int) -> list[dict[str, Any]]:
    """All arms from the same start; the last one spends what the one before it did."""
    model = start(seed)
    runs: list[dict[str, Any]] = []
    for arm in ARMS:
        budget = runs[-1]["tokens"] if arm == "votes only" else None
        runs.append(run_arm(arm, seed, model, budget))
    return runs


def run_arm(arm: str, seed: int, model: hub.LoadedModel, budget: float | None) -> dict[str, Any]:
    """One arm with one seed: what was written, and how often the solver was right, by tokens."""
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **RUN)
    run = build_run(ttcs(**{**RECIPE, **ARMS[arm]}), options, model=model)
    state, memory, tokens, solved = run.state, run.memory, 0, 0
    written: list[dict[str, Any]] = []
    read = [accuracy(run, state, tokens)] if arm in EVERY else []
    for index in itertools.count():
        lab = run.bench.lab(
            state.params,
            learner=run.learner,
            round_index=index,
            position=state.counters["position"],
        )
        state, memory, experience, _ = run_round(run.recipe, run.learner, lab, state, memory)
        tokens += sum(row.sampled_tokens for row in lab.sampled.values())
        done = index + 1 == ROUNDS.get(arm) or (budget is not None and tokens >= budget)
        if "synthesizer" in experience:
            written.append({"round": index, **told(experience["synthesizer"])})
        else:
            solved += 1
            if done or solved % EVERY[arm] == 0:
                read.append(accuracy(run, state, tokens))
        if done:
            break
    return {"arm": arm, "seed": seed, "tokens": tokens, **summary(written, read),
            "written": written, "read": read}  # fmt: skip


def told(rows: Sequence[Row]) -> dict[str, float]:
    """What a round's questions are like; shares are of all that were to be written."""
    texts = [row.info["question"] for row in rows]
    return {
        "bell": float(np.mean([bell(row.info["consistency"]) for row in rows])),
        "distinct": len({text for text in texts if text}) / len(rows),
        "readable": float(np.mean([bool(text) for text in texts])),
        "sums": float(np.mean(["+" in text for text in texts])),
        "differences": float(np.mean(["-" in text for text in texts])),
    }


def accuracy(run: Run, state: TrainState, tokens: int) -> dict[str, float]:
    """Share of right answers to the test questions, which are asked in training, and to others."""
    source = run.bench.source
    tasks: dict[str, list[Task]] = {
        "test": [source.train(n) for n in range(READ["test"])],
        "others": [source.held_out(n) for n in range(source.held_out_size)],
    }
    scores = {
        name: evaluate(
            run.bench.lab(state.params, evaluation=True), some, samples=READ["samples"]
        ).means()["strict_integer"]
        for name, some in tasks.items()
    }
    return {"tokens": tokens, **scores}


def summary(
    written: Sequence[dict[str, float]], read: Sequence[dict[str, float]]
) -> dict[str, float]:
    found = {}
    if written:
        found["bell_start"] = written[0]["bell"]
        for name in ("bell", "distinct"):
            found[f"{name}_end"] = float(np.mean([w[name] for w in written[-LAST:]]))
    if read:
        for name in ("test", "others"):
            found[f"{name}_start"], found[f"{name}_end"] = read[0][name], read[-1][name]
    return found


def verdict(runs: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """For every seed by itself. Who wins, turns or votes only, is reported and no part of it."""
    arms = {name: [r for r in runs if r["arm"] == name] for name in ARMS}
    return {
        "questions come to divide the solver": all(
            r["bell_end"] - r["bell_start"] >= TARGET["bell_rises_by"] for r in arms["penalty"]
        ),
        "the penalty keeps them distinct": all(
            one["distinct_end"] - other["distinct_end"] >= TARGET["distinct_kept_by_penalty"]
            for one, other in pairs(runs, "penalty", "no penalty")
        ),
        "the solver gets better without labels": all(
            r["test_end"] - r["test_start"] >= TARGET["accuracy_rises_by"] for r in arms["in turns"]
        ),
    }


COLORS = {"penalty": "C0", "no penalty": "C3", "in turns": "C0", "votes only": "0.55"}


def draw(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    draw_writers(axes[:2], [r for r in runs if "penalty" in r["arm"]])
    last = axes[2]
    for r in (r for r in runs if "penalty" not in r["arm"]):
        x = [1e-3 * one["tokens"] for one in r["read"]]
        last.plot(x, [one["test"] for one in r["read"]], **_style(r, runs))
    last.set(xlabel="sampled tokens (thousands)", ylabel="right answers (share)", ylim=(0, 1))
    last.set_title("Test questions, no labels", loc="left", fontsize=11)
    last.legend(frameon=False)


def draw_writers(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    """What the writers that are trained alone come to ask."""
    readings = {
        "bell": ("mean bell reward", "Questions divide the solver"),
        "distinct": ("distinct questions (share)", "Repetition"),
    }
    for one, (name, (ylabel, title)) in zip(axes, readings.items(), strict=True):
        for r in runs:
            x = [w["round"] for w in r["written"]]
            one.plot(x, [w[name] for w in r["written"]], **_style(r, runs))
        one.set(xlabel="updates of the writer", ylabel=ylabel, ylim=(0, 1))
        one.set_title(title, loc="left", fontsize=11)
        one.legend(frameon=False)


def _style(run: dict[str, Any], runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    label = run["arm"] if run["seed"] == runs[0]["seed"] else None
    return {"color": COLORS[run["arm"]], "label": label, "linewidth": 1.2}


STUDY = Study(
    name="ttcs",
    claim="A writer that is rewarded for dividing a fixed solver moves to questions on which half "
    "of the solver's answers agree, and stays more diverse with the penalty for repetition than "
    "without; in turns with such a writer a solver gets better at its test questions unlabelled.",
    settings={"warm": WARM, "known": KNOWN, "recipe": RECIPE, "arms": ARMS, "rounds": ROUNDS,
              "run": RUN, "read": READ, "every": EVERY, "last": LAST},
    target=TARGET,
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=3,
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
