"""DAPO: decoupled clip and dynamic sampling (arXiv 2503.14476)."""

from __future__ import annotations

from jaxevo.advantages import entropy_band_advantage, group_advantage
from jaxevo.collect.waves import undecided_groups
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def dapo(
    *,
    learning_rate: float = 1e-6,
    warmup_updates: int = 20,
    weight_decay: float = 0.1,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    extra_waves: int = 10,
    overlong: float = 0.2,
    mask_truncated: bool = False,
    entropy_share: float = 1.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 16,
) -> Recipe:
    """GRPO on groups that disagree: others are dropped, and new problems asked in their place.

    R = score + min(0, -(n - (L - buffer)) / buffer), n tokens of at most L; A_i = (R_i - mean_G R)
    / (std_G R + 1e-6) under the surrogate with clip_high > clip_low; token mean; no KL. A group
    stays where its scores, without the penalty, are not all equal.

    Differs from the paper: std with ddof 1, scores in [0, 1], not -1 and 1; where all waves give no
    more than some groups, the round learns from these.

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      dual_clip: bound on the ratio for negative advantages.
      extra_waves: most further draws of P problems in a round; 0 trains on what disagrees at once.
      overlong: share of the longest answer that is its buffer: 4096 of 20480 tokens; 0 for off.
      mask_truncated: answers that reached the limit teach nothing; they count in their group.
      entropy_share: share of the round's tokens, those of highest entropy, that learn; 0.2 is that
        of arXiv 2506.01939.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS). --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2503.14476, equations 8 to 13, and its official code.
    """
    surrogate = bind(policy_gradient, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)
    advantage = bind(group_advantage)
    if entropy_share < 1:
        advantage = bind(entropy_band_advantage, of=advantage, keep=entropy_share)
    objective = policy_objective(
        advantage=advantage,
        surrogate=surrogate,
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
        ),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    wave = bind(
        undecided_groups,
        extra_waves=extra_waves,
        overlong=overlong,
        mask_truncated=mask_truncated,
        entropies=entropy_share < 1,
    )
    return Recipe("dapo", wave, (objective,), parameter_sets(objective))
