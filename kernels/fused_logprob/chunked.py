"""`fused_logprob` over vocabulary blocks in XLA: one pass forward, one pass for the gradients."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxevo.kernels import _sharded
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, Options, over_devices, slopes


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
    return _forward(inputs, options, block)[0]


def _forward(
    inputs: Inputs, options: Options, block: int
) -> tuple[LogProbs, tuple[Inputs, LogProbs]]:
    hidden_MD, unembed_VD, targets_M, inverse_M = inputs
    rows = hidden_MD.shape[0]

    def body(
        carry: tuple[streaming.Running, jax.Array, jax.Array], start: jax.Array | int, width: int
    ) -> tuple[streaming.Running, jax.Array, jax.Array]:
        run, weighted_M1, target_M = carry
        rows_bD = streaming.block_rows(unembed_VD, start, width)
        x_Mb = streaming.block_logits(hidden_MD, rows_bD, inverse_M[:, None], options.soft_cap)
        after, shifted_Mb = streaming.extend(run, x_Mb)
        # Σ_v exp(x_v − max) (x_v − max): its values move with the max that the weights have.
        weighted_M1 = streaming.extend_sum(
            weighted_M1, run, after, moved_M1=run.max_M1 - after.max_M1
        ) + jnp.sum(jnp.exp(shifted_Mb) * shifted_Mb, axis=1, keepdims=True)
        column_M = targets_M - start
        here_M = (column_M >= 0) & (column_M < width)
        taken_M = jnp.take_along_axis(x_Mb, jnp.clip(column_M, 0, width - 1)[:, None], axis=1)[:, 0]
        return after, weighted_M1, jnp.where(here_M, taken_M, target_M)

    start = (
        streaming.no_columns(rows),
        jnp.zeros((rows, 1), jnp.float32),
        jnp.zeros(rows, jnp.float32),
    )
    first, stop = options.legal
    run, weighted_M1, target_M = streaming.scan_blocks(
        body, start, stop - first, block, first=first
    )
    logsumexp_M = streaming.logsumexp(run)[:, 0]
    out = LogProbs(
        logp_M=target_M - logsumexp_M,
        entropy_M=(jnp.log(run.total_M1) - weighted_M1 / run.total_M1)[:, 0],
        logsumexp_M=logsumexp_M,
    )
    out = over_devices(out, inputs, options)
    return out, (inputs, out)


def _backward(
    options: Options, block: int, saved: tuple[Inputs, LogProbs], cotangent: LogProbs
) -> tuple[Inputs]:
    (hidden_MD, unembed_VD, targets_M, inverse_M), out = saved
    cotangent = _sharded.cotangent(cotangent, options.vocab_axis, of_head=unembed_VD)
    g, constant_M = slopes(inverse_M, out, cotangent)

    def dlogits_of(start: jax.Array | int, width: int) -> jax.Array:
        rows_bD = streaming.block_rows(unembed_VD, start, width)
        x_Mb = streaming.block_logits(hidden_MD, rows_bD, inverse_M[:, None], options.soft_cap)
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
