"""How useful one gradient is for another objective, as the optimizer would apply it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxevo.types import Array, Params

Similarity: TypeAlias = Literal["dot", "cosine", "preconditioned_dot", "preconditioned_cosine"]


def adam_direction(
    gradient: Params, second_moment: Params, count: Array, *, b2: float = 0.999, epsilon: float
) -> Params:
    """Γ = g / (√(v′ / (1 − β₂^(t+1))) + ε), v′ = β₂ v + (1 − β₂) g².

    What Adam would divide this gradient by, had it come next; nothing of its state is changed.

    Args:
      gradient: g, a tree of arrays.
      second_moment: v of the live optimizer, the same tree.
      count: t, the updates that Adam has done.
      b2: β₂, decay of the second moment.
      epsilon: ε, added to the root.
    """
    correction = 1 - b2 ** (jnp.asarray(count, jnp.float32) + 1)

    def scaled(g: Array, v: Array) -> jax.Array:
        moved = b2 * v + (1 - b2) * g * g
        return jnp.asarray(g / (jnp.sqrt(moved / correction) + epsilon))

    return jax.tree.map(scaled, gradient, second_moment)


def gradient_similarity(
    gradient: Params,
    reference: Params,
    second_moment: Params,
    count: Array,
    *,
    similarity: Similarity = "preconditioned_cosine",
    b2: float = 0.999,
    epsilon: float = 1e-8,
) -> jax.Array:
    """⟨x, g_ref⟩, or ⟨x, g_ref⟩ / (‖x‖ ‖g_ref‖), with x = g or its Adam direction Γ.

    Positive: a step on `gradient` lowers the loss whose gradient is `reference`, to first order.
    The reference is not preconditioned. A gradient of 0 has similarity 0.

    Args:
      gradient, reference, second_moment: trees of the same structure.
      count: updates that Adam has done.
      similarity: which of the four.
      b2, epsilon: Adam's.

    Returns:
      a float32 scalar.

    Raises:
      ValueError: for an unknown similarity.

    References: arXiv 2606.09052 (the preconditioned cosine).
    """
    if similarity not in ("dot", "cosine", "preconditioned_dot", "preconditioned_cosine"):
        raise ValueError(f"unknown similarity {similarity!r}; choose one of four.")
    if similarity.startswith("preconditioned"):
        gradient = adam_direction(gradient, second_moment, count, b2=b2, epsilon=epsilon)
    dot = _dot(gradient, reference)
    if similarity.endswith("dot"):
        return dot
    norms = [jnp.maximum(jnp.sqrt(_dot(x, x)), 1e-12) for x in (gradient, reference)]
    return dot / (norms[0] * norms[1])


def _dot(left: Params, right: Params) -> jax.Array:
    products = jax.tree.map(
        lambda a, b: jnp.vdot(a.astype(jnp.float32), b.astype(jnp.float32)), left, right
    )
    return jnp.sum(jnp.stack(jax.tree.leaves(products)))
