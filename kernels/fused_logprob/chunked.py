"""`fused_logprob` over vocabulary blocks in XLA: one pass forward, one pass for the gradients."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import LogProbs


class _Inputs(NamedTuple):
    hidden_MD: jax.Array
    unembed_VD: jax.Array
    targets_M: jax.Array
    inverse_M: jax.Array


def fused_logprob(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    inverse_M: jax.Array,
    *,
    block_M: int | None = None,
    block_V: int | None = None,
) -> LogProbs:
    """Streams over blocks of `block_V` columns. `inverse_M` is 1 / temperature."""
    del block_M
    block = block_V or streaming.default_block(hidden_MD.shape[0], unembed_DV.shape[1])
    return _streamed(_Inputs(hidden_MD, unembed_DV.T, targets_M, inverse_M), block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _streamed(inputs: _Inputs, block: int) -> LogProbs:
    return _forward(inputs, block)[0]


def _forward(inputs: _Inputs, block: int) -> tuple[LogProbs, tuple[_Inputs, LogProbs]]:
    hidden_MD, unembed_VD, targets_M, inverse_M = inputs
    rows = hidden_MD.shape[0]

    def body(
        carry: tuple[streaming.Running, jax.Array, jax.Array], start: jax.Array | int, width: int
    ) -> tuple[streaming.Running, jax.Array, jax.Array]:
        run, weighted_M, target_M = carry
        rows_bD = streaming.block_rows(unembed_VD, start, width)
        x_Mb = streaming.block_logits(hidden_MD, rows_bD, inverse_M)
        after, shifted_Mb = streaming.extend(run, x_Mb)
        # Σ_v exp(x_v − max) (x_v − max): its values move with the max that the weights have.
        weighted_M = streaming.extend_sum(
            weighted_M, run, after, moved_M=run.max_M - after.max_M
        ) + jnp.sum(jnp.exp(shifted_Mb) * shifted_Mb, axis=1)
        column_M = targets_M - start
        here_M = (column_M >= 0) & (column_M < width)
        taken_M = jnp.take_along_axis(x_Mb, jnp.clip(column_M, 0, width - 1)[:, None], axis=1)[:, 0]
        return after, weighted_M, jnp.where(here_M, taken_M, target_M)

    nothing = jnp.zeros(rows, jnp.float32)
    run, weighted_M, target_M = streaming.scan_blocks(
        body, (streaming.no_columns(rows), nothing, nothing), unembed_VD.shape[0], block
    )
    logsumexp_M = streaming.logsumexp(run)
    out = LogProbs(
        logp_M=target_M - logsumexp_M,
        entropy_M=jnp.log(run.total_M) - weighted_M / run.total_M,
        logsumexp_M=logsumexp_M,
    )
    return out, (inputs, out)


def _backward(block: int, saved: tuple[_Inputs, LogProbs], cotangent: LogProbs) -> tuple[_Inputs]:
    """∂/∂x_v = p_v (g_lse − g_logp − g_H H − g_H log p_v) + g_logp 1[v = target]."""
    (hidden_MD, unembed_VD, targets_M, inverse_M), out = saved
    # Logits are x · temperature: one more factor 1 / temperature, taken up by the cotangents.
    g_logp_M, g_entropy_M, g_logsumexp_M = (g_M * inverse_M for g_M in cotangent)
    constant_M = g_logsumexp_M - g_logp_M - g_entropy_M * out.entropy_M

    def dlogits_of(start: jax.Array | int, width: int) -> jax.Array:
        rows_bD = streaming.block_rows(unembed_VD, start, width)
        x_Mb = streaming.block_logits(hidden_MD, rows_bD, inverse_M)
        logp_Mb = x_Mb - out.logsumexp_M[:, None]
        soft_Mb = jnp.exp(logp_Mb) * (constant_M[:, None] - g_entropy_M[:, None] * logp_Mb)
        is_target_Mb = jnp.arange(width) == (targets_M - start)[:, None]
        return soft_Mb + jnp.where(is_target_Mb, g_logp_M[:, None], 0.0)

    dhidden_MD, dunembed_VD = streaming.head_gradients(dlogits_of, hidden_MD, unembed_VD, block)
    return (_Inputs(dhidden_MD, dunembed_VD, streaming.NO_GRADIENT, streaming.NO_GRADIENT),)


_streamed.defvjp(_forward, _backward)
