"""What `fused_logprob` returns."""

from __future__ import annotations

from typing import NamedTuple

import jax


class LogProbs(NamedTuple):
    """Per answer slot, float32, of the softmax at logits / temperature; entropy in nats.

    logp_M: log-prob of the target, <= 0 up to rounding. entropy_M: in [0, log V] up to rounding.
    logsumexp_M: log Σ_v exp(logit_v / temperature).
    """

    logp_M: jax.Array
    entropy_M: jax.Array
    logsumexp_M: jax.Array
