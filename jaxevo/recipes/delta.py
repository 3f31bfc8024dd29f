"""DelTA: discriminative token credit assignment (arXiv 2605.21467)."""

from __future__ import annotations

import dataclasses

from jaxevo.advantages import group_advantage, weighed_advantage
from jaxevo.advantages.discriminant import refuse_range
from jaxevo.collect.coefficients import discriminated
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def delta(
    *,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.1,
    max_grad_norm: float = 1.0,
    refinements: int = 1,
    low: float = 0.8,
    high: float = 1.2,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
    overlong: float = 0.2,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 4,
) -> Recipe:
    """GRPO whose tokens count more the better they tell good rows from bad ones.

    Before a round's updates each token has a direction v = (1 - p) h, its own part of the gradient
    at the unembedding; mu+ and mu- are the means of v over rows of positive and negative advantage,
    weighed by it. l = low + (high - low) s(M / g), M how much nearer v is to its own side's mean
    than to the other's, g the std of M on that side, s the logistic function; l over its mean
    multiplies the advantage. Against GRPO: what all answers share, such as their form, pulls less.

    Differs from the paper: means, std and normalisation are over the whole round, not per device;
    a round in which all rows with an advantage are on one side has coefficients of 1 (the code
    keeps a mean of 0 for the empty side).

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      refinements: times that the means are taken anew, weighed by s; each round reads its rows
        refinements + 3 times.
      low: coefficient, before normalisation, of tokens without advantage, and the least one.
      high: the largest one; equal to low it is GRPO.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      dual_clip: bound on the ratio for negative advantages.
      overlong: share of the longest answer over which a penalty grows to 1: 4096 of 20480 tokens;
        0 for off.
      correction: importance weights between sampler and trainer, see grpo.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2605.21467 and its official code.
    """
    refuse_range(refinements, low, high)
    plain = policy_objective(
        advantage=bind(group_advantage),
        surrogate=bind(
            policy_gradient, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip
        ),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        correction=correction,
        correction_cap=correction_cap,
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    objective = dataclasses.replace(plain, advantage=bind(weighed_advantage, of=plain.advantage))
    wave = bind(
        discriminated,
        wave=bind(single_turn, overlong=overlong),
        like=plain,
        refinements=refinements,
        low=low,
        high=high,
    )
    return Recipe("delta", wave, (objective,), parameter_sets(objective))
