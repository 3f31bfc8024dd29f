"""`fused_logprob` over vocabulary blocks in XLA: one pass forward, one pass for the gradients.

Logits are computed in both passes, or kept from the first, block by block.
"""

from __future__ import annotations

import functools
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _sharded
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, Options, over_devices, slopes

_Carry: TypeAlias = tuple[streaming.Running, jax.Array, jax.Array, jax.Array | None]


def fused_logprob(
    inputs: Inputs,
    *,
    options: Options,
    block_M: int | None,
    block_V: int | None,
) -> LogProbs:
    """Streams over blocks of `block_V` columns."""
    del block_M
    start, stop = options.legal
    block = block_V or streaming.default_block(inputs.hidden_MD.shape[0], stop - start)
    return _streamed(inputs, options, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _streamed(inputs: Inputs, options: Options, block: int) -> LogProbs:
    return _forward(inputs, options._replace(keep_logits=False), block)[0]


def _forward(
    inputs: Inputs, options: Options, block: int
) -> tuple[LogProbs, tuple[Inputs, LogProbs, jax.Array | None]]:
    hidden_MD, unembed_VD, targets_M, inverse_M = inputs
    rows, (first, stop) = hidden_MD.shape[0], options.legal
    blocks = -(-(stop - first) // block)

    def body(carry: _Carry, start: jax.Array | int, width: int) -> _Carry:
        run, weighted_M1, target_M, kept = carry
        rows_bD = streaming.block_rows(unembed_VD, start, width)
        x_Mb = streaming.block_logits(hidden_MD, rows_bD, inverse_M[:, None], options.soft_cap)
        if kept is not None:
            kept = lax.dynamic_update_slice(kept, x_Mb[None], ((start - first) // block, 0, 0))
        after, shifted_Mb = streaming.extend(run, x_Mb)
        # Σ_v exp(x_v − max) (x_v − max): its values move with the max that the weights have.
        weighted_M1 = streaming.extend_sum(
            weighted_M1, run, after, moved_M1=run.max_M1 - after.max_M1
        ) + jnp.sum(jnp.exp(shifted_Mb) * shifted_Mb, axis=1, keepdims=True)
        column_M = targets_M - start
        here_M = (column_M >= 0) & (column_M < width)
        taken_M = jnp.take_along_axis(x_Mb, jnp.clip(column_M, 0, width - 1)[:, None], axis=1)[:, 0]
        return after, weighted_M1, jnp.where(here_M, taken_M, target_M), kept

    start = (
        streaming.no_columns(rows),
        jnp.zeros((rows, 1), jnp.float32),
        jnp.zeros(rows, jnp.float32),
        jnp.zeros((blocks, rows, block), jnp.float32) if options.keep_logits else None,
    )
    run, weighted_M1, target_M, kept = streaming.scan_blocks(
        body, start, stop - first, block, first=first
    )
    logsumexp_M = streaming.logsumexp(run)[:, 0]
    out = LogProbs(
        logp_M=target_M - logsumexp_M,
        entropy_M=(jnp.log(run.total_M1) - weighted_M1 / run.total_M1)[:, 0],
        logsumexp_M=logsumexp_M,
    )
    out = over_devices(out, inputs, options)
    return out, (inputs, out, kept)


def _backward(
    options: Options,
    block: int,
    saved: tuple[Inputs, LogProbs, jax.Array | None],
    cotangent: LogProbs,
) -> tuple[Inputs]:
    (hidden_MD, unembed_VD, targets_M, inverse_M), out, kept = saved
    cotangent = _sharded.cotangent(cotangent, options.vocab_axis, of_head=unembed_VD)
    g, constant_M = slopes(inverse_M, out, cotangent)

    rows = hidden_MD.shape[0]

    def logits_of(start: jax.Array | int, width: int) -> jax.Array:
        if kept is not None:
            index = (start - options.legal[0]) // block
            return lax.dynamic_slice(kept, (index, 0, 0), (1, rows, width))[0]
        rows_bD = streaming.block_rows(unembed_VD, start, width)
        return streaming.block_logits(hidden_MD, rows_bD, inverse_M[:, None], options.soft_cap)

    def dlogits_of(start: jax.Array | int, width: int) -> jax.Array:
        x_Mb = logits_of(start, width)
        logp_Mb = x_Mb - out.logsumexp_M[:, None]
        soft_Mb = jnp.exp(logp_Mb) * (constant_M[:, None] - g.entropy_M[:, None] * logp_Mb)
        is_target_Mb = jnp.arange(width) == (targets_M - start)[:, None]
        d_Mb = soft_Mb + jnp.where(is_target_Mb, g.logp_M[:, None], 0.0)
        return streaming.through_cap(d_Mb, x_Mb, inverse_M[:, None], options.soft_cap)

    dhidden_MD, dunembed_VD = streaming.head_gradients(
        dlogits_of, hidden_MD, unembed_VD, block, options.legal
    )
    return (Inputs(dhidden_MD, dunembed_VD, streaming.NO_GRADIENT, streaming.NO_GRADIENT),)


_streamed.defvjp(_forward, _backward)
