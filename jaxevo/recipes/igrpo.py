"""iGRPO: GRPO on answers to the problem and its best draft (arXiv 2602.09000)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage
from jaxevo.collect.refine import draft_then_refine, refinement_sizes
from jaxevo.losses.credit import Correction, Truncation
from jaxevo.losses.policy import RatioLevel
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.losses.terms import policy_gradient
from jaxevo.objectives import parameter_sets, policy_objective
from jaxevo.optimizers import adamw
from jaxevo.types import Recipe, bind


def igrpo(
    *,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    drafts: int = 4,
    draft_tokens: int | None = None,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    level: RatioLevel = "token",
    scale: Literal["std", "none", "batch"] = "std",
    reduction: Reduction = "seq_mean_token_mean",
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
) -> Recipe:
    """Drafts first, then GRPO on answers to the problem with its best draft in the prompt.

    N drafts d of each problem q; the best one, argmax R(d), goes behind the question, q' = (q, d);
    G answers to q' are a group of GRPO, A_i = (R_i - mean_G R) / (std_G R + 1e-6), with ratios and
    KL under q'. Drafts are not learnt from. Of drafts that are right with probability V the best
    one is right with 1 - (1 - V)^N, so that what is shown gets better with the policy. Against
    GRPO: attempts that were thrown away become something to improve on; N + G of `drafts` and
    `--samples` are the rollouts of a problem, where GRPO has G. Evaluation sees q alone.

    Differs from the paper: the rule to improve on a draft stands beside it, not in a system prompt
    of both stages; rewards are the run's verifiers', without a format reward unless the task has
    one; the rate is constant after its warm-up. DAPO's loss is `clip_high=0.28,
    reduction=token_mean`, GSPO's `level=sequence, clip_low=3e-4, clip_high=4e-4`.

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up (paper: a tenth of all).
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      drafts: N, drafts of a problem, at least 1.
      draft_tokens: longest draft that is shown whole; a longer one is shown without its beginning.
        None for the run's longest answer.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      dual_clip: bound on the ratio for negative advantages, none for off.
      level: whose ratio is clipped: a token's, or the answer's as gspo and rloo have it.
      scale: what group advantages are divided by.
      reduction: how per-token losses become one number.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      kl_weight: coefficient of the KL to the frozen start weights; 0 drops the set.
      kl_estimator: per-token KL estimator; k3 is the paper's.
      entropy_weight: coefficient of the entropy bonus in nats per token.
      correction: importance weights between sampler and trainer, see grpo. --off-policy needs one.
      correction_cap: the largest importance weight.
      correction_floor: the smallest one; lower ones are raised to it or, with mask, become 0.
      drop_above: as in grpo, none for off.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      epochs: passes over each round's rows.
      minibatches: updates per epoch; groups stay whole.

    References:
      arXiv 2602.09000.
    """
    if drafts < 1:
        raise ValueError(f"--drafts is {drafts}, but must be at least 1.")
    objective = policy_objective(
        advantage=bind(group_advantage, scale=scale),
        surrogate=bind(
            policy_gradient,
            clip_low=clip_low,
            clip_high=clip_high,
            dual_clip=dual_clip,
            level=level,
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
    return Recipe(
        "igrpo",
        bind(draft_then_refine, drafts=drafts, draft_tokens=draft_tokens),
        (objective,),
        params=parameter_sets(objective),
        sizes=bind(refinement_sizes, draft_tokens=draft_tokens),
    )
