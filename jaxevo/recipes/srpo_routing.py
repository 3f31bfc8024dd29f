"""SRPO: group-relative and self-distillation updates by sample routing (arXiv 2604.02288)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage, untaught
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation, refuse_uncorrectable
from jaxevo.losses.reduce import reducer
from jaxevo.losses.routing import certainty_sums, routed
from jaxevo.losses.terms import over_all_tokens, policy_gradient
from jaxevo.objectives import Divergence, divergence, parameter_sets
from jaxevo.optimizers import adamw
from jaxevo.teachers import Weights, reprompt, teacher
from jaxevo.types import Minibatch, Objective, Recipe, Term, bind


def srpo_routing(
    *,
    learning_rate: float = 5e-6,
    warmup_updates: int = 10,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    scale: Literal["std", "none", "batch"] = "none",
    kind: Divergence = "js",
    alpha: float = 0.5,
    distill_top_k: int | None = 100,
    tail: bool = True,
    beta: float = 1.0,
    teacher_weights: Weights = "ema",
    teacher_rate: float = 0.05,
    sync_rounds: int = 50,
    feedback: Literal["without_solution", "always", "never"] = "never",
    success: float = 0.5,
    context_tokens: int = 256,
    ratio_cap: float = 2.0,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    minibatches: int = 1,
) -> Recipe:
    """Failed attempts with a solved sibling learn from a teacher that sees it, all others by GRPO.

    A row is routed to the teacher when it failed and another row of its group succeeded. There it
    learns SDPO's divergence at each token, weighed by exp(-beta H) over its mean, H the teacher's
    entropy; elsewhere GRPO's clipped surrogate, whose group means have all rows in them. Both are
    divided by the tokens of all rows. Against GRPO: failures are told what would have been right,
    token by token; against SDPO: what succeeded is not pulled towards another success.

    Differs from the paper: advantages are not divided by their std, as its section on the
    implementation has it and its equation has not (`scale=std`); success is read off the first
    part of the reward, without bonus or penalty; the mean of the weights is over one update.

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      scale: what group advantages are divided by.
      kind: divergence between policy and teacher, see sdpo.
      alpha: weight of the teacher in the js mixture, in (0, 1); other kinds ignore it.
      distill_top_k: support of the divergence, the policy's k likeliest tokens; none for all.
      tail: keep the rest of the mass as one bucket instead of renormalising.
      beta: how much more the teacher's certain tokens count; 0 weighs all alike.
      teacher_weights: ema of the policy, frozen start weights, the live policy, or synced from
        time to time; trust_region has no entropy and needs beta 0.
      teacher_rate: EMA rate per round; of a trust_region the live logits' share.
      sync_rounds: rounds between two copies of a synced teacher.
      feedback: whether the verifier's text on a failed attempt stands for a missing solution too.
      success: least accuracy of an attempt that succeeded.
      context_tokens: longest teacher prompt in tokens.
      ratio_cap: bound on p / p_old, by which the divergence is multiplied.
      correction: importance weights between sampler and trainer, see grpo.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      minibatches: updates per round; groups stay whole.

    References:
      arXiv 2604.02288.
    """
    distill, read = divergence(kind, alpha=alpha, top_k=distill_top_k, tail=tail)
    guide = teacher(
        teacher_weights,
        context=bind(
            reprompt,
            use_feedback=feedback,
            success=success,
            failed_only=True,
            max_prompt_tokens=context_tokens,
        ),
        read=(*read, "entropy") if beta else read,
        rate=teacher_rate,
        sync_rounds=sync_rounds,
    )
    weights = {"correction": correction, "truncation": truncation}
    objective = Objective(
        name="policy",
        advantage=bind(group_advantage, scale=scale),
        credit=bind(routed, beta=beta, ratio_cap=ratio_cap, cap=correction_cap, **weights),
        terms=(
            Term("policy", bind(policy_gradient, clip_low=clip_low, clip_high=clip_high)),
            Term("distill", bind(over_all_tokens, term=distill)),
        ),
        reduce=reducer("token_mean"),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        read=tuple(dict.fromkeys(("logp", "entropy", *read))),
        views=(guide.view,),
        minibatch=Minibatch(by="groups", count=minibatches),
        sums=bind(certainty_sums, view="teacher", beta=beta) if beta else None,
        idle=bind(untaught),
        weighs_stale=correction != "none",
        check=bind(refuse_uncorrectable, **weights),
    )
    sets = parameter_sets(objective, given=guide.params)
    return Recipe("srpo-routing", bind(single_turn), (objective,), params=sets)
