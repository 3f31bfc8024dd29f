"""All terms of an objective on one micro-batch: frozen views, current forward, credit, terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from jaxevo.types import OWN, Array, Batch, Blended, Objective, Params, Stream, View

Streams = Mapping[str, Stream]


def loss_parts(
    params: Params,
    others: Mapping[str, Params],
    micro: Batch,
    objective: Objective,
    forward: Callable[..., Streams],
) -> tuple[dict[str, tuple[Array, Array]], dict[str, dict[str, Array]]]:
    """Frozen views, current forward, credit, terms -> (numerator, denominator) by term.

    Also returns, by stream, what there is to see of every action: logp and entropy if they were
    read, the terms' values, the credit; [N, A] each.
    """
    now, frozen = scored(params, others, micro, objective, forward)
    stopped = jax.lax.stop_gradient(now)
    credit = jax.lax.stop_gradient(objective.credit(micro, stopped, frozen))
    pairs, signals = {}, {}
    for name, stream in stopped.items():
        said = {"logp": stream.logp_NA, "entropy": stream.entropy_NA}
        signals[name] = {what: x_NA for what, x_NA in said.items() if x_NA is not None}
        signals[name] |= credit.get(name, {})
    for term in objective.terms:
        own = credit.get(term.stream, {})
        value_NA, mask_NA = term.fn(now, frozen, own, micro, stream=term.stream)
        reduce = term.reduce or objective.reduce
        pairs[term.name] = reduce(value_NA, mask_NA, rows_N=micro.real_N)
        signals[term.stream][term.name] = jnp.where(mask_NA, jax.lax.stop_gradient(value_NA), 0.0)
    return pairs, signals


def row_sums(
    params: Params,
    others: Mapping[str, Params],
    micro: Batch,
    objective: Objective,
    forward: Callable[..., Streams],
) -> Mapping[str, Array]:
    """One micro-batch's part of `objective.sums`."""
    now, frozen = scored(params, others, micro, objective, forward)
    return objective.sums(micro, now, frozen) if objective.sums is not None else {}


def scored(
    params: Params,
    others: Mapping[str, Params],
    micro: Batch,
    objective: Objective,
    forward: Callable[..., Streams],
) -> tuple[Streams, dict[str, Streams]]:
    """The current forward, and the frozen views with `old` among them."""
    sets = {**others, objective.trains: params}

    def score(name: str, layout: str, read: tuple[str, ...]) -> Streams:
        return forward(
            sets[name], micro.layouts[layout], micro.answers, micro.temperature, read=read
        )

    def seen(view: View) -> Streams:
        layout = view.name if view.context else OWN
        said, *second = (score(name, layout, view.read) for name in view.sets)
        return blended(said, second[0], view.blend[1]) if view.blend else said

    frozen = {view.name: jax.lax.stop_gradient(seen(view)) for view in objective.views}
    now = score(objective.trains, OWN, objective.read)
    old = {} if micro.old is None else micro.old
    frozen["old"] = {
        name: dataclasses.replace(s, logp_NA=old.get(name, s.logp_NA))
        for name, s in jax.lax.stop_gradient(now).items()
    }
    return now, frozen


def blended(first: Streams, second: Streams, share: float) -> Streams:
    """The first's streams, with the second's hidden states beside them; see `View.blend`."""

    def both(one: Stream, other: Stream) -> Stream:
        if other.hidden_NAD is None or other.head_DV is None:
            return one
        return dataclasses.replace(one, blend=Blended(other.hidden_NAD, other.head_DV, share))

    return {name: both(stream, second[name]) for name, stream in first.items()}
