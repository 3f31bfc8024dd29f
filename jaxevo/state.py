"""The life of a `TrainState` between updates: how it begins, is counted, and how sets follow."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxevo.base import joined, without
from jaxevo.types import Array, Bound, Params, Recipe, TrainState

COUNTERS = ("round", "position", "rollouts", "updates", "skipped", "skipped_in_a_row")


def initial_state(
    recipe: Recipe,
    params: Params,
    *,
    key: Array | None = None,
    place: Callable[[Any], Any] = jax.device_put,
    base: Params | None = None,
    give: bool = False,
) -> TrainState:
    """Every named parameter set as its own copy of the loaded weights, optimizers at zero.

    `key` is for what sets add to them (`ParamSet.init`): each gets one of its own.

    Over a `base`, `params` are what every set has of its own. With `give` the last set takes them
    without a copy: they are the caller's no more.

    `place` puts a tree onto the devices where updates will leave it, so that the first update is
    compiled for the same layout as all others.
    """
    sets = {}
    for index, own in enumerate(recipe.params):
        last = index == len(recipe.params) - 1
        grown = params if give and last else jax.tree.map(jnp.copy, params)
        if own.init is not None:
            its_key = None if key is None else jax.random.fold_in(key, index)
            if base is None:
                grown = own.init(grown, its_key)
            else:
                grown = without(base, own.init(joined(base, grown), its_key))
        sets[own.name] = place(grown)
    optimizers = {o.name: place(o.optimizer().init(sets[o.trains])) for o in recipe.objectives}
    return TrainState(sets, optimizers, dict.fromkeys(COUNTERS, 0))


def state_shapes(recipe: Recipe, params: Params, **how: Any) -> TrainState:
    """`initial_state` of shapes: what it would hold, without memory for it."""

    def arrays(params: Params) -> tuple[Any, Any]:
        state = initial_state(recipe, params, **how)
        return state.params, state.optimizer

    sets, optimizers = jax.eval_shape(arrays, params)
    return TrainState(sets, optimizers, dict.fromkeys(COUNTERS, 0))


def follow(recipe: Recipe, state: TrainState) -> TrainState:
    """Lets every parameter set that is due follow its leader."""
    params = dict(state.params)
    for own in recipe.params:
        due = own.when is None or own.when(state.counters)
        if own.follows and own.rule and due:
            params[own.name] = _apply_rule(params[own.name], params[own.follows], rule=own.rule)
    return state.replace(params=params)


@functools.partial(jax.jit, static_argnames=("rule",), donate_argnames=("own",))
def _apply_rule(own: Params, leader: Params, *, rule: Bound) -> Params:
    return rule(own, leader)


def advance_counters(
    state: TrainState,
    position: int,
    rollouts: int,
    reports: Mapping[str, Sequence[Mapping[str, Any]]],
) -> TrainState:
    """Counts rounds, problems, the round's rollouts, updates, and updates refused for a non-finite
    loss or gradient."""
    counters = dict.fromkeys(COUNTERS, 0) | dict(state.counters)
    counters |= {"round": counters["round"] + 1, "position": position}
    counters["rollouts"] += rollouts
    for report in (r for reports_ in reports.values() for r in reports_):
        fine = bool(report["finite"])
        counters["updates"] += fine
        counters["skipped"] += not fine
        counters["skipped_in_a_row"] = 0 if fine else counters["skipped_in_a_row"] + 1
    return state.replace(counters=counters)
