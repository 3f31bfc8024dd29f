"""SAGE: GRPO with hints that the policy writes itself (arXiv 2602.03143)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxevo.advantages import group_advantage
from jaxevo.collect import hints as wave
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def sage(
    *,
    light: bool = False,
    levels: int = 3,
    attempts: int = 3,
    success: float = 0.5,
    raise_below: float = 0.1,
    lower_above: float = 0.35,
    context_tokens: int = 256,
    writer_tokens: int = 1024,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    scale: Literal["std", "none", "batch"] = "std",
    reduction: Reduction = "token_mean",
    norm_length: float | None = None,
    kl_weight: float = 0.0,
    kl_estimator: Literal["k1", "k2", "k3"] = "k3",
    entropy_weight: float = 0.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    epochs: int = 1,
    minibatches: int = 2,
) -> Recipe:
    """GRPO where a problem that all answers fail is asked again with hints of the policy's own.

    A group that fails as a whole has no gradient. The policy then sees the reference solution and
    writes hints h of three levels; G answers to (x, h) take the group's place, level by level until
    one is right, and are learnt under (x, h). With probability p of a right answer a group teaches
    with 1 - (1 - p)^G - p^G (`undecided_chance`), most at p = 1/2, where a good hint brings it.
    `light` asks once: with the level that the problem's last visit calls for, which is remembered.
    Hints are rollouts of role `hint`, one each where they can be read; evaluation has none.

    Differs from the paper: hints are sampled at the run's temperature; solved is an accuracy of at
    least `success` (paper: a reward above 0, the same for rewards of 0 and 1); std with ddof 1. As
    the code, light also lowers a level; the paper raises it below 0.35 and never lowers it. Models
    of characters, who cannot write JSON, are shown `[answer]question`: what they write is the hint.

    Args:
      light: one group of answers per problem and round, at a remembered level, in the place of up
        to four; levels begin at 0.
      levels: highest level of hint, 1 to 3.
      attempts: generations for a problem's hints at most, where none can be read.
      success: least accuracy of an answer that is right.
      raise_below: light: share of right answers up to which the next visit has a level more.
      lower_above: light: share above which it has a level less.
      context_tokens: longest prompt with a hint (paper: 2048); a level that exceeds it is left out.
      writer_tokens: longest prompt of the hints' writer; a longer solution loses its middle.
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      scale: what group advantages are divided by.
      reduction: how per-token losses become one number.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      kl_weight: coefficient of the KL to the frozen start weights, both under (x, h); 0 drops it.
      kl_estimator: per-token KL estimator.
      entropy_weight: coefficient of the entropy bonus in nats per token.
      correction: importance weights between sampler and trainer, see grpo. --off-policy needs one.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2602.03143 and its official code.
    """
    how = wave.HintOptions(
        levels=levels,
        attempts=attempts,
        success=success,
        context_tokens=context_tokens,
        writer_tokens=writer_tokens,
    )
    objective = policy_objective(
        advantage=bind(group_advantage, scale=scale),
        surrogate=bind(policy_gradient, clip_low=clip_low, clip_high=clip_high),
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
        truncation=truncation,
        epochs=epochs,
        minibatches=minibatches,
    )
    plain = Recipe(
        "sage",
        bind(wave.hint_on_failure, how=how),
        (objective,),
        params=parameter_sets(objective),
        sizes=bind(wave.hint_sizes, how=how),
        needs=bind(wave.needs_references),
    )
    if not light:
        return plain
    bounds = {"raise_below": raise_below, "lower_above": lower_above}
    return dataclasses.replace(
        plain,
        collect=bind(wave.hint_by_level, how=how, **bounds),
        grow=bind(wave.remember_levels, success=success),
        memory=bind(wave.HintLevels),
    )
