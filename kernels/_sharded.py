"""Heads whose vocabulary is split over the devices of a mesh axis, inside of `jax.shard_map`.

A device sees its own rows [V / n, D] of the head, and all of M. Sums over the vocabulary are formed
for these rows first and then put together; what the gradients need is known everywhere then, and
each device's share of ∂/∂hidden is summed where `shard_map` transposes a replicated input.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def varying_axes(tree: Any) -> frozenset[Any]:
    """The manual mesh axes over which any of the arrays differs."""
    return frozenset().union(
        *(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree))
    )


def varying(tree: Any, *, over: frozenset[Any]) -> Any:
    """The same arrays with types that may differ over these axes too; see `jax.lax.pcast`."""

    def cast(x: jax.Array) -> jax.Array:
        missing = over - jax.typeof(x).manual_axis_type.varying
        return lax.pcast(x, tuple(sorted(missing)), to="varying") if missing else x

    return jax.tree.map(cast, tree)


def offset(axis: str, rows_of_head: int) -> jax.Array:
    """The token id of this device's first row."""
    return lax.axis_index(axis) * rows_of_head


def cotangent(tree: Any, axis: str | None, *, of_head: jax.Array) -> Any:
    """What a backward pass gets for sums over the parts of a vocabulary, whole on every device.

    Without `check_vma`, JAX hands a cotangent of what all devices share to them in shares.
    """
    if axis is None or axis in varying_axes(of_head):
        return tree
    return jax.tree.map(lambda x: lax.psum(x, axis), tree)


def logsumexp(own_M: jax.Array, axis: str) -> tuple[jax.Array, jax.Array]:
    """logsumexp over the whole vocabulary from that of each device's part, and log of the mass that
    this part has of the whole."""
    largest_M = lax.pmax(lax.stop_gradient(own_M), axis)
    whole_M = largest_M + jnp.log(lax.psum(jnp.exp(own_M - largest_M), axis))
    return whole_M, own_M - whole_M
