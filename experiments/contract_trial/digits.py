"""Digits in steps: problems for tree search whose every prefix has a known value, and a start.

`3-9-4-0-2=`, the next digit of each, is solved as `4-0-5-1-3`; every digit is a step. There is one
right solution, so that the value of a prefix is known without a search.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.learning import eval_lab
from experiments.warm_start import warm_start
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.readings import probe_row
from jaxevo.collect.tree_search import prefix_values
from jaxevo.heads import with_value_head
from jaxevo.models.hub import LoadedModel
from jaxevo.optimizers import adamw
from jaxevo.rewards import exact_match, infer_values
from jaxevo.run.build import Run, build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions
from jaxevo.tasks import task_source
from jaxevo.types import (
    Bound,
    Message,
    Minibatch,
    Objective,
    Params,
    ParamSet,
    Recipe,
    Row,
    Segment,
    Size,
    Sizes,
    Task,
    TaskSource,
    TrainState,
    bind,
    row_uid,
)

DIGITS = 6  # of a problem
PROMPT_TOKENS = ANSWER_TOKENS = 2 * DIGITS
TRAIN, HELD_OUT, EXAM = 2048, 128, 128
WRONG = 0.25  # share of wrong steps in what the start has seen
WARM = {
    "steps": 400,
    "rows": 64,
    "learning_rate": 2e-3,
    "prompt_tokens": PROMPT_TOKENS,
    "answer_tokens": ANSWER_TOKENS,
}
LABELLED_WAVE = 200  # of a round's rows that no search has found


# ---------------------------------------------------------------------------- problems
@functools.cache
def problems() -> tuple[list[tuple[int, ...]], ...]:
    """Digits of training, held-out and examination problems."""
    drawn = np.random.default_rng(0).integers(10, size=(2 * (TRAIN + HELD_OUT), DIGITS)).tolist()
    found = list(dict.fromkeys(tuple(digits) for digits in drawn))
    last = TRAIN + HELD_OUT
    return found[:TRAIN], found[TRAIN:last], found[last : last + EXAM]


def source(seed: int) -> TaskSource:
    train, held_out = ([_task(digits) for digits in side] for side in problems()[:2])
    verifiers = {"exact_match": exact_match}
    return task_source("digits", (train, held_out), verifiers=verifiers, seed=seed)


def _task(digits: tuple[int, ...]) -> Task:
    asked = _shown(digits)
    solution = "-".join(str((digit + 1) % 10) for digit in digits)
    return Task(f"digits/{asked}", (Message("user", asked),), solution)


def _shown(digits: Sequence[int]) -> str:
    return "-".join(map(str, digits)) + "="


def written(digits: Sequence[int], generator: np.random.Generator) -> tuple[list[str], list[bool]]:
    """A solution's steps, and which of them are right."""
    right = (generator.random(DIGITS) >= WRONG).tolist()
    slips = np.where(right, 1, generator.integers(2, 11, size=DIGITS))
    steps = [f"{(d + slip) % 10}-" for d, slip in zip(digits, slips.tolist(), strict=True)]
    return [*steps[:-1], steps[-1][0]], right


def example(generator: np.random.Generator) -> tuple[str, str]:
    """A training problem and a solution."""
    digits = problems()[0][int(generator.integers(TRAIN))]
    return _shown(digits), "".join(written(digits, generator)[0])


def true_values(right: Sequence[bool]) -> np.ndarray:
    """The inferred value of each step of a solution, as a branch of the one that is right."""
    depth = DIGITS
    wrong = right.index(False) if False in right else len(right)
    parent = [*range(-1, depth)]  # the root and the right steps
    for step in range(wrong, len(right)):  # what follows the first wrong step leads nowhere
        parent.append(wrong if step == wrong else len(parent) - 1)
    values, _ = infer_values(parent, np.arange(len(parent)) == depth)
    return np.concatenate([values[1 : wrong + 1], values[depth + 1 :]])


# ---------------------------------------------------------------------------- labelled solutions
def labelled(
    tokenizer: Any, chosen: Sequence[Sequence[int]], generator: np.random.Generator
) -> tuple[list[Row], np.ndarray]:
    """Every prefix of a drawn solution of each problem, in order, and its value."""
    rows, truth = [], []
    for n, digits in enumerate(chosen):
        steps, right = written(digits, generator)
        truth += list(true_values(right))
        for k in range(1, DIGITS + 1):
            ids = tokenizer.encode(_shown(digits) + "".join(steps[:k]))
            end = tokenizer.eos_ids[:1] if k == DIGITS else []
            given = Segment(np.array([*ids, *end], np.int32), "prompt")
            rows.append(Row(0, _task(tuple(digits)), n, (given,)))
    return rows, np.array(truth)


