"""REINFORCE++: one baseline for the whole batch (arXiv 2501.03262)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import whitened_return_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def reinforce_pp(
    *,
    learning_rate: float = 1e-6,
    baseline: Literal["none", "group"] = "none",
    gamma: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    kl_weight: float = 0.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Whitens the return of every token over the whole batch, without a group or a critic.

    A_t = (rho_t - mean) / std over all tokens of the batch, rho_t = gamma^(T - t) R, under the
    clipped surrogate, token mean.

    Differs from the paper: the KL is a term (k2), as in the baseline form, not part of the reward.

    Args:
      learning_rate: AdamW step size per update.
      baseline: group takes rewards above their group's mean first (REINFORCE++-baseline).
      gamma: discount of the reward, per token before the last one.
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
      arXiv 2501.03262.
    """
    objective = policy_objective(
        advantage=bind(whitened_return_advantage, baseline=baseline, gamma=gamma),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high),
        reduce=reducer("token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate),
        kl_weight=kl_weight,
        kl_estimator="k2",
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("reinforce-pp", bind(single_turn), (objective,), parameter_sets(objective))
