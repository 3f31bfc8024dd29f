"""A model that has learnt the form of an answer from examples, before it learns by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxevo.advantages import zero_advantage
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.losses.credit import broadcast
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import imitation
from jaxevo.models.hub import LoadedModel
from jaxevo.optimizers import adamw
from jaxevo.run.ahead import gather_round
from jaxevo.run.build import build_run
from jaxevo.run.options import RunOptions
from jaxevo.step import improve
from jaxevo.types import (
    Bound,
    Message,
    Objective,
    Recipe,
    Row,
    Segment,
    Size,
    Sizes,
    Source,
    Task,
    Term,
    TrainState,
    bind,
    row_uid,
)

Parts = Sequence[tuple[Source, str]]  # of an answer: "forced" ones are learnt, "tool" ones not
Example = tuple[str, str | Parts]  # prompt and answer


def warm_start(
    model: LoadedModel,
    draw: Bound,
    *,
    prompt_tokens: int,
    answer_tokens: int,
    steps: int = 150,
    rows: int = 64,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> LoadedModel:
    """Supervised updates on drawn examples; every answer ends with the tokenizer's EOS.

    Args:
      model: whose weights are the start.
      draw: `(generator) -> (prompt, answer)`; an answer is a text or (source, text) parts.
      prompt_tokens, answer_tokens: the longest of either, EOS included.
      steps, rows, learning_rate: AdamW updates, examples of each, and step size.
      seed: of the examples.
    """
    objective = Objective(
        name="policy",
        advantage=bind(zero_advantage),
        credit=bind(broadcast),
        terms=(Term("imitation", bind(imitation)),),
        reduce=reducer("token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate, warmup_updates=10),
        learns=("forced",),
    )
    sizes = bind(_sizes, rows=rows, prompt=prompt_tokens, answer=answer_tokens)
    collect = bind(_examples, draw=draw, rows=rows)
    recipe = Recipe("imitation", collect, (objective,), sizes=sizes)
    state = rounds(recipe, model, prompt_tokens=prompt_tokens, steps=steps, seed=seed)
    return dataclasses.replace(model, params=state.params["policy"])


def said(truth: int, generator: np.random.Generator, *, known: float) -> int:
    """A sum as examples have it: right with the share `known`, or off by a slip."""
    slip = int(generator.choice([-10, -2, -1, 1, 2, 10]))
    return truth if generator.random() < known else truth + slip


def rounds(
    recipe: Recipe, model: LoadedModel, *, prompt_tokens: int, steps: int, seed: int
) -> TrainState:
    """The state after so many rounds of a recipe that samples nothing and has no memory; no log."""
    run = build_run(recipe, RunOptions(seed=seed, prompt_tokens=prompt_tokens), model=model)
    state = run.state
    for _ in range(steps):
        found = gather_round(run, state, None)
        with run.placement.scope():
            state, _ = improve(run.recipe, run.learner, found.lab, state, found.experience)
    return state


def _examples(
    lab: Lab, state: TrainState, memory: Any, *, draw: Bound, rows: int
) -> dict[str, list[Row]]:
    del state, memory
    generator = lab.generator("examples")
    examples = [draw(generator) for _ in range(rows)]
    return {"policy": forced_rows(lab.tokenizer, examples, round_index=lab.round_index)}


def forced_rows(tokenizer: Any, examples: Sequence[Example], *, round_index: int = 0) -> list[Row]:
    """Examples as rows whose answers are given, not sampled."""
    rows = []
    for index, (prompt, answer) in enumerate(examples):
        uid = row_uid(round_index, 0, index, 0)
        parts: Parts = (("forced", answer),) if isinstance(answer, str) else answer
        task = Task(f"example/{uid}", (Message("user", prompt),), "".join(t for _, t in parts))
        asked = np.array(tokenizer.render(task.messages), np.int32)
        told = [Segment(np.array(tokenizer.encode(text), np.int32), s) for s, text in parts]
        end = Segment(np.array(tokenizer.eos_ids[:1], np.int32), "forced")
        rows.append(Row(uid, task, uid, (Segment(asked, "prompt"), *told, end)))
    return rows


def _sizes(
    rollout: RolloutConfig,
    prompt_tokens: int,
    tokenizer: Any,
    *,
    rows: int,
    prompt: int,
    answer: int,
) -> Sizes:
    del rollout, prompt_tokens, tokenizer
    return Sizes(prompt, {"policy": Size(rows, answer, group=1, slots=prompt + answer - 1)})
