"""Sums over rows with their gradients in one pass: a block of rows at a time, with all its logits.

Where the weight of every row is known in advance, ∂/∂logits of a block of rows can be formed as
soon as its logits are there, so that no product is computed twice. What it costs: the gradient of
the head, [V, D] float32, is read and written once per block of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _streaming as streaming

_LARGEST_ELEMENTS = 2**25  # of one block of logits: 128 MiB in float32


def default_rows(rows: int, vocabulary: int) -> int:
    """Rows per block, cut so that blocks come out even."""
    largest = max(1, min(rows, _LARGEST_ELEMENTS // vocabulary))
    return -(-rows // -(-rows // largest))


def sum_and_gradients(
    sum_of: Callable[[jax.Array, Any], jax.Array],
    per_row: Any,
    hidden_MD: jax.Array,
    unembed_VD: jax.Array,
    block: int,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Σ over blocks of `sum_of(hidden · unembedᵀ, rows of per_row)`, and its gradients.

    Args:
      sum_of: differentiable by its first argument, [block, V] float32.
      per_row: arrays [M, ...] that it needs rows of.
      hidden_MD, unembed_VD: get the gradients, in their dtypes.
      block: rows.
    """
    dtype = jnp.promote_types(hidden_MD.dtype, unembed_VD.dtype)

    def body(
        carry: tuple[jax.Array, jax.Array, jax.Array], start: jax.Array | int, width: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        total, dhidden_MD, dunembed_VD = carry
        hidden_bD, rows = jax.tree.map(
            lambda x: lax.dynamic_slice_in_dim(x, start, width), (hidden_MD, per_row)
        )
        raw_bV = streaming.dot(hidden_bD, unembed_VD, (1, 1))
        value, d_bV = jax.value_and_grad(sum_of)(raw_bV, rows)
        d_bV = d_bV.astype(dtype)
        dhidden_bD = streaming.dot(d_bV, unembed_VD, (1, 0)).astype(hidden_MD.dtype)
        return (
            total + value,
            lax.dynamic_update_slice_in_dim(dhidden_MD, dhidden_bD, start, axis=0),
            dunembed_VD + streaming.dot(d_bV, hidden_bD, (0, 0)),
        )

    nothing = (
        jnp.float32(0.0),
        jnp.zeros_like(hidden_MD),
        jnp.zeros(unembed_VD.shape, jnp.float32),
    )
    total, dhidden_MD, dunembed_VD = streaming.scan_blocks(body, nothing, hidden_MD.shape[0], block)
    return total, (dhidden_MD, dunembed_VD.astype(unembed_VD.dtype))


def gradients_times(
    gradients: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What the backward pass of such a sum returns: its gradients in their dtypes, scaled."""
    dhidden_MD, dunembed_VD = ((cotangent * d).astype(d.dtype) for d in gradients)
    return dhidden_MD, dunembed_VD
