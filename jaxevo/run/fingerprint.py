"""A checksum that tells sets of weights apart, and that every update changes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxevo.types import Array, Params

MOST = 1 << 16
PRIME = 0x01000193  # odd, so that no bit of what came before is lost


def fingerprint(params: Params) -> str:
    """Eight hexadecimal digits: a checksum of evenly spaced weights, up to 2^16 of each array.

    Sums of integers have no order, so that it is the same on any number of devices.
    """
    return f"{int(_checksum(params)):08x}"


@jax.jit
def _checksum(params: Params) -> jax.Array:
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(params):
        flat = leaf.reshape(-1)
        bits = _bits(flat[:: -(-flat.size // MOST)])
        odd = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
        total = total * jnp.uint32(PRIME) + jnp.sum(bits * odd, dtype=jnp.uint32)
    return total


def _bits(x: Array) -> jax.Array:
    kinds: dict[int, Any] = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
    kind = kinds[jnp.dtype(x.dtype).itemsize]
    return jax.lax.bitcast_convert_type(x, kind).astype(jnp.uint32)
