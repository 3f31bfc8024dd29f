"""Σ weight · `token_kl` with gradients formed beside the value: 4 products instead of 6."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxevo.kernels import _by_rows, _streaming
from jaxevo.kernels.token_kl import chunked, reference
from jaxevo.kernels.token_kl._blocks import teacher_logits
from jaxevo.kernels.token_kl._types import Heads, Measure


def weighted_sum(
    heads: Heads, weights_M: jax.Array, measure: Measure, *, block_M: int | None
) -> jax.Array:
    """Blocks of `block_M` rows, each with both models' logits over the whole vocabulary."""
    block = block_M or _by_rows.default_rows(weights_M.shape[0], 2 * heads.student_VD.shape[0])
    return _summed(heads, weights_M, measure, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _summed(heads: Heads, weights_M: jax.Array, measure: Measure, block: int) -> jax.Array:
    del block
    return jnp.sum(weights_M * chunked.token_kl(heads, measure, block_M=None, block_V=None))


_Rows = tuple[tuple[jax.Array, ...], jax.Array, jax.Array]


def _forward(
    heads: Heads, weights_M: jax.Array, measure: Measure, block: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    def sum_of(raw_bV: jax.Array, rows: _Rows) -> jax.Array:
        teacher_hidden, inverse_b, weights_b = rows
        inverse_b1 = inverse_b[:, None]
        x_bV = _streaming.scaled(raw_bV, inverse_b1, measure.soft_cap)
        y_bV = teacher_logits(teacher_hidden, heads.teacher_VE, inverse_b1, measure)
        return jnp.sum(weights_b * reference.from_logits(x_bV, y_bV, measure))

    per_row = heads.teacher_hidden_ME, heads.inverse_M, weights_M
    return _by_rows.sum_and_gradients(
        sum_of, per_row, heads.student_hidden_MD, heads.student_VD, block
    )


def _backward(
    measure: Measure, block: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[Heads, None]:
    del measure, block
    dhidden_MD, dunembed_VD = _by_rows.gradients_times(saved, cotangent)
    none = _streaming.NO_GRADIENT
    return Heads(dhidden_MD, dunembed_VD, none, none, none), none


_summed.defvjp(_forward, _backward)