def labelled_rows(lab: Lab, solutions: int) -> list[Row]:
    """Every prefix of as many drawn solutions, as rows that a value model learns from."""
    generator = lab.generator("examples")
    chosen = [problems()[0][int(n)] for n in generator.integers(TRAIN, size=solutions)]
    rows, truth = labelled(lab.tokenizer, chosen, generator)
    return [
        dataclasses.replace(
            probe_row(row),
            uid=row_uid(lab.round_index, LABELLED_WAVE, n // DIGITS, n % DIGITS),
            group=row_uid(lab.round_index, LABELLED_WAVE, n // DIGITS, 0),
            numbers={"value": float(value)},
        )
        for n, (row, value) in enumerate(zip(rows, truth, strict=True))
    ]


def keeping_labels(recipe: Recipe, solutions: int) -> Recipe:
    """The recipe, whose value model goes on learning from labelled solutions, new ones per round.

    arXiv 2406.03816 trains its value model on D_V0 and what the searches add.
    """
    collect = bind(_collect_more, collect=recipe.collect, solutions=solutions)
    sizes = bind(_sizes_of_more, sizes=recipe.sizes, solutions=solutions)
    return dataclasses.replace(recipe, collect=collect, sizes=sizes)


def _collect_more(
    lab: Lab, state: TrainState, memory: Any, *, collect: Bound, solutions: int
) -> dict[str, list[Row]]:
    found = collect(lab, state, memory)
    return {**found, "value": [*found["value"], *labelled_rows(lab, solutions)]}


def _sizes_of_more(
    rollout: RolloutConfig, prompt_tokens: int, tokenizer: Any, *, sizes: Bound, solutions: int
) -> Sizes:
    found = sizes(rollout, prompt_tokens, tokenizer)
    value = found.objectives["value"]
    more = dataclasses.replace(value, rows=value.rows + solutions * DIGITS)
    return dataclasses.replace(found, objectives={**found.objectives, "value": more})


# ---------------------------------------------------------------------------- readings
def value_fit(
    run: Run, state: TrainState, prefixes: tuple[list[Row], np.ndarray]
) -> tuple[float, float]:
    """Mean squared error and rank correlation of the value model."""
    rows, truth = prefixes
    said = prefix_values(eval_lab(run, state), rows, like=run.recipe.objectives[0])
    flat = said.std() == 0
    correlation = 0.0 if flat else float(np.corrcoef(_ranks(truth), _ranks(said))[0, 1])
    return float(np.mean((said - truth) ** 2)), correlation


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[inverse]


# ---------------------------------------------------------------------------- the start
def policy_start(model: LoadedModel, seed: int) -> LoadedModel:
    """A model that has seen solutions with a known share of wrong steps."""
    return warm_start(model, bind(example), seed=seed, **WARM)


def value_start(
    model: LoadedModel,
    like: Objective,
    seed: int,
    *,
    updates: int,
    solutions: int,
    learning_rate: float,
    enough: float | None = None,
) -> Params:
    """The model with a value head, after updates on labelled solutions.

    Args:
      model: the policy's start.
      like: the objective that trains the values.
      seed: of the solutions.
      updates, solutions, learning_rate: AdamW updates at most, solutions of each, step size.
      enough: the rank correlation on the examination's problems at which no more updates are made,
        looked at every 25 of them; None makes all.

    Raises:
      ValueError: when all updates leave the rank correlation below `enough`.
    """
    cut = {"minibatch": Minibatch(), "epochs": 1}
    objective = dataclasses.replace(like, optimizer=bind(adamw, learning_rate=learning_rate), **cut)
    recipe = Recipe(
        "value-start",
        bind(_labelled, solutions=solutions),
        (objective,),
        params=(ParamSet("policy"), ParamSet("value", init=bind(with_value_head))),
        sizes=bind(_labelled_sizes, solutions=solutions),
    )
    run = build_run(recipe, RunOptions(seed=seed, prompt_tokens=PROMPT_TOKENS), model=model)
    exam = labelled(model.tokenizer, problems()[2], np.random.default_rng(0))
    state = run.state
    for update in range(updates):
        if enough is not None and update % 25 == 0 and value_fit(run, state, exam)[1] >= enough:
            return state.params["value"]
        state, _, _, _ = one_round(run, state, None)
    if enough is not None:
        raise ValueError(
            f"after {updates} updates the value model ranks prefixes with "
            f"{value_fit(run, state, exam)[1]:.2f}, but {enough} is asked for. Allow more updates."
        )
    return state.params["value"]


def _labelled(lab: Lab, state: TrainState, memory: Any, *, solutions: int) -> dict[str, list[Row]]:
    del state, memory
    return {"value": labelled_rows(lab, solutions)}


def _labelled_sizes(
    rollout: RolloutConfig, prompt_tokens: int, tokenizer: Any, *, solutions: int
) -> Sizes:
    """One prefix tree for each solution."""
    del rollout, tokenizer
    length = prompt_tokens + ANSWER_TOKENS
    size = Size(solutions * DIGITS, answer=1, group=DIGITS, slots=length + DIGITS)
    return Sizes(length, {"value": size})
