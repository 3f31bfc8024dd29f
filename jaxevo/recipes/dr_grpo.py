"""Dr. GRPO: GRPO without its two divisions (arXiv 2503.20783)."""

from __future__ import annotations

from jaxevo.advantages import group_advantage
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import constant_norm
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def dr_grpo(
    *,
    learning_rate: float = 1e-6,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    norm_length: float = 3000.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
) -> Recipe:
    """GRPO whose advantages have no std, and whose token sums no lengths, to divide by.

    A_i = R_i - mean_G R at every token of answer i, under the clipped surrogate
    max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), summed over tokens and divided by N L.

    Differs from the paper: nothing but the length, which is an option.

    Args:
      learning_rate: AdamW step size per update.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      norm_length: L in tokens, the same in all rounds; the official code has its longest answer.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2503.20783, section 3.
    """
    objective = policy_objective(
        advantage=bind(group_advantage, scale="none"),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high),
        reduce=bind(constant_norm, length=norm_length),
        optimizer=bind(adamw, learning_rate=learning_rate),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    return Recipe("dr-grpo", bind(single_turn), (objective,), parameter_sets(objective))
