"""Losses per token, and how they become one number.

Pure functions on plain arrays (numpy or jax in, jax out), in float32, that can be jitted and
differentiated without any trainer. A loss returns one value per token; a reducer turns values and
mask into a (numerator, denominator) pair; `ratio` divides once, at the end:

    loss_NA = clipped_surrogate(logp_NA, old_NA, advantage_NA, mask_NA=mask_NA)
    loss = ratio(*token_mean(loss_NA, mask_NA))

A loss given a mask ignores what stands under mask 0 altogether, NaN included: neither its value
nor its gradient can see it. `terms` and `credit` hold the same as the parts of an `Objective`.
"""

from jaxevo.losses.contrast import contrast_reward
from jaxevo.losses.divergence import categorical_kl, entropy
from jaxevo.losses.entropy_band import entropy_quantile_mask
from jaxevo.losses.evidence import evidence_weight
from jaxevo.losses.kl import kl_penalty, sampled_reverse_kl
from jaxevo.losses.policy import (
    clipped_surrogate,
    importance_weight,
    off_policy_mask,
    reinforce,
    soft_clipped_surrogate,
    weighted_reinforce,
)
from jaxevo.losses.preference import (
    direct_preference,
    identity_preference,
    kl_baseline,
    pair_mean,
    prospect_preference,
    sequence_logp,
    simple_preference,
)
from jaxevo.losses.reduce import (
    constant_norm,
    masked,
    ratio,
    seq_mean_token_mean,
    seq_mean_token_sum,
    sum_norm,
    token_mean,
)
from jaxevo.losses.routing import certainty_weight
from jaxevo.losses.value import clipped_error

__all__ = [
    "categorical_kl",
    "certainty_weight",
    "clipped_error",
    "clipped_surrogate",
    "constant_norm",
    "contrast_reward",
    "direct_preference",
    "entropy",
    "entropy_quantile_mask",
    "evidence_weight",
    "identity_preference",
    "importance_weight",
    "kl_baseline",
    "kl_penalty",
    "masked",
    "off_policy_mask",
    "pair_mean",
    "prospect_preference",
    "ratio",
    "reinforce",
    "sampled_reverse_kl",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "sequence_logp",
    "simple_preference",
    "soft_clipped_surrogate",
    "sum_norm",
    "token_mean",
    "weighted_reinforce",
]
