"""GRPO: group-relative policy optimisation (arXiv 2402.03300)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage
from jaxevo.collect.curriculum import SuccessRates, by_success, needs_parts, remember_rates
from jaxevo.collect.judging import judge, judge_sizes
from jaxevo.collect.waves import judged, single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Bound, Recipe, bind


def grpo(
    *,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    scale: Literal["std", "none", "batch"] = "std",
    reduction: Reduction = "token_mean",
    norm_length: float | None = None,
    kl_weight: float = 0.0,
    kl_estimator: Literal["k1", "k2", "k3"] = "k3",
    entropy_weight: float = 0.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    correction_floor: float | None = None,
    drop_above: float | None = None,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 1,
    curriculum: float = 0.0,
    judge_weight: float = 0.0,
    judge_tokens: int = 1024,
) -> Recipe:
    """Samples a group of answers per problem and prefers those better than their group's mean.

    A_i = (R_i - mean_G R) / (std_G R + 1e-6), given to every token of answer i, under the clipped
    surrogate max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), r = pi / pi_old.

    Differs from the paper: std with ddof 1, token-mean aggregation and no KL term by default, as
    TRL and verl have it today (`kl_weight=0.04`, `reduction="seq_mean_token_mean"` restore them).

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops (DAPO: 0.28).
      dual_clip: bound on the ratio for negative advantages, none for off (verl: 3.0).
      scale: what group advantages are divided by; none is Dr.GRPO (arXiv 2503.20783).
      reduction: how per-token losses become one number; Dr.GRPO's is constant_norm.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      kl_weight: coefficient of the KL to the frozen start weights (paper: 0.04); 0 drops the set.
      kl_estimator: per-token KL estimator; k3 is the paper's.
      entropy_weight: coefficient of the entropy bonus in nats per token.
      correction: importance weights between sampler and trainer, per token or sequence, cut at the
        cap (TIS) or, with mask, 0 above it (MIS; TRL: sequence_mask). --off-policy needs one.
      correction_cap: the largest importance weight (verl, Tunix: 2; TRL: 3).
      correction_floor: the smallest one; lower ones are raised to it or, with mask, become 0.
      drop_above: answers of negative advantage teach nothing where the mean of sampler's minus
        current log-prob is above this (arXiv 2512.02556), none for off.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.
      curriculum: above 0, the parts of a mixture are asked in proportion to p (1 - p) plus this
        floor, p the part's success rate (usually 0.05); 0 keeps the mixture's own proportions.
      judge_weight: what full marks by the start weights as a judge add to a reward; 0 for no judge.
      judge_tokens: longest prompt of the judge; longer answers are shown without their beginning.

    References:
      arXiv 2402.03300, equations 3 and 4.
    """
    if curriculum < 0:
        raise ValueError(f"--curriculum is {curriculum}, but must be at least 0.")
    objective = policy_objective(
        advantage=bind(group_advantage, scale=scale),
        surrogate=bind(
            policy_gradient, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
        ),
        reduce=reducer(reduction, length=norm_length),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        kl_weight=kl_weight,
        kl_estimator=kl_estimator,
        entropy_weight=entropy_weight,
        correction=correction,
        correction_cap=correction_cap,
        correction_floor=correction_floor,
        drop_above=drop_above,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    wave, rest = bind(single_turn), dict[str, Bound]()
    if curriculum:
        wave = bind(by_success, floor=curriculum)
        rest |= {
            "grow": bind(remember_rates),
            "memory": bind(SuccessRates),
            "needs": bind(needs_parts),
        }
    if judge_weight:
        marks = bind(judge, params="reference", weight=judge_weight, prompt_tokens=judge_tokens)
        wave = bind(judged, wave=wave, judge=marks)
        rest["sizes"] = bind(judge_sizes, prompt_tokens=judge_tokens)
    params = parameter_sets(objective, also=("reference",) if judge_weight else ())
    return Recipe("grpo", wave, (objective,), params=params, **rest)
