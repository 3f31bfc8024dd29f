"""Sums in steps, searched as trees: `python -m experiments.contract_trial.rest_mcts`.

`3+4+0+2+1+1=` is solved modulo 5 as `2+0+2+1+1=2+2+1+1=4+1+1=0+1=1`. The start is a toy that has
seen such solutions with a known share of wrong steps, so that it is right at one whole solution in
four or so. Tree search, which stops at the first node of the end gate's value, and Best-of-N spend
the same number of sampled tokens on each problem and choose their answer by the same rule: the
finished solution of the largest value under the same value model.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.contract_trial.study import Study, main
from experiments.contract_trial.warm_start import warm_start
from jaxevo.collect.lab import Lab
from jaxevo.collect.tree_search import Search, ends, grow_trees, prefix_values
from jaxevo.models import hub
from jaxevo.recipes.rest_mcts import rest_mcts
from jaxevo.rewards import infer_values, last_integer
from jaxevo.run.build import Run, build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions
from jaxevo.tasks import task_source
from jaxevo.tasks.draw import fixed_hash
from jaxevo.types import Message, Row, Segment, Task, TaskSource, TrainState, bind

TERMS, BASE = 6, 5  # operands of a problem, and what their sum is taken modulo
TRAIN, HELD_OUT = 2048, 128
WRONG = 0.25  # share of wrong steps in what the start has seen
RECIPE = {
    "iterations": 10,
    "branch": 3,
    "roll_steps": 1,
    "explore": 0.1,
    "unvisited": 0.1,
    "step_tokens": 10,
    "step_end": ("=",),
    "paths": 4,
    "least_value": 0.0,
    "learning_rate": 3e-4,
    "value_learning_rate": 1e-3,
    "value_epochs": 4,
    "minibatches": 4,
}
RUN = {"prompts": 128, "samples": 4, "max_new_tokens": 38, "prompt_tokens": 12}
WARM = {"steps": 400, "rows": 64, "learning_rate": 2e-3, "prompt_tokens": 12, "answer_tokens": 31}
ROUNDS = 2
# How trees are grown for the comparison, where it differs.
EVALUATION: dict[str, Any] = {"until_gate": True, "iterations": 20}
ARMS = {"verified": {"control": "none"}, "coin": {"control": "random"}}
TARGET = {
    "rank_correlation_above": 0.5,
    "search_lead_at_least": 0.05,
    "gain_at_least": 0.1,
    "coin_gain_at_most": 0.05,
}
TRIED: list[dict[str, Any]] = []


# ---------------------------------------------------------------------------- problems
@functools.cache
def problems() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Operands of training and of held-out problems; none of one side is a reordering of one of
    the other, since about a quarter of all operand sets is held out."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(BASE, size=(8 * (TRAIN + HELD_OUT), TERMS)).tolist()
    found = list(dict.fromkeys(tuple(operands) for operands in drawn))
    held_out = [o for o in found if _is_held_out(o)]
    return [o for o in found if not _is_held_out(o)][:TRAIN], held_out[:HELD_OUT]


def _is_held_out(operands: Sequence[int]) -> bool:
    return fixed_hash(str(sorted(operands))) % 4 == 0


def source(seed: int) -> TaskSource:
    train, held_out = ([_task(operands) for operands in side] for side in problems())
    verifiers = {"last_integer": last_integer}
    return task_source("steps", (train, held_out), verifiers=verifiers, seed=seed)


def _task(operands: tuple[int, ...]) -> Task:
    asked = _shown(operands)
    return Task(f"steps/{asked}", (Message("user", asked),), str(sum(operands) % BASE))


def _shown(numbers: Sequence[int]) -> str:
    return "+".join(map(str, numbers)) + "="


def written(
    operands: Sequence[int], generator: np.random.Generator
) -> tuple[list[str], list[bool]]:
    """A solution's steps, and which of them are right; a wrong one adds wrongly."""
    left, steps, right = list(operands), [], []
    while len(left) > 1:
        right.append(bool(generator.random() >= WRONG))
        slip = 0 if right[-1] else int(generator.integers(1, BASE))
        left = [(left[0] + left[1] + slip) % BASE, *left[2:]]
        steps.append(_shown(left) if len(left) > 1 else str(left[0]))
    return steps, right


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A training problem and a solution."""
    operands = problems()[0][int(generator.integers(len(problems()[0])))]
    return _shown(operands), "".join(written(operands, generator)[0])


def true_values(right: Sequence[bool]) -> np.ndarray:
    """The inferred value of each step of a solution, as a branch of the one that is right."""
    depth = TERMS - 1
    wrong = right.index(False) if False in right else len(right)
    parent = [*range(-1, depth)]  # the root and the right steps
    for step in range(wrong, len(right)):  # what follows the first wrong step leads nowhere
        parent.append(wrong if step == wrong else len(parent) - 1)
    values, _ = infer_values(parent, np.arange(len(parent)) == depth)
    return np.concatenate([values[1 : wrong + 1], values[depth + 1 :]])


# ---------------------------------------------------------------------------- readings
def eval_lab(run: Run, state: TrainState) -> Lab:
    return run.bench.lab(state.params, learner=run.learner, evaluation=True)


def held_out_tasks(run: Run) -> list[Task]:
    return [run.bench.source.held_out(i) for i in range(HELD_OUT)]


def policy_accuracy(run: Run, state: TrainState) -> float:
    lab = eval_lab(run, state)
    rows = lab.verify(lab.sample(held_out_tasks(run), samples=4))
    return float(np.mean([row.reward for row in rows]))


def value_fit(run: Run, state: TrainState) -> tuple[float, float]:
    """Mean squared error and rank correlation on prefixes of held-out solutions."""
    lab, generator = eval_lab(run, state), np.random.default_rng(1)
    rows, truth = [], []
    for n, operands in enumerate(problems()[1]):
        steps, right = written(operands, generator)
        truth += list(true_values(right))
        rows += [_prefix(lab, operands, steps[: k + 1], n) for k in range(len(steps))]
    said = prefix_values(lab, rows, like=run.recipe.objectives[0])
    ranks = [_ranks(np.array(truth)), _ranks(said)]
    flat = said.std() == 0
    return float(np.mean((said - truth) ** 2)), 0.0 if flat else float(np.corrcoef(ranks)[0, 1])


def _prefix(lab: Lab, operands: Sequence[int], steps: Sequence[str], group: int) -> Row:
    end = [] if steps[-1].endswith("=") else [lab.tokenizer.eos_ids[0]]
    ids = [*lab.tokenizer.encode(_shown(operands) + "".join(steps)), *end]
    return Row(0, _task(tuple(operands)), group, (Segment(np.array(ids, np.int32), "prompt"),))


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


def search_against_sampling(run: Run, state: TrainState, how: Search) -> dict[str, float]:
    """Share of held-out problems solved by tree search and by Best-of-N, with equal tokens."""
    like, tasks = run.recipe.objectives[0], held_out_tasks(run)
    lab = eval_lab(run, state)
    score = functools.partial(prefix_values, lab, like=like)
    trees, rows = grow_trees(lab, tasks, how=how, score=score)
    _, found = ends(lab, trees, rows, how)
    spent = _tokens(list(lab.sampled.values()))
    groups = [row.group for row in rows[: len(tasks)]]
    searched = [[row for row in found if row.group == group] for group in groups]
    drawn = best_of_n(run, state, tasks, [spent[group] for group in groups])
    result = {
        "tokens_search": float(np.mean([spent[group] for group in groups])),
        "tokens_best_of_n": float(np.mean([sum(r.sampled_tokens for r in d) for d in drawn])),
        "samples_best_of_n": float(np.mean([len(d) for d in drawn])),
        "ends_search": float(np.mean([len(s) for s in searched])),
        "majority": float(np.mean([_majority(lab, d) for d in drawn])),
    }
    for name, answers in (("search", searched), ("best_of_n", drawn)):
        result[name] = _chosen(lab, answers, like)
        result[f"found_{name}"] = float(np.mean([any(_right(r) for r in a) for a in answers]))
    return result


def best_of_n(
    run: Run, state: TrainState, tasks: Sequence[Task], budgets: Sequence[int]
) -> list[list[Row]]:
    """Whole solutions of each problem until they have at least as many tokens as it may cost."""
    lab, drawn = eval_lab(run, state), [[] for _ in tasks]
    while short := [n for n, d in enumerate(drawn) if sum(map(_length, d)) < budgets[n]]:
        # All problems are asked in every wave, so that the sampler has one program.
        rows = lab.verify(lab.sample(tasks, samples=1))
        for n in short:
            drawn[n].append(rows[n])
    return drawn


def _length(row: Row) -> int:
    return row.sampled_tokens


def _right(row: Row) -> bool:
    return row.reward > 0.5


def _tokens(rows: Sequence[Row]) -> dict[int, int]:
    """Sampled tokens of each group, once each: forks share segments."""
    spent: dict[int, dict[int, int]] = {}
    for row in rows:
        own = spent.setdefault(row.group, {})
        own |= {id(s): len(s.ids) for s in row.segments if s.source == "policy"}
    return {group: sum(lengths.values()) for group, lengths in spent.items()}


def _chosen(lab: Lab, answers: Sequence[Sequence[Row]], like: Any) -> float:
    """Share of problems whose answer of the largest value is right."""
    values = iter(prefix_values(lab, [row for rows in answers for row in rows], like=like))
    right = []
    for rows in answers:
        told = [next(values) for _ in rows]
        right.append(bool(rows) and _right(rows[int(np.argmax(told))]))
    return float(np.mean(right))


def _majority(lab: Lab, rows: Sequence[Row]) -> float:
    votes: dict[str, list[float]] = {}
    for row in rows:
        votes.setdefault(lab.answer_text(row).split("=")[-1], []).append(row.reward)
    return max(votes.values(), key=len)[0]


# ---------------------------------------------------------------------------- runs
def run_seed(seed: int) -> list[dict[str, Any]]:
    """The recipe, and the same with verdicts by coin, from the same start."""
    model = warm_start(hub.load("toy"), bind(example), seed=seed, **WARM)
    return [run_arm(arm, seed, model) for arm in ARMS]


def run_arm(arm: str, seed: int, model: hub.LoadedModel) -> dict[str, Any]:
    """Readings before the first and after each self-training iteration."""
    options = RunOptions(model="toy", seed=seed, eval_problems=0, **{**RUN, **ARMS[arm]})
    run = build_run(rest_mcts(**RECIPE), options, model=model)
    run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source(seed)))
    how = dataclasses.replace(dict(run.recipe.collect.options)["how"], **EVALUATION)
    state, memory, curve = run.state, run.memory, []
    for index in range(ROUNDS + 1):
        reading: dict[str, Any] = {"iteration": index, "accuracy": policy_accuracy(run, state)}
        if arm == "verified" and index:
            mse, correlation = value_fit(run, state)
            reading |= {"value_mse": mse, "rank_correlation": correlation}
            reading |= search_against_sampling(run, state, how)
        curve.append(reading)
        if index < ROUNDS:
            state, memory, metrics, _ = one_round(run, state, memory)
            curve[-1]["tokens_trained_on"] = metrics["tokens"]
    return {"arm": arm, "seed": seed, "curve": curve}


def compared(run: dict[str, Any]) -> dict[str, float] | None:
    """The first reading whose value model ranks held-out prefixes well enough."""
    good = [
        c for c in run["curve"] if c.get("rank_correlation", 0.0) > TARGET["rank_correlation_above"]
    ]
    return good[0] if good else None


def verdict(runs: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """For every seed by itself, but for the margin of the search, which is a mean over seeds."""
    own = [r for r in runs if r["arm"] == "verified"]
    coin = [r for r in runs if r["arm"] == "coin"]
    pairs = [compared(r) for r in own]
    leads = [p["search"] - p["best_of_n"] for p in pairs if p is not None]
    gains = {id(r): [c["accuracy"] - r["curve"][0]["accuracy"] for c in r["curve"]] for r in runs}
    return {
        "value error falls from iteration 1 to 2": all(
            r["curve"][2]["value_mse"] < r["curve"][1]["value_mse"] for r in own
        ),
        "search solves more than best of n": len(leads) == len(own)
        and min(leads) >= 0
        and float(np.mean(leads)) >= TARGET["search_lead_at_least"],
        "accuracy rises": all(
            0 < gains[id(r)][1] < gains[id(r)][2] and gains[id(r)][2] >= TARGET["gain_at_least"]
            for r in own
        ),
        "by coin it does not": all(gains[id(r)][-1] <= TARGET["coin_gain_at_most"] for r in coin),
    }


def draw(axes: Any, runs: Sequence[dict[str, Any]]) -> None:
    left, right = axes
    colors = {"verified": "C0", "coin": "0.55"}
    for r in runs:
        x = [c["iteration"] for c in r["curve"]]
        first = r["seed"] == runs[0]["seed"]
        label = r["arm"] if first else None
        left.plot(x, [c["accuracy"] for c in r["curve"]], color=colors[r["arm"]], label=label)
        if r["arm"] == "verified":
            read = [c for c in r["curve"] if "search" in c]
            for name, style in (("search", "C0o-"), ("best_of_n", "C1s--"), ("majority", "C2^:")):
                y = [c[name] for c in read]
                told = name.replace("_", " ") if first else None
                right.plot([c["iteration"] for c in read], y, style, label=told, linewidth=1)
    left.set(xlabel="self-training iteration", ylabel="right solutions", ylim=(0, 1))
    left.set_title("The policy alone", loc="left", fontsize=10)
    right.set(xlabel="self-training iteration", ylabel="problems solved", ylim=(0, 1))
    right.set_title("With equal tokens", loc="left", fontsize=10)
    for one in axes:
        one.set_xticks(range(ROUNDS + 1))
        one.legend(frameon=False)


STUDY = Study(
    name="rest_mcts",
    claim="Over two iterations of self-training on its own tree searches the value model's error "
    "on held-out prefixes falls and the policy's accuracy rises; with verdicts by coin it does "
    "not. Under a value model of rank correlation above 0.5 tree search solves more problems than "
    "Best-of-N with as many sampled tokens.",
    settings={"terms": TERMS, "wrong": WRONG, "recipe": RECIPE, "run": RUN, "warm": WARM,
              "evaluation": EVALUATION, "rounds": ROUNDS, "held_out": HELD_OUT},
    target=TARGET,
    tried=TRIED,
    run=run_seed,
    verdict=verdict,
    draw=draw,
    panels=2,
)  # fmt: skip

if __name__ == "__main__":
    raise SystemExit(main(STUDY))
