"""A whole round of self-improvement, readable top to bottom.

`run_round` is the host half: collect rows, compute advantages once on the whole global batch, cut
the batch into updates, let parameter sets follow each other. `update` is the device half: one
jitted, donated function that scores, assigns credit, sums (numerator, denominator) pairs and steps
the optimizer. Neither knows a method: what differs between methods stands in the recipe.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxevo.base import over
from jaxevo.collect.lab import Learner
from jaxevo.collect.pack import fitting, minibatches, stack, used
from jaxevo.collect.table import Table, prepare
from jaxevo.losses.reduce import ratio
from jaxevo.losses.total import loss_parts, row_sums
from jaxevo.state import advance_counters, follow
from jaxevo.types import OWN, Array, Batch, Bound, Objective, Params, Recipe, Row, TrainState


def run_round(
    recipe: Recipe, learner: Learner, lab: Any, state: TrainState, memory: Any
) -> tuple[TrainState, Any, Mapping[str, Sequence[Row]], dict[str, list[dict[str, Any]]]]:
    """One round: experience, memory, updates of every objective that got rows, followers.

    Returns:
      state, memory, experience, and per objective one report per update.
    """
    experience = gather(recipe, lab, state, memory)
    memory = recipe.grow(memory, experience)
    state, reports = improve(recipe, learner, lab, state, experience)
    return state, memory, experience, reports


def gather(recipe: Recipe, lab: Any, state: TrainState, memory: Any) -> Mapping[str, Sequence[Row]]:
    """A round's rows by objective."""
    experience = recipe.collect(lab, state, memory)
    lab.close()  # the sampler's copy of the weights makes room for the update
    return experience


def improve(
    recipe: Recipe,
    learner: Learner,
    lab: Any,
    state: TrainState,
    experience: Mapping[str, Sequence[Row]],
) -> tuple[TrainState, dict[str, list[dict[str, Any]]]]:
    """The updates of every objective that got rows, and the sets that follow; counts the round."""
    reports: dict[str, list[dict[str, Any]]] = {}
    for objective in recipe.objectives:
        rows = experience.get(objective.name, ())
        if rows:
            state, reports[objective.name] = learn(
                objective, learner, lab.tokenizer, state, rows, lab.generator(objective.name)
            )
    stepped = any(bool(r["finite"]) for report in reports.values() for r in report)
    state = follow(recipe, state) if stepped else state
    return advance_counters(state, lab.position, lab.rollouts, reports), reports


def learn(
    objective: Objective,
    learner: Learner,
    tokenizer: Any,
    state: TrainState,
    rows: Sequence[Row],
    generator: np.random.Generator,
) -> tuple[TrainState, list[dict[str, Any]]]:
    """All updates of one objective on one round's rows."""
    shapes = learner.shapes[objective.name]
    table = prepare(rows, objective, shapes.answer, tokenizer)
    if objective.check is not None:
        objective.check(table.batch)
    if objective.idle is not None:
        idle_N = np.asarray(objective.idle(table.batch))
        table = dataclasses.replace(table, idle=frozenset(np.flatnonzero(idle_N).tolist()))
    plans = [
        cut for _ in range(objective.epochs) for cut in minibatches(table, objective, generator)
    ]
    if objective.reset is not None and objective.reset(state.counters):
        fresh = new_optimizer(state.params[objective.trains], objective=objective)
        where = jax.tree.map(lambda x: x.sharding, state.optimizer[objective.name])
        fresh = jax.device_put(fresh, where)  # another placement would compile the update anew
        state = state.replace(optimizer={**state.optimizer, objective.name: fresh})
    if objective.updates > 1 and "logp" in objective.read:
        table = with_old(table, objective, learner, state)
    reports = []
    for chosen in plans:
        batch = stack(table, chosen, shapes)
        slots = used(batch)
        others = {n: p for n, p in state.params.items() if n != objective.trains}
        params, optimizer, report = update(
            state.params[objective.trains],
            state.optimizer[objective.name],
            others,
            learner.place(batch),
            learner.base,
            objective=objective,
            forward=learner.forward,
            pin=learner.pin,
        )
        state = state.replace(
            params={**others, objective.trains: params},
            optimizer={**state.optimizer, objective.name: optimizer},
        )
        reports.append({**report, **table.told(chosen), "slots": slots})
    return state, reports


