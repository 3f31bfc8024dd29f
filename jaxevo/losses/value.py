"""Losses of value heads, per token."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from jaxevo.losses.reduce import masked, refuse_not_positive
from jaxevo.types import Array


def clipped_error(
    value_NA: Array,
    before_NA: Array,
    target_NA: Array,
    *,
    clip: float = 0.2,
    mask_NA: Array | None = None,
) -> jax.Array:
    """max((v − y)², (clip(v, v_old ± c) − y)²): no gain from a move beyond c towards the target.

    Args:
      value_NA: v, differentiable.
      before_NA: v_old, values at the start of the phase; no gradient.
      target_NA: y, what the values are regressed on; no gradient.
      clip: c > 0, in units of the reward (verl 0.5, Tunix 0.2).
      mask_NA: tokens outside it give 0 and gradient 0, whatever stands there.

    Returns:
      [N, A], float32. verl and Tunix take half of it.

    Raises:
      ValueError: when `clip` is not positive.

    References:
      Schulman et al., arXiv 1707.06347, eq. 9, as clipped in its code (openai/baselines, ppo2).
    """
    chex.assert_equal_shape([value_NA, before_NA, target_NA])
    refuse_not_positive("clip", clip)
    value_NA = masked(value_NA, mask_NA)
    before_NA = jax.lax.stop_gradient(masked(before_NA, mask_NA))
    target_NA = jax.lax.stop_gradient(masked(target_NA, mask_NA))
    near_NA = jnp.clip(value_NA, before_NA - clip, before_NA + clip)
    error_NA = jnp.maximum(jnp.square(value_NA - target_NA), jnp.square(near_NA - target_NA))
    return masked(error_NA, mask_NA)
