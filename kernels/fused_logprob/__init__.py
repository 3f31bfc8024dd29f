"""Log-prob of the taken token, entropy and logsumexp, from hidden states and the unembedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _dispatch, _sharded
from jaxevo.kernels.fused_logprob import by_rows, chunked, pallas_tpu, reference
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, Options
from jaxevo.kernels.fused_logprob.statistics import LogitStatistics, logit_statistics

__all__ = ["LogProbs", "LogitStatistics", "fused_logprob", "fused_logprob_sum", "logit_statistics"]

_IMPLEMENTATIONS = _dispatch.implementations(
    reference.fused_logprob, chunked.fused_logprob, pallas_tpu.fused_logprob
)


def fused_logprob(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    soft_cap: float | None = None,
    legal: tuple[int, int] | None = None,
    vocab_axis: str | None = None,
    keep_logits: bool = False,
    implementation: _dispatch.Implementation | None = None,
    block_M: int | None = None,
    block_V: int | None = None,
) -> LogProbs:
    """log π(target), entropy and logsumexp at x = hidden · unembed / temperature.

      logp = x_target − logsumexp,   entropy = −Σ_v p_v log p_v,   p = softmax(x)

    Gradients flow through all three to hidden states and unembedding:

      ∂/∂x_v = g_logp (1[v = target] − p_v) + g_logsumexp p_v − g_entropy p_v (log p_v + entropy)

    with none to targets and temperature. Logits and sums are float32 whatever the inputs; gradients
    have the dtype of the input that they belong to. `chunked` holds one [M, block_V] block of
    logits at a time and computes it again for the gradient: 4 products of 2 M D V FLOPs instead of
    3, and no [M, V] array. It reads blocks of rows [V, D]: a head stored like that and handed in
    as `embed_VD.T` costs no copy, one stored as [D, V] is transposed once per pass.

    Args:
      hidden_MD: final hidden states, float32 or bfloat16.
      unembed_DV: the head.
      targets_M: token ids; those that are not legal are clamped, so that padding slots stay finite.
      temperature: > 0, a number or one per row [M]; may be traced.
      soft_cap: c > 0 of models whose logits are c · tanh(logits / c), before the temperature.
      legal: the first id that may be sampled and the one behind the last, for heads with rows that
        no tokenizer knows; the others have no probability and get gradients of 0. None for all.
      vocab_axis: inside of `jax.shard_map`, the mesh axis over which the head's columns are split
        evenly; `unembed_DV` is this device's part, targets are ids of the whole vocabulary. Only
        with `legal=None`.
      keep_logits: `chunked` keeps [M, V] float32 of logits for the gradient, if there is one: 3
        products instead of 4, for [M, V] of memory. `reference` always does, `pallas_tpu` never.
      implementation: `reference` (plain jnp, materialises the logits), `chunked`, `pallas_tpu` (4
        products; its `_interpret` form runs anywhere, slowly), or None, which takes
        `pallas_tpu` on a TPU, alone or inside of `jax.shard_map`, and `chunked` elsewhere.
      block_M, block_V: rows per block of `pallas_tpu`, columns per block of both; None picks by
        shapes and chip.

    Raises:
      ValueError: for shapes that do not fit, an unknown implementation, a number out of range,
        or a block below 1.
    """
    _dispatch.check_blocks(block_M, block_V)
    inputs, options = _checked(
        hidden_MD, unembed_DV, targets_M, temperature, soft_cap, legal, vocab_axis
    )
    has_kernels = pallas_tpu.fits(inputs)
    run = _dispatch.choose(implementation, _IMPLEMENTATIONS, has_kernels=has_kernels)
    options = options._replace(keep_logits=keep_logits)
    return run(inputs, options=options, block_M=block_M, block_V=block_V)


def fused_logprob_sum(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    weights: LogProbs,
    *,
    temperature: jax.typing.ArrayLike = 1.0,
    soft_cap: float | None = None,
    legal: tuple[int, int] | None = None,
    block_M: int | None = None,
) -> jax.Array:
    """Σ_m w_logp logp_m + w_entropy entropy_m + w_logsumexp logsumexp_m, a scalar.

    For weights that are known before the log-probs are (imitation, REINFORCE): gradients are formed
    in the forward pass, so that a gradient costs 3 products of 2 M D V FLOPs, where
    `fused_logprob` needs 4. A block of rows has all its logits in memory, [block_M, V] float32, and
    each block reads and writes the float32 gradient of the head once: on a TPU that takes longer
    than the product that it saves, unless block_M is 1000 or so.

    Args:
      hidden_MD, unembed_DV, targets_M, temperature, soft_cap, legal: as of `fused_logprob`.
      weights: [M] float32 each, constants: no gradient reaches them.
      block_M: rows per block; None takes as many as have 128 MiB of logits.

    Raises:
      ValueError: for shapes that do not fit, or a number out of range.
    """
    _dispatch.check_blocks(block_M, None)
    inputs, options = _checked(hidden_MD, unembed_DV, targets_M, temperature, soft_cap, legal)
    for name, weight_M in zip(LogProbs._fields, weights, strict=True):
        if weight_M.shape != targets_M.shape:
            raise ValueError(
                f"weights.{name} has shape {weight_M.shape}, but {targets_M.shape} is needed."
            )
    weights = jax.lax.stop_gradient(LogProbs(*(jnp.asarray(w, jnp.float32) for w in weights)))
    return by_rows.weighted_sum(inputs, weights, options=options, block_M=block_M)


def _checked(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    temperature: jax.typing.ArrayLike,
    soft_cap: float | None,
    legal: tuple[int, int] | None,
    vocab_axis: str | None = None,
) -> tuple[Inputs, Options]:
    _dispatch.check_head("", hidden_MD, unembed_DV)
    _dispatch.check_soft_cap(soft_cap)
    rows = hidden_MD.shape[0]
    if targets_M.shape != (rows,):
        raise ValueError(
            f"targets have shape {targets_M.shape}, but {rows} hidden states need ({rows},)."
        )
    inverse_M = _dispatch.inverse_temperature(temperature, rows)
    rows_of_head = unembed_DV.shape[1]
    start, stop = _dispatch.legal_ids(legal, rows_of_head)
    if vocab_axis is None:
        targets_M = jnp.clip(targets_M, start, stop - 1)
    else:
        if legal is not None:
            raise ValueError(
                f"legal={legal} and vocab_axis={vocab_axis!r} do not go together; split a head of "
                "legal ids only."
            )
        vocabulary = rows_of_head * lax.axis_size(vocab_axis)
        targets_M = jnp.clip(targets_M, 0, vocabulary - 1)
        targets_M -= _sharded.offset(vocab_axis, rows_of_head)
    inputs = Inputs(hidden_MD, unembed_DV.T, targets_M, inverse_M)
    inputs = _sharded.varying(inputs, over=_sharded.varying_axes(inputs))
    return inputs, Options(soft_cap, (start, stop), vocab_axis)
