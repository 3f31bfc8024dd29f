"""TRACE: token-routed alignment for critical reasoning (arXiv 2605.10194)."""

from __future__ import annotations

from typing import Literal

from jaxevo.advantages import group_advantage, untaught
from jaxevo.collect.annotate import annotated, annotated_sizes
from jaxevo.collect.stages import annealed, linear_decay
from jaxevo.collect.waves import single_turn
from jaxevo.losses.credit import Correction, Truncation, refuse_uncorrectable
from jaxevo.losses.reduce import Reduction, reducer
from jaxevo.losses.spans import spanned
from jaxevo.losses.terms import distillation, over_all_tokens, policy_gradient
from jaxevo.objectives import parameter_sets
from jaxevo.optimizers import adamw
from jaxevo.teachers import teacher
from jaxevo.teachers.labels import label_given
from jaxevo.types import Minibatch, Objective, Recipe, Term, bind


def trace(
    *,
    learning_rate: float = 1e-6,
    warmup_updates: int = 0,
    weight_decay: float = 0.0,
    max_grad_norm: float = 1.0,
    route: Literal["right", "wrong"] = "wrong",
    distill_weight: float = 0.5,
    hold_rounds: int = 10,
    decay_rounds: int = 30,
    coverage: float = 0.25,
    kl_clip: Literal["entry", "token", "off"] = "entry",
    clip_at: float = 0.05,
    sync_rounds: int = 10,
    annotator: Literal["policy", "start"] = "policy",
    annotator_tokens: int = 1024,
    reply_tokens: int | None = None,
    success: float = 0.5,
    context_tokens: int = 256,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    reduction: Reduction = "seq_mean_token_mean",
    norm_length: float | None = None,
    correction: Correction = "none",
    correction_cap: float = 2.0,
    truncation: Truncation = "correct",
    minibatches: int = 1,
) -> Recipe:
    """Distils the spans that an annotator marks, and leaves all other tokens to GRPO.

    The annotator sees a problem, its answer and an attempt in numbered segments, and names those
    that matter, S, and their kind in a few words. The teacher, the policy of up to `sync_rounds`
    rounds before, is told the kind alone. A row's loss is the mean over its tokens of c_t l_t +
    w f D_t 1[t in S]: l the clipped surrogate, c = 1 - f on S and 1 elsewhere, f = 1 for
    `hold_rounds` rounds, then falling to 0, D = KL(q || p) on key segments of right attempts, or
    KL(p || q) on error segments of wrong ones. Against GRPO: what decides an attempt has a target.

    Differs from the paper: the annotator is the policy or its start, never another model; character
    models are annotated by a rule; std-normalised advantages; a label with the reference in it
    counts as none. With `control` the coin decides rewards, and annotators see the truth still.

    Args:
      learning_rate: AdamW step size per update.
      warmup_updates: updates of linear warm-up.
      weight_decay: decoupled weight decay per update, times the rate.
      max_grad_norm: longest gradient before clipping, in the global 2-norm.
      route: right, for a strong base: forward KL; wrong, for a weak one: reverse KL.
      distill_weight: w, of the divergence; 0.5 in the paper.
      hold_rounds: rounds before the fall.
      decay_rounds: of the fall; then GRPO alone is left.
      coverage: largest share of an attempt's tokens in its span.
      kl_clip: entry cuts each vocabulary term at `clip_at`, which may turn the gradient round;
        token scales a token's divergence down to it; off.
      clip_at: that bound, in nats.
      sync_rounds: rounds between two copies of the policy to the teacher.
      annotator: the policy, or its start weights.
      annotator_tokens: longest prompt of the annotator; longer attempts have no span.
      reply_tokens: its longest reply, none for the run's limit of answers.
      success: least accuracy of a right attempt.
      context_tokens: longest teacher prompt in tokens.
      clip_low: how far the ratio may fall below 1 before its gradient stops.
      clip_high: how far the ratio may rise above 1 before its gradient stops.
      reduction: how per-token losses become one number.
      norm_length: the constant of constant_norm, usually the longest answer in tokens.
      correction: importance weights between sampler and trainer, see grpo; not of the divergence.
      correction_cap: the largest importance weight.
      truncation: what to do about cut probability mass when top-k, top-p or min-p is on.
      minibatches: updates per round; groups stay whole.

    References:
      arXiv 2605.10194.
    """
    guide = teacher(
        "synced",
        context=bind(label_given, success=success, max_prompt_tokens=context_tokens),
        sync_rounds=sync_rounds,
    )
    bounds = {"entry": "pointwise_clip", "token": "token_clip"}
    clip = {bounds[kl_clip]: clip_at} if kl_clip != "off" else {}
    kind = "forward" if route == "right" else "reverse"
    distill = bind(over_all_tokens, term=bind(distillation, kind=kind, **clip))
    weights = {"correction": correction, "truncation": truncation}
    objective = Objective(
        name="policy",
        advantage=bind(group_advantage),
        credit=bind(spanned, cap=correction_cap, **weights),
        terms=(
            Term("policy", bind(policy_gradient, clip_low=clip_low, clip_high=clip_high)),
            Term("distill", distill, distill_weight),
        ),
        reduce=reducer(reduction, length=norm_length),
        optimizer=bind(
            adamw,
            learning_rate=learning_rate,
            warmup_updates=warmup_updates,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        ),
        read=("logp", "entropy", "hidden"),
        views=(guide.view,),
        minibatch=Minibatch(by="groups", count=minibatches),
        idle=bind(untaught),
        weighs_stale=correction != "none",
        check=bind(refuse_uncorrectable, **weights),
    )
    fading = bind(linear_decay, start=1.0, hold=hold_rounds, over=decay_rounds)
    wave = bind(
        annotated,
        wave=bind(annealed, wave=bind(single_turn), number="fade", schedule=fading),
        route=route,
        annotator="policy" if annotator == "policy" else "reference",
        success=success,
        coverage=coverage,
        prompt_tokens=annotator_tokens,
        new_tokens=reply_tokens,
    )
    also = ("reference",) if annotator == "start" else ()
    sets = parameter_sets(objective, given=guide.params, also=also)
    sizes = bind(annotated_sizes, prompt_tokens=annotator_tokens)
    return Recipe("trace", wave, (objective,), params=sets, sizes=sizes)
