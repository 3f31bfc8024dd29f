"""What `fused_logprob` hands to its streaming implementations, and what it returns."""

from __future__ import annotations

from typing import NamedTuple

import jax


class Inputs(NamedTuple):
    """Hidden states, the unembedding as rows, target ids, and 1 / temperature."""

    hidden_MD: jax.Array
    unembed_VD: jax.Array
    targets_M: jax.Array
    inverse_M: jax.Array


class Options(NamedTuple):
    """Soft cap, and the first legal id with the one behind the last; hashable."""

    soft_cap: float | None
    legal: tuple[int, int]


class LogProbs(NamedTuple):
    """Per answer slot, float32, of the softmax at logits / temperature; entropy in nats.

    logp_M: log-prob of the target, <= 0 up to rounding. entropy_M: in [0, log V] up to rounding.
    logsumexp_M: log Σ_v exp(logit_v / temperature).
    """

    logp_M: jax.Array
    entropy_M: jax.Array
    logsumexp_M: jax.Array


def slopes(inverse_M: jax.Array, out: LogProbs, cotangent: LogProbs) -> tuple[LogProbs, jax.Array]:
    """(g, constant) of ∂/∂logit_v = p_v (constant − g_H log p_v) + g_logp 1[v = target].

    The constant is g_lse − g_logp − g_H H. Logits are x · temperature: one more factor
    1 / temperature, which g, the cotangents, take up.
    """
    g = LogProbs(*(g_M * inverse_M for g_M in cotangent))
    return g, g.logsumexp_M - g.logp_M - g.entropy_M * out.entropy_M
