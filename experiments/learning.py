"""One arm of a mechanism study: a recipe learns for so many rounds, and is asked what it can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxevo.collect.lab import Lab
from jaxevo.models.hub import LoadedModel
from jaxevo.run.build import Run, build_run
from jaxevo.run.loop import one_round
from jaxevo.run.options import RunOptions
from jaxevo.types import Bound, Recipe, TaskSource, TrainState

Reading = Callable[[Run, TrainState], Mapping[str, float]]


def learn(
    recipe: Recipe,
    model: LoadedModel,
    options: RunOptions,
    *,
    every: int,
    reading: Reading,
    keep: Sequence[str] = (),
    source: TaskSource | None = None,
) -> dict[str, Any]:
    """All rounds of a run, without a folder.

    Args:
      recipe: of the arm.
      model: where it starts.
      options: rounds, task, seed and sizes.
      every: rounds between two readings; there is one at the start and one at the end.
      reading: `(run, state) -> numbers`.
      keep: metrics of every round that are kept.
      source: of problems that have no name; its prompts must be no longer than those of the task.

    Returns:
      curve: readings with the `round` and the `rollouts` (rows sampled so far); by_round: kept
      metrics, 0 where a round did not have one.
    """
    run = build_run(recipe, options, model=model)
    if source is not None:
        run = dataclasses.replace(run, bench=dataclasses.replace(run.bench, source=source))
    state, memory, rollouts = run.state, run.memory, 0
    curve: list[dict[str, float]] = []
    by_round: dict[str, list[float]] = {name: [] for name in keep}
    for index in range(options.rounds + 1):
        if index % every == 0 or index == options.rounds:
            curve.append({"round": index, "rollouts": rollouts, **reading(run, state)})
        if index < options.rounds:
            state, memory, metrics, records = one_round(run, state, memory)
            rollouts += len(records)
            for name, values in by_round.items():
                values.append(float(metrics.get(name, 0.0)))
    return {"curve": curve, "by_round": by_round}


def arms(makers: Mapping[str, Bound], seed: int, *args: Any, **how: Any) -> list[dict[str, Any]]:
    """`learn(recipe, *args, **how)` of the recipe that each arm's maker makes."""
    return [
        {"arm": arm, "seed": seed, **learn(make(), *args, **how)} for arm, make in makers.items()
    ]


def eval_lab(run: Run, state: TrainState) -> Lab:
    """The instruments of a reading, with randomness of their own."""
    return run.bench.lab(state.params, learner=run.learner, evaluation=True)


def accuracy(run: Run, state: TrainState, *, problems: int) -> dict[str, float]:
    """Share of right answers to the first held-out problems, sampled as in training."""
    tasks = [run.bench.source.held_out(n) for n in range(problems)]
    rows = eval_lab(run, state).attempt(tasks)
    return {"accuracy": float(np.mean([row.accuracy for row in rows]))}
