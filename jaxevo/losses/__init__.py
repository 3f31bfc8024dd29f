"""Losses per token, and how they become one number.

Pure functions on plain arrays (numpy or jax in, jax out), in float32, that can be jitted and
differentiated without any trainer. A loss returns one value per token; a reducer turns values and
mask into a (numerator, denominator) pair; `ratio` divides once, at the end:

    loss_NA = clipped_surrogate(logp_NA, old_NA, advantage_NA, mask_NA=mask_NA)
    loss = ratio(*token_mean(loss_NA, mask_NA))

A loss given a mask ignores what stands under mask 0 altogether, NaN included: neither its value
nor its gradient can see it. `terms` and `credit` hold the same as the parts of an `Objective`.
"""

from jaxevo.losses.divergence import categorical_kl, entropy
from jaxevo.losses.entropy_band import entropy_quantile_mask
from jaxevo.losses.kl import kl_penalty, sampled_reverse_kl
from jaxevo.losses.policy import clipped_surrogate, importance_weight, reinforce
from jaxevo.losses.reduce import (
    constant_norm,
    masked,
    ratio,
    seq_mean_token_mean,
    seq_mean_token_sum,
    sum_norm,
    token_mean,
)

__all__ = [
    "categorical_kl",
    "clipped_surrogate",
    "constant_norm",
    "entropy",
    "entropy_quantile_mask",
    "importance_weight",
    "kl_penalty",
    "masked",
    "ratio",
    "reinforce",
    "sampled_reverse_kl",
    "seq_mean_token_mean",
    "seq_mean_token_sum",
    "sum_norm",
    "token_mean",
]
