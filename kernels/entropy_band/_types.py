"""What `entropy_band` hands to its implementations, and what it returns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Band(NamedTuple):
    """Which tokens of each row are forks, and between which entropies the band lies.

    fork_NA: bool. low_N, high_N: nats, float32; 0 where a row has no token to take them from.
    """

    fork_NA: jax.Array
    low_N: jax.Array
    high_N: jax.Array


class Quantile(NamedTuple):
    """Where a quantile of a row lies: `share` of the way from its `near`-th to its `far`-th largest
    entropy, counted from 1, near >= far; both are 0 in an empty row."""

    near: jax.Array
    far: jax.Array
    share: jax.Array

    def between(self, smaller: jax.Array, larger: jax.Array) -> jax.Array:
        """The quantile from the `near`-th and the `far`-th largest; 0 in an empty row."""
        # Equal infinities have no difference.
        found = jnp.where(smaller == larger, smaller, smaller + self.share * (larger - smaller))
        return jnp.where(self.near > 0, found, 0.0)


class Places(NamedTuple):
    """Per row: how many tokens are forks, and where both quantiles lie."""

    forks: jax.Array
    low: Quantile
    high: Quantile
