"""Σ weight · `fused_logprob` with gradients formed beside the value: 3 products instead of 4."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from jaxevo.kernels import _by_rows, _streaming
from jaxevo.kernels.fused_logprob import chunked, reference
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, Options


def weighted_sum(
    inputs: Inputs, weights: LogProbs, *, options: Options, block_M: int | None
) -> jax.Array:
    """Blocks of `block_M` rows, each with its logits over all legal ids."""
    start, stop = options.legal
    block = block_M or _by_rows.default_rows(inputs.hidden_MD.shape[0], stop - start)
    return _summed(inputs, weights, options, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _summed(inputs: Inputs, weights: LogProbs, options: Options, block: int) -> jax.Array:
    del block
    out = chunked.fused_logprob(inputs, options=options, block_M=None, block_V=None)
    return _total(out, weights)


def _total(out: LogProbs, weights: LogProbs) -> jax.Array:
    return sum((jnp.sum(w * x) for w, x in zip(weights, out, strict=True)), jnp.float32(0.0))


def _forward(
    inputs: Inputs, weights: LogProbs, options: Options, block: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    hidden_MD, unembed_VD, targets_M, inverse_M = inputs
    start, stop = options.legal

    def sum_of(raw_bV: jax.Array, rows: tuple[jax.Array, jax.Array, LogProbs]) -> jax.Array:
        targets_b, inverse_b, weights_b = rows
        logits_bV = _streaming.scaled(raw_bV, inverse_b[:, None], options.soft_cap)
        return _total(reference.from_logits(logits_bV, targets_b - start), weights_b)

    per_row = targets_M, inverse_M, weights
    total, (dhidden_MD, dlegal_VD) = _by_rows.sum_and_gradients(
        sum_of, per_row, hidden_MD, unembed_VD[start:stop], block
    )
    illegal = (start, unembed_VD.shape[0] - stop)
    return total, (dhidden_MD, jnp.pad(dlegal_VD, (illegal, (0, 0))))


def _backward(
    options: Options, block: int, saved: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[Inputs, None]:
    del options, block
    dhidden_MD, dunembed_VD = _by_rows.gradients_times(saved, cotangent)
    none = _streaming.NO_GRADIENT
    return Inputs(dhidden_MD, dunembed_VD, none, none), none


_summed.defvjp(_forward, _backward)
