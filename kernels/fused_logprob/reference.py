"""`fused_logprob` in plain jnp: the truth that the other implementations are tested against."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxevo.kernels._streaming import block_logits
from jaxevo.kernels.fused_logprob._types import LogProbs, Options


def fused_logprob(
    hidden_MD: jax.Array,
    unembed_DV: jax.Array,
    targets_M: jax.Array,
    inverse_M: jax.Array,
    *,
    options: Options,
    block_M: int | None,
    block_V: int | None,
) -> LogProbs:
    """Materialises the logits; differentiated by JAX. `inverse_M` is 1 / temperature."""
    del block_M, block_V
    start, stop = options.legal
    logits_MV = block_logits(
        hidden_MD, unembed_DV.T[start:stop], inverse_M[:, None], options.soft_cap
    )
    logsumexp_M = jax.nn.logsumexp(logits_MV, axis=1)
    logp_MV = logits_MV - logsumexp_M[:, None]
    logp_M = jnp.take_along_axis(logp_MV, targets_M[:, None] - start, axis=1)[:, 0]
    entropy_M = -jnp.sum(jnp.exp(logp_MV) * logp_MV, axis=1)
    return LogProbs(logp_M, entropy_M, logsumexp_M)