# ---------------------------------------------------------------------------- the jitted update
@functools.partial(
    jax.jit,
    static_argnames=("objective", "forward", "pin"),
    donate_argnames=("params", "optimizer"),
)
def update(
    params: Params,
    optimizer: Any,
    others: Mapping[str, Params],
    batch: Batch,
    base: Params | None = None,
    *,
    objective: Objective,
    forward: Bound,
    pin: Callable[[Any], Any] | None = None,
) -> tuple[Params, Any, dict[str, Any]]:
    """One optimizer update from a stack of micro-batches `[K, ...]`.

    Every term is Σ numerator / Σ denominator over all micro-batches and devices. The denominators
    are summed in a first pass (XLA drops whatever they do not depend on: usually the whole
    forward), so that each micro-batch's gradient can be divided as it is made. A loss or gradient
    that is not finite leaves weights and optimizer as they were.

    Returns:
      params, optimizer state, report: loss, loss/<term>, grad_norm, finite, and `signals`: by
      stream, [K, N, A] arrays per action.
    """

    score, fixed = over(base, forward), jax.lax.stop_gradient(params)
    sums: Mapping[str, Array] = {}
    if objective.sums is not None:
        sums = total_over(lambda micro: row_sums(fixed, others, micro, objective, score), batch)

    def parts(params: Params, micro: Batch) -> tuple[dict[str, tuple[Array, Array]], dict]:
        micro = dataclasses.replace(micro, sums=sums)
        return loss_parts(params, others, micro, objective, score)

    def denominators(micro: Batch) -> dict[str, Array]:
        return {name: den for name, (_, den) in parts(fixed, micro)[0].items()}

    total = total_over(denominators, batch)

    def loss_of(params: Params, micro: Batch) -> tuple[Array, tuple[dict, dict]]:
        pairs, signals = parts(params, micro)
        losses = {n: ratio(num, total[n]) for n, (num, _) in pairs.items()}
        weighted = [term.weight * losses[term.name] for term in objective.terms]
        return sum(weighted, jnp.float32(0)), (losses, signals)

    def gradient_of(micro: Batch) -> tuple[Params, tuple]:
        (loss, aux), gradient = jax.value_and_grad(loss_of, has_aux=True)(params, micro)
        return gradient, (loss, *aux)

    gradient, (loss_K, losses_K, signals) = summed_over(gradient_of, batch, like=params)
    loss, norm = loss_K.sum(), optax.global_norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)

    def step(params: Params, optimizer: Any) -> tuple[Params, Any]:
        changes, optimizer = objective.optimizer().update(gradient, optimizer, params)
        return optax.apply_updates(params, changes), optimizer

    if pin is not None:
        gradient = pin(gradient)
    params, optimizer = jax.lax.cond(finite, step, lambda *same: same, params, optimizer)
    if pin is not None:
        params, optimizer = pin(params), pin(optimizer)
    report = {"loss": loss, "grad_norm": norm, "finite": finite, "signals": signals}
    report |= {f"loss/{name}": x_K.sum() for name, x_K in losses_K.items()}
    return params, optimizer, report


def total_over(fn: Callable[[Batch], Mapping[str, Array]], batch: Batch) -> Mapping[str, Array]:
    """Sums over micro-batches. Of a single one, whatever the update computes too is done once."""
    if len(jax.tree.leaves(batch)[0]) == 1:
        return fn(jax.tree.map(lambda x_K: x_K[0], batch))
    return jax.tree.map(lambda x_K: x_K.sum(0), jax.lax.map(fn, batch))


def summed_over(fn: Any, batch: Batch, *, like: Params) -> tuple[Params, Any]:
    """Σ over micro-batches of what `fn` gives first, a tree as `like`, and the rest of it stacked.

    A single micro-batch needs no sum: no array of zeros, and no pass over the weights.
    """
    if len(jax.tree.leaves(batch)[0]) == 1:
        total, rest = fn(jax.tree.map(lambda x_K: x_K[0], batch))
        return total, jax.tree.map(lambda x: x[None], rest)

    def add(total: Params, micro: Batch) -> tuple[Params, Any]:
        more, rest = fn(micro)
        return jax.tree.map(jnp.add, total, more), rest

    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), batch)


@functools.partial(jax.jit, static_argnames=("objective",))
def new_optimizer(params: Params, *, objective: Objective) -> Any:
    """The state of an optimizer that has seen nothing."""
    return objective.optimizer().init(params)


@functools.partial(jax.jit, static_argnames=("forward",))
def old_logp(
    params: Params, batch: Batch, base: Params | None = None, *, forward: Bound
) -> dict[str, Array]:
    """Log-probs `[K, N, A]` of every stream under the weights that start the phase."""

    def score(micro: Batch) -> dict[str, Array]:
        packed, temperature = micro.layouts[OWN], micro.temperature
        now = over(base, forward)(params, packed, micro.answers, temperature, read=("logp",))
        return {name: stream.logp_NA for name, stream in now.items()}

    return jax.lax.map(score, batch)


def with_old(table: Table, objective: Objective, learner: Learner, state: TrainState) -> Table:
    """Adds the log-probs at the start of the phase, which later updates compare with."""
    shapes = learner.shapes[objective.name]
    size, count = shapes.micro * shapes.rows, len(table.rows)
    old = {n: np.zeros(a.mask_NA.shape, np.float32) for n, a in table.batch.answers.items()}
    for start in range(0, count, size):
        whole = list(range(start, min(start + size, count)))
        for chosen, batch in fitting(table, whole, shapes):
            params, placed = state.params[objective.trains], learner.place(batch)
            old_KNA = old_logp(params, placed, learner.base, forward=learner.forward)
            for name, logp_KNA in learner.fetch(old_KNA).items():
                flat = logp_KNA.reshape(-1, logp_KNA.shape[-1])
                old[name][chosen] = flat[: len(chosen)]
    return dataclasses.replace(table, batch=dataclasses.replace(table.batch, old=old))
