"""`fused_logprob` in plain jnp: the truth that the other implementations are tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxevo.kernels import _dispatch
from jaxevo.kernels._streaming import block_logits
from jaxevo.kernels.fused_logprob._types import Inputs, LogProbs, Options


def fused_logprob(
    inputs: Inputs,
    *,
    options: Options,
    block_M: int | None,
    block_V: int | None,
) -> LogProbs:
    """Materialises the logits; differentiated by JAX.

    Raises:
      ValueError: for a vocabulary that is split over devices.
    """
    del block_M, block_V
    _dispatch.refuse_split(options.vocab_axis)
    start, stop = options.legal
    head_VD, inverse_M1 = inputs.unembed_VD[start:stop], inputs.inverse_M[:, None]
    logits_MV = block_logits(inputs.hidden_MD, head_VD, inverse_M1, options.soft_cap)
    return from_logits(logits_MV, inputs.targets_M - start)


def from_logits(logits_MV: jax.Array, targets_M: jax.Array) -> LogProbs:
    """Of logits over the temperature."""
    logsumexp_M = jax.nn.logsumexp(logits_MV, axis=1)
    logp_MV = logits_MV - logsumexp_M[:, None]
    logp_M = jnp.take_along_axis(logp_MV, targets_M[:, None], axis=1)[:, 0]
    entropy_M = -jnp.sum(jnp.exp(logp_MV) * logp_MV, axis=1)
    return LogProbs(logp_M, entropy_M, logsumexp_M)
