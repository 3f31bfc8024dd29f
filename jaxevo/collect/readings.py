"""Ready-made functions for `lab.map`: what can be read off rows besides a loss.

Each is `fn(sets, batch, forward, *operands)` with named options, to be bound.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxevo.advantages.discriminant import Boundary, side_sums, token_directions
from jaxevo.losses.influence import Similarity, gradient_similarity
from jaxevo.losses.reduce import masked, ratio
from jaxevo.losses.total import loss_parts
from jaxevo.types import OWN, Array, Batch, Bound, Objective, Params, Row, Segment


def answer_logp(
    sets: Mapping[str, Params], batch: Batch, forward: Bound, *, params: str = "policy"
) -> jax.Array:
    """log π(answer | prompt) = Σₜ mₜ log π(tokenₜ) of each row, [N], in nats; by rows."""
    layout, answers = batch.layouts[OWN], batch.answers
    said = forward(sets[params], layout, answers, batch.temperature, read=("logp",))["text"]
    return masked(said.logp_NA, said.mask_NA).sum(-1)


def with_probe(row: Row) -> Row:
    """The row and a place at its end to read from; its id is 0, and nothing reads it."""
    probe = Segment(np.zeros(1, np.int32), "probe")
    return dataclasses.replace(row, segments=(*row.segments, probe))


def probe_row(row: Row) -> Row:
    """A conversation as context only, and a probe behind it, to read what it is worth so far.

    Its tokens become prompt, so that rows which share prefixes are computed as a tree.
    """
    context = tuple(Segment(s.ids, "prompt") for s in row.segments)
    bare = dataclasses.replace(row, segments=context, role="probe", rewards={}, info={})
    return with_probe(bare)


def probe_values(
    sets: Mapping[str, Params], batch: Batch, forward: Bound, *, params: str = "policy"
) -> jax.Array:
    """The value head's output at each row's probe, [N]; by rows, under an objective of probes."""
    layout, answers = batch.layouts[OWN], batch.answers
    said = forward(sets[params], layout, answers, batch.temperature, read=("values",))["text"]
    return masked(said.values_NA, said.mask_NA).sum(-1)


def token_values(
    sets: Mapping[str, Params], batch: Batch, forward: Bound, *, params: str = "value"
) -> jax.Array:
    """The value head's output before each answer token that is learnt, [N, A], 0 elsewhere."""
    layout, answers = batch.layouts[OWN], batch.answers
    said = forward(sets[params], layout, answers, batch.temperature, read=("values",))["text"]
    return masked(said.values_NA, said.mask_NA)


def discriminant_sums(
    sets: Mapping[str, Params],
    batch: Batch,
    forward: Bound,
    boundary: Boundary | None = None,
    *,
    params: str = "policy",
) -> dict[str, jax.Array]:
    """`side_sums` of the answer tokens that are learnt; by rows, under an objective whose advantage
    is one per row."""
    layout, answers = batch.layouts[OWN], batch.answers
    read = ("logp", "hidden")
    said = forward(sets[params], layout, answers, batch.temperature, read=read)["text"]
    vector_NAD = token_directions(said.logp_NA, said.hidden_NAD, said.mask_NA)
    return side_sums(vector_NAD, said.mask_NA, jnp.asarray(batch.advantage_N), boundary)


def objective_gradient(
    sets: Mapping[str, Params], batch: Batch, forward: Bound, *, objective: Objective
) -> Params:
    """∇θ of an objective's loss on these rows alone, a tree like the set it trains; by groups.

    Ratios are 1, as before the first update of a round, and each term is divided by the
    denominator of these rows.
    """
    others = {name: params for name, params in sets.items() if name != objective.trains}

    def loss(params: Params) -> jax.Array:
        pairs, _ = loss_parts(params, others, batch, objective, forward)
        terms = [term.weight * ratio(*pairs[term.name]) for term in objective.terms]
        return sum(terms, jnp.float32(0))

    return jax.grad(loss)(sets[objective.trains])


def influence(
    sets: Mapping[str, Params],
    batch: Batch,
    forward: Bound,
    reference: Params,
    second_moment: Params,
    count: Array,
    *,
    objective: Objective,
    similarity: Similarity = "preconditioned_cosine",
) -> jax.Array:
    """`gradient_similarity` of `objective_gradient` and a reference gradient; by groups.

    One scalar per group: the gradients themselves never leave the device. `second_moment` and
    `count` are those of the live optimizer (`optimizers.adam_moments`).
    """
    gradient = objective_gradient(sets, batch, forward, objective=objective)
    return gradient_similarity(gradient, reference, second_moment, count, similarity=similarity)
