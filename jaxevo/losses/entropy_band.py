"""Which tokens learn, by the entropy of the policy there."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxevo.losses.reduce import masked
from jaxevo.types import Array


def entropy_quantile_mask(entropy_NA: Array, mask_NA: Array, *, keep: float) -> jax.Array:
    """Valid tokens whose entropy reaches the (1−ρ)-quantile over all valid tokens of the array.

    The quantile is linearly interpolated, as in numpy. Tokens left out get no policy loss but
    stay in its denominator.

    Args:
      entropy_NA: nats; no gradient.
      mask_NA: tokens that take part.
      keep: ρ in (0, 1], the share of tokens kept (ties at the quantile are all kept).

    Returns:
      [N, A], bool; False outside the mask.

    Raises:
      ValueError: for a share outside (0, 1].

    References:
      Wang et al., Beyond the 80/20 rule, arXiv 2506.01939.
    """
    chex.assert_equal_shape([entropy_NA, mask_NA])
    if not 0 < keep <= 1:
        raise ValueError(f"keep={keep} must lie in (0, 1]: it is the share of tokens kept.")
    mask_NA = jnp.asarray(mask_NA, bool)
    entropy_NA = masked(jax.lax.stop_gradient(entropy_NA), mask_NA, fill=jnp.inf)
    sorted_M = jnp.sort(entropy_NA.ravel())
    last = jnp.maximum(mask_NA.sum() - 1, 0)
    position = (1 - keep) * last.astype(jnp.float32)
    whole = jnp.round(position)
    # In float32, 0.72 * 75 is 54.000004, which would put the quantile just above a token.
    position = jnp.where(jnp.abs(position - whole) < 1e-4, whole, position)
    below = jnp.floor(position).astype(jnp.int32)
    low, high = sorted_M[below], sorted_M[jnp.minimum(below + 1, last)]
    quantile = low + (position - below) * (high - low)
    return mask_NA & (entropy_NA >= quantile)
