"""GSPO: group sequence policy optimisation (arXiv 2507.18071)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def gspo(
    *,
    learning_rate: float = 1e-6,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    level: Literal["sequence", "sequence_token"] = "sequence",
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 4,
) -> Recipe:
    """GRPO with one ratio per answer: the geometric mean of its tokens' ratios.

    s_i = exp(mean_t(l - l_old)) in the place of r under the clipped surrogate, averaged over the
    answers; A_i = (R_i - mean_G R) / (std_G R + 1e-6).

    Differs from the paper: std with ddof 1.

    Args:
      learning_rate: AdamW step size per update.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      level: the ratio of a row as a whole, or with a gradient through each token's own log-prob
        (GSPO-token); one gradient as long as a row has one advantage.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2507.18071, equations 5 to 7 and 13.
    """
    objective = policy_objective(
        advantage=bind(group_advantage),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high, level=level),
        reduce=reducer("seq_mean_token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("gspo", bind(single_turn), (objective,), parameter_sets(objective))
