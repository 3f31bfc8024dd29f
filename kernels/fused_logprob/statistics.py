"""What rewards without labels read of next-token distributions: mean logit, top tokens, their mass.

Forward only: one product, and no [M, V] array in `chunked`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _dispatch
from jaxevo.kernels import _streaming as streaming
from jaxevo.kernels.fused_logprob._types import Options


class LogitStatistics(NamedTuple):
    """Per answer slot, float32, of x = logits / temperature over the legal ids.

    logsumexp_M: log Σ_v exp(x_v). mean_logit_M: (1/V) Σ_v x_v; logsumexp − mean logit − log V is
    KL(uniform‖p), the self-certainty. ids_MK, logp_MK: the top_k tokens, likeliest first, the lower
    id among equals, and their log-probs. log_kept_M: log of these tokens' mass together, <= 0.
    """

    logsumexp_M: jax.Array
    mean_logit_M: jax.Array
    ids_MK: jax.Array
    logp_MK: jax.Array
    log_kept_M: jax.Array


def logit_statistics(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    *,
    top_k: int = 1,
    temperature: jax.typing.ArrayLike = 1.0,
    soft_cap: float | None = None,
    legal: tuple[int, int] | None = None,
    implementation: Literal["reference", "chunked"] | None = None,
    block_V: int | None = None,
) -> LogitStatistics:
    """Statistics of softmax(hidden · unembed / temperature), without gradients.

    Args:
      hidden_MD, unembed_DV, temperature, soft_cap, legal: as of `fused_logprob`.
      top_k: how many tokens, in [1, number of legal ids].
      implementation: `reference` materialises the logits; `chunked` streams; None takes `chunked`.
      block_V: columns per block of `chunked`; None picks by shapes.

    Raises:
      ValueError: for shapes that do not fit, an unknown implementation, or a number out of range.

    References:
      arXiv 2505.19590 (Intuitor: self-certainty).
    """
    _dispatch.check_head("", hidden_MD, unembed_DV)
    _dispatch.check_blocks(None, block_V)
    _dispatch.check_soft_cap(soft_cap)
    start, stop = _dispatch.legal_ids(legal, unembed_DV.shape[1])
    if not 1 <= top_k <= stop - start:
        raise ValueError(f"top_k={top_k}, but it must lie in [1, {stop - start}].")
    run = _dispatch.choose(implementation, {"reference": _reference, "chunked": _chunked})
    hidden_MD, unembed_VD = lax.stop_gradient((hidden_MD, unembed_DV.T))
    inverse_M = _dispatch.inverse_temperature(temperature, hidden_MD.shape[0])
    inputs = _Inputs(hidden_MD, unembed_VD, inverse_M[:, None], Options(soft_cap, (start, stop)))
    found = run(inputs, top_k, block_V)
    logp_MK = found.top_MK - found.logsumexp_M[:, None]
    return LogitStatistics(
        logsumexp_M=found.logsumexp_M,
        mean_logit_M=found.sum_M / (stop - start),
        ids_MK=found.ids_MK,
        logp_MK=logp_MK,
        log_kept_M=jnp.minimum(jax.nn.logsumexp(logp_MK, axis=1), 0.0),
    )


class _Inputs(NamedTuple):
    hidden_MD: jax.Array
    unembed_VD: jax.Array
    inverse_M1: jax.Array
    options: Options

    def logits(self, start: jax.Array | int, width: int) -> jax.Array:
        rows_bD = streaming.block_rows(self.unembed_VD, start, width)
        return streaming.block_logits(
            self.hidden_MD, rows_bD, self.inverse_M1, self.options.soft_cap
        )


class _Found(NamedTuple):
    """logsumexp, sum, and largest logits with their ids."""

    logsumexp_M: jax.Array
    sum_M: jax.Array
    top_MK: jax.Array
    ids_MK: jax.Array


def _reference(inputs: _Inputs, top_k: int, block: int | None) -> _Found:
    del block
    start, stop = inputs.options.legal
    x_MV = inputs.logits(start, stop - start)
    top_MK, columns_MK = lax.top_k(x_MV, top_k)
    return _Found(jax.nn.logsumexp(x_MV, axis=1), jnp.sum(x_MV, axis=1), top_MK, columns_MK + start)


_Carry: TypeAlias = tuple[streaming.Running, jax.Array, jax.Array, jax.Array]


def _chunked(inputs: _Inputs, top_k: int, block: int | None) -> _Found:
    start, stop = inputs.options.legal
    rows = inputs.hidden_MD.shape[0]

    def body(carry: _Carry, at: jax.Array | int, width: int) -> _Carry:
        run, sum_M, top_MK, ids_MK = carry
        x_Mb = inputs.logits(at, width)
        run, _ = streaming.extend(run, x_Mb)
        best_Mk, columns_Mk = lax.top_k(x_Mb, min(top_k, width))
        # Earlier columns stand first, and so win ties.
        both = jnp.concatenate([top_MK, best_Mk], axis=1)
        both_ids = jnp.concatenate([ids_MK, columns_Mk + at], axis=1)
        top_MK, order_MK = lax.top_k(both, top_k)
        ids_MK = jnp.take_along_axis(both_ids, order_MK, axis=1)
        return run, sum_M + jnp.sum(x_Mb, axis=1), top_MK, ids_MK

    nothing = (
        streaming.no_columns(rows),
        jnp.zeros(rows, jnp.float32),
        jnp.full((rows, top_k), -jnp.inf, jnp.float32),
        jnp.zeros((rows, top_k), jnp.int32),
    )
    block = block or streaming.default_block(rows, stop - start)
    run, sum_M, top_MK, ids_MK = streaming.scan_blocks(
        body, nothing, stop - start, block, first=start
    )
    return _Found(streaming.logsumexp(run)[:, 0], sum_M, top_MK, ids_MK)
