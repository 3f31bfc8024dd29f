"""Truncated sampling: which tokens top-k, top-p and min-p keep."""

from __future__ import annotations

import jax.numpy as jnp

from jaxevo.types import Array


def kept_mask(p_NV: Array, *, top_k: Array, top_p: Array, min_p: Array) -> Array:
    """Tokens that survive top-k, then top-p on what top-k left, then min-p.

    Each rule keeps every token at least as likely as the last one that it must keep, so ties are
    kept together and the result does not depend on their order.

    Args:
      p_NV: probabilities, rows sum to 1.
      top_k: how many of the likeliest tokens to keep, 1 to V.
      top_p: the smallest set whose share of the top-k mass reaches this, in (0, 1].
      min_p: least probability as a fraction of the largest, in [0, 1].

    Returns:
      bool [N, V]; the likeliest token is always kept.
    """
    sorted_NV = jnp.sort(p_NV, axis=-1, descending=True)
    kth_N1 = jnp.take_along_axis(
        sorted_NV, jnp.broadcast_to(top_k - 1, (p_NV.shape[0], 1)), axis=-1
    )
    within_NV = jnp.where(sorted_NV >= kth_N1, sorted_NV, 0.0)
    mass_NV = jnp.cumsum(within_NV, axis=-1)
    # A token is needed while the mass before it is still short of top_p.
    # At top_p = 1 rounding of the running sum must not drop the tail.
    needed_NV = ((mass_NV - within_NV) < top_p * mass_NV[:, -1:]) | (top_p >= 1)
    needed_NV = needed_NV.at[:, 0].set(True) & (within_NV > 0)
    nucleus_N1 = jnp.min(jnp.where(needed_NV, within_NV, jnp.inf), axis=-1, keepdims=True)
    least_N1 = jnp.maximum(jnp.maximum(kth_N1, nucleus_N1), min_p * sorted_NV[:, :1])
    return p_NV >= least_N1
