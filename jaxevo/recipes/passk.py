"""pass@k: learning for the best of k answers (arXiv 2503.19595)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import best_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def passk(
    *,
    learning_rate: float = 1e-6,
    scale: Literal["std", "none"] = "std",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """Only the best of k = G answers learns, by its lead over the second best.

    A_best = (R_max - R_second) / (std_G R + 1e-6), 0 for all others, under the clipped surrogate,
    token mean: with it the best of a group, not the mean, is what rises.

    Differs from the paper: k is G, and scaled by the std as in verl.

    Args:
      learning_rate: AdamW step size per update.
      scale: whether the lead is divided by the std of the group.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2503.19595.
    """
    objective = policy_objective(
        advantage=bind(best_advantage, scale=scale),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high),
        reduce=reducer("token_mean"),
        optimizer=bind(adamw, learning_rate=learning_rate),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("passk", bind(single_turn), (objective,), parameter_sets(objective))
