"""`entropy_band` by sorting: the truth that the other implementations are tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxevo.kernels.entropy_band._types import Band, Places, Quantile


def entropy_band(entropy_NA: jax.Array, mask_NA: jax.Array, places: Places) -> Band:
    """Ranks every row; a stable sort keeps earlier positions first among equals."""
    order_NA = jnp.argsort(jnp.where(mask_NA, -entropy_NA, jnp.inf), axis=1, stable=True)
    rank_NA = jnp.argsort(order_NA, axis=1)
    sorted_NA = jnp.take_along_axis(entropy_NA, order_NA, axis=1)

    def quantile(place: Quantile) -> jax.Array:
        smaller_N, larger_N = (
            jnp.take_along_axis(sorted_NA, jnp.maximum(n_N - 1, 0)[:, None], axis=1)[:, 0]
            for n_N in (place.near, place.far)
        )
        return place.between(smaller_N, larger_N)

    fork_NA = mask_NA & (rank_NA < places.forks[:, None])
    return Band(fork_NA, quantile(places.low), quantile(places.high))
