"""What `fused_logprob` hands to its streaming implementations, and what it returns."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxevo.kernels import _sharded


class Inputs(NamedTuple):
    """Hidden states, the unembedding as rows, target ids, and 1 / temperature."""

    hidden_MD: jax.Array
    unembed_VD: jax.Array
    targets_M: jax.Array
    inverse_M: jax.Array


class Options(NamedTuple):
    """Soft cap, the first legal id with the one behind the last, the mesh axis over which the
    vocabulary is split, and whether logits are kept for the gradient; hashable. On a split
    vocabulary, targets count from this device's rows."""

    soft_cap: float | None
    legal: tuple[int, int]
    vocab_axis: str | None = None
    keep_logits: bool = False


class LogProbs(NamedTuple):
    """Per answer slot, float32, of the softmax at logits / temperature; entropy in nats.

    logp_M: log-prob of the target, <= 0 up to rounding. entropy_M: in [0, log V] up to rounding.
    logsumexp_M: log Σ_v exp(logit_v / temperature).
    """

    logp_M: jax.Array
    entropy_M: jax.Array
    logsumexp_M: jax.Array


def over_devices(own: LogProbs, inputs: Inputs, options: Options) -> LogProbs:
    """Of the whole vocabulary, from each device's part of it by itself.

    With the masses w_i of the parts: entropy = Σ_i w_i (entropy_i − log w_i).
    """
    axis = options.vocab_axis
    if axis is None:
        return own
    rows_of_head = inputs.unembed_VD.shape[0]
    here_M = (inputs.targets_M >= 0) & (inputs.targets_M < rows_of_head)
    logit_M = jnp.where(here_M, own.logp_M + own.logsumexp_M, 0.0)
    logsumexp_M, log_share_M = _sharded.logsumexp(own.logsumexp_M, axis)
    entropy_M = jnp.exp(log_share_M) * (own.entropy_M - log_share_M)
    return LogProbs(
        logp_M=lax.psum(logit_M, axis) - logsumexp_M,
        entropy_M=lax.psum(entropy_M, axis),
        logsumexp_M=logsumexp_M,
    )


def slopes(inverse_M: jax.Array, out: LogProbs, cotangent: LogProbs) -> tuple[LogProbs, jax.Array]:
    """(g, constant) of ∂/∂logit_v = p_v (constant − g_H log p_v) + g_logp 1[v = target].

    The constant is g_lse − g_logp − g_H H. Logits are x · temperature: one more factor
    1 / temperature, which g, the cotangents, take up.
    """
    g = LogProbs(*(g_M * inverse_M for g_M in cotangent))
    return g, g.logsumexp_M - g.logp_M - g.entropy_M * out.entropy_M
