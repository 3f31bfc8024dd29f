"""Rows whose policy acts in a continuous space, too, in the context of what it has said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo import flow
from jaxevo.collect.lab import Lab, RolloutConfig
from jaxevo.collect.readings import with_probe
from jaxevo.heads import flow_head
from jaxevo.keys import row_keys
from jaxevo.types import (
    OWN,
    Actions,
    Array,
    Batch,
    Bound,
    Objective,
    Params,
    Row,
    Size,
    Sizes,
    TrainState,
    bind,
)

CHAIN = 0x666C6F77  # folded into a row's key: no position of its text comes near


def act(
    lab: Lab,
    rows: Sequence[Row],
    *,
    like: Objective,
    stream: str = "flow",
    params: str = "policy",
    noise: float,
    noisy: Sequence[bool],
) -> list[Row]:
    """Draws one chain of flow transitions per row, after all that the row says.

    Args:
      rows: as sampled; they get a probe at their end.
      like: the objective under whose shapes they are read.
      stream: what the chains are called; the parameter set has a flow head of that name.
      params: the parameter set that acts.
      noise: a > 0, the noise level of noisy steps (`flow.sde_step`).
      noisy: for every step whether it is drawn; the others follow the ODE.

    Returns:
      the rows with a probe and their `Actions`, whose data are before, after [T, d], time [T, 2]
      and noise [T].
    """
    probed = [with_probe(row) for row in rows]
    read = bind(_draw, stream=stream, params=params, noise=noise)
    moves = lab.map(read, probed, like=like, operands=(lab.key, np.asarray(noisy, bool)))
    acted = []
    for n, row in enumerate(probed):
        own = {name: x_NT[n] for name, x_NT in moves.items()}
        actions = Actions(mask=own.pop("mask"), logp=own.pop("logp"), data=own)
        acted.append(dataclasses.replace(row, actions={**row.actions, stream: actions}))
    return lab.record(acted)


def _draw(
    sets: Mapping[str, Params],
    batch: Batch,
    forward: Bound,
    run_key: Array,
    noisy_T: Array,
    *,
    stream: str,
    params: str,
    noise: float,
) -> dict[str, jax.Array]:
    answers = batch.answers["text"]
    said = forward(
        sets[params], batch.layouts[OWN], {"text": answers}, batch.temperature, read=("hidden",)
    )["text"]
    context_ND = said.hidden_NAD[jnp.arange(batch.uid_N2.shape[0]), answers.probe_N]
    keys_N = jax.vmap(jax.random.fold_in, in_axes=(0, None))(row_keys(run_key, batch.uid_N2), CHAIN)
    head = flow_head(sets[params], stream)
    return flow.draw(head, keys_N, context_ND, noise=noise, noisy_T=noisy_T)


# ---------------------------------------------------------------------------- a whole wave
def think_then_act(
    lab: Lab,
    state: TrainState,
    memory: Any,
    *,
    like: Objective,
    judge: Bound,
    steps: int,
    window: tuple[int, int],
    noise: float,
    stream: str = "flow",
) -> dict[str, list[Row]]:
    """P problems, G answers each, every one followed by a chain of flow transitions.

    Args:
      lab, state, memory: as for every `Recipe.collect`.
      like: the objective that learns from the rows.
      judge: `(task, text, end of the chain [d]) -> reward`.
      steps: steps of a chain.
      window: (count, end): so many steps in a row are drawn and learnt from; where they begin is
        drawn anew each round, so that they end at most at step `end`. The others follow the ODE.
      noise: the noise level of those steps.
      stream: what the chains are called.
    """
    del state, memory
    count, end = window
    first = int(lab.generator("window").integers(end - count + 1))
    noisy = [first <= step < first + count for step in range(steps)]
    rows = lab.sample(lab.tasks())
    acted = act(lab, rows, like=like, stream=stream, noise=noise, noisy=noisy)
    return {like.name: judged(lab, acted, judge=judge, stream=stream)}


def judged(lab: Lab, rows: Sequence[Row], *, judge: Bound, stream: str = "flow") -> list[Row]:
    """The rows with what `judge` says of their texts and the ends of their chains."""
    scored = []
    for row in rows:
        end_d = row.actions[stream].data["after"][-1]
        reward = judge(row.task, lab.answer_text(row), end_d)
        scored.append(dataclasses.replace(row, rewards={"judge": reward}))
    return lab.record(scored)


def think_then_act_sizes(
    rollout: RolloutConfig, prompt_tokens: int, tokenizer: Any, *, objective: str = "policy"
) -> Sizes:
    """One tree per problem; every answer has a probe at its end."""
    del tokenizer
    G, A = rollout.samples, rollout.new_tokens + 1
    size = Size(rollout.prompts * G, answer=A, group=G, slots=prompt_tokens + G * (A - 1))
    return Sizes(prompt_tokens, {objective: size})
