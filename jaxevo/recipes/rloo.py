"""RLOO: REINFORCE against the other answers' mean (arXiv 2402.14740)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import leave_one_out_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.policy import RatioLevel
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def rloo(
    *,
    learning_rate: float = 1e-6,
    ratio: Literal["token", "answer"] = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_weight: float = 0.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Prefers answers better than the mean of the other answers to the same problem.

    A_i = R_i - (sum_G R - R_i) / (G - 1), token sums averaged over answers. A single update per
    round has ratio 1 and the gradient of REINFORCE; more are clipped, by token or by answer.

    Differs from the paper: the KL is a term with the gradient of KL(pi || reference) (k2), not part
    of the reward.

    Args:
      learning_rate: AdamW step size per update.
      ratio: what is clipped: each token's own ratio, or the answer's, their product (TRL).
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      kl_weight: coefficient of the k2 KL to the frozen start weights; 0 drops the set.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2402.14740, section 3.
    """
    # All tokens of an answer have its ratio and its loss, whose mean has the gradient of their sum.
    level: RatioLevel = "sequence_sum" if ratio == "answer" else "token"
    reduction: Reduction = "seq_mean_token_mean" if ratio == "answer" else "seq_mean_token_sum"
    objective = policy_objective(
        advantage=bind(leave_one_out_advantage),
        surrogate=bind(policy_gradient, level=level, clip_low=clip_low, clip_high=clip_high),
        reduce=reducer(reduction),
        optimizer=bind(adamw, learning_rate=learning_rate),
        kl_weight=kl_weight,
        kl_estimator="k2",
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("rloo", bind(single_turn), (objective,), parameter_sets(objective))
