"""Order statistics by bisection over the bits of a float: counting only, no sorting.

The k-th largest number of a row is the largest threshold that k numbers reach. Read as integers,
floats keep their order, so that the threshold is found bit by bit in 32 counts of the row, each one
comparison and one sum: no data moves, which is what a vector unit does best.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels.entropy_band._types import Places, Quantile

_LOWEST = -(2**31)


class Columns(NamedTuple):
    """A band as columns: fork_NA bool, low_N1 and high_N1 in nats."""

    fork_NA: jax.Array
    low_N1: jax.Array
    high_N1: jax.Array


def entropy_band(entropy_NA: jax.Array, mask_NA: jax.Array, places: Places) -> Columns:
    """`places` are columns [N, 1]."""
    key_NA = jnp.where(mask_NA, ordered(entropy_NA), _LOWEST)
    forks_N1 = places.forks
    threshold_N1 = kth_largest(key_NA, forks_N1)
    above_NA = key_NA > threshold_N1
    equal_NA = (key_NA == threshold_N1) & mask_NA
    missing_N1 = forks_N1 - _count(above_NA)
    fork_NA = (above_NA | first_of(equal_NA, missing_N1)) & (forks_N1 > 0)

    def quantile(place: Quantile) -> jax.Array:
        smaller_N1, larger_N1 = (
            as_float(kth_largest(key_NA, n_N1)) for n_N1 in (place.near, place.far)
        )
        return place.between(smaller_N1, larger_N1)

    return Columns(fork_NA, quantile(places.low), quantile(places.high))


def ordered(x: jax.Array) -> jax.Array:
    """float32 as int32 of the same order: negative floats grow with their bits, so those turn."""
    bits = lax.bitcast_convert_type(x + 0.0, jnp.int32)  # −0 + 0 is 0: equals have equal bits
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def as_float(key: jax.Array) -> jax.Array:
    """The inverse of `ordered`."""
    bits = jnp.where(key < 0, key ^ 0x7FFFFFFF, key)
    return lax.bitcast_convert_type(bits, jnp.float32)


def kth_largest(key_NA: jax.Array, k_N1: jax.Array) -> jax.Array:
    """The k-th largest key of each row, [N, 1], for k from 1 to A; anything for k = 0."""
    enough_N1 = _count(key_NA >= 0) >= k_N1
    start_N1 = jnp.where(enough_N1, 0, _LOWEST)

    def add_bit(index: jax.Array, found_N1: jax.Array) -> jax.Array:
        higher_N1 = found_N1 + lax.shift_left(jnp.int32(1), 30 - index)
        return jnp.where(_count(key_NA >= higher_N1) >= k_N1, higher_N1, found_N1)

    return lax.fori_loop(0, 31, add_bit, start_N1)


def first_of(chosen_NA: jax.Array, count_N1: jax.Array) -> jax.Array:
    """The first `count` of the chosen positions of each row."""
    A = chosen_NA.shape[1]
    position_NA = lax.broadcasted_iota(jnp.int32, chosen_NA.shape, 1)
    bits = max(A - 1, 1).bit_length()

    def add_bit(index: jax.Array, last_N1: jax.Array) -> jax.Array:
        """The last position of which fewer than `count` chosen ones stand before."""
        later_N1 = last_N1 + lax.shift_left(jnp.int32(1), bits - 1 - index)
        fewer_N1 = _count(chosen_NA & (position_NA < later_N1)) < count_N1
        return jnp.where(fewer_N1, later_N1, last_N1)

    last_N1 = lax.fori_loop(0, bits, add_bit, jnp.zeros_like(count_N1))
    return chosen_NA & (position_NA <= last_N1) & (count_N1 > 0)


def _count(true_NA: jax.Array) -> jax.Array:
    return jnp.sum(true_NA.astype(jnp.int32), axis=1, keepdims=True)
